//! From the source to a durable state.

use std::path::{Path, PathBuf};

use trivet_datastore::Revision;

use super::{ImportError, ImportOptions, ImportReport, ImportSource, Progress, failed};
use crate::etcd_snapshot::entry::Change;
use crate::etcd_snapshot::read::{Etcd, Head, SourceFile};
use crate::etcd_snapshot::wal::Tail;
use crate::open::STATE_DIR;
use crate::state::{AlarmAction, Builder, Command, Seed, StateConfig};

/// The database below a member's directory.
const DATABASE: &str = "snap/db";
/// Its log.
const LOG: &str = "wal";
/// Keys named in a report.
const NOTED_KEYS: usize = 100;

/// Builds the state below `store`, durably.
pub(super) fn build(
    options: &ImportOptions,
    store: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<ImportReport, ImportError> {
    let member = match &options.source {
        ImportSource::Snapshot { .. } => None,
        ImportSource::MemberDir(dir) => Some(member_dir(dir)?),
    };
    let (file, length) = match (&options.source, &member) {
        (
            ImportSource::Snapshot {
                file,
                skip_hash_check,
            },
            _,
        ) => {
            let file = SourceFile::open(file)?;
            file.lock()?;
            let length = file.verify(*skip_hash_check, progress)?;
            (file, length)
        }
        (ImportSource::MemberDir(dir), member) => {
            let file = SourceFile::open(&member.as_deref().unwrap_or(dir).join(DATABASE))?;
            file.lock()?;
            let length = file.size_bytes();
            (file, length)
        }
    };
    let etcd = Etcd::open(&file, length)?;
    let head = etcd.head()?;
    // The log first: whether it fits is known quickly.
    let tail = match &member {
        Some(dir) => Tail::read(&dir.join(LOG), head.index)?,
        None => Tail::default(),
    };
    if head.auth_enabled && tail.len() > 0 {
        // Whether these were permitted when they were applied only the log before them tells.
        return Err(ImportError::Auth(file.path().to_owned()));
    }
    let (auth, auth_records) = etcd.auth(head.auth_enabled)?;
    let state_dir = store.join(STATE_DIR);
    let config = StateConfig::new(options.env.clone(), state_dir.clone());
    let mut builder =
        Builder::create(config).map_err(|error| ImportError::damaged(&state_dir, &error))?;
    etcd.load(&mut builder, progress)?;
    let kept = |source| failed(&state_dir, source);
    // Deletions at the end may have been compacted away, and an empty store is at 1.
    let revision = builder
        .revision()
        .max(head.compaction.unwrap_or_default())
        .max(Revision(1));
    let compaction = head.compaction.filter(|revision| revision.0 > 0);
    let seed = builder.seal(revision, compaction).map_err(kept)?;
    seed.set_auth(auth).map_err(kept)?;
    let alarms_left = replay(&seed, &head, &tail, file.path(), progress)?;
    if options.bump_revision > 0 {
        seed.skip_revisions(options.bump_revision)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidInput => ImportError::Revision(options.bump_revision),
                _ => kept(error),
            })?;
    }
    let (keys, versions) = seed.counts();
    let report = ImportReport {
        revision: seed.revision(),
        compact_revision: seed.compact_revision(),
        keys,
        versions,
        leases: seed.leases(),
        log_entries: tail.len(),
        auth_records,
        auth_enabled: head.auth_enabled,
        alarms_left,
        noted_keys: seed.keys(options.noted_prefix, NOTED_KEYS),
        cluster_id: 0,
        member_id: 0,
    };
    progress(Progress::Writing);
    seed.finish().map_err(kept)?;
    Ok(report)
}

/// The directory that holds database and log: given itself, or the data directory around it.
fn member_dir(dir: &Path) -> Result<PathBuf, ImportError> {
    for candidate in [dir.to_owned(), dir.join("member")] {
        if !candidate.join(DATABASE).is_file() {
            continue;
        }
        if candidate.join(LOG).is_dir() {
            return Ok(candidate);
        }
        // Without the log nobody knows what was acknowledged.
        let what = "the log beside it is missing (was it kept elsewhere, with --wal-dir?), and the database alone is behind what the cluster has acknowledged; take `etcdctl snapshot save`, or import the file snap/db as a snapshot without checksum if what it lacks does not matter";
        return Err(ImportError::damaged(&candidate, &what));
    }
    let what = "there is no member/snap/db in it: it is not the directory of an etcd";
    Err(ImportError::damaged(dir, &what))
}

/// Applies what the database lacks, under the alarms that were raised then; how many are left
/// behind at the end.
fn replay(
    seed: &Seed,
    head: &Head,
    tail: &Tail,
    path: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, ImportError> {
    if tail.len() > 0 {
        progress(Progress::Replaying {
            entries: tail.len(),
        });
    }
    let run = |command| seed.execute(command).map_err(|source| failed(path, source));
    for record in &head.alarms {
        if let Some(alarm) = record.raised() {
            let action = AlarmAction::Activate;
            // Raising one cannot be refused.
            drop(run(Command::Alarm { action, alarm })?);
        }
    }
    for change in tail.changes() {
        match change {
            // What etcd refused when it applied it is refused here for the same reason.
            Ok(Some(Change::Command(command))) => drop(run(command)?),
            Ok(Some(Change::Auth)) => return Err(ImportError::Auth(path.to_owned())),
            Ok(None) => {}
            Err(_) => {
                let what = "the log holds a request of a kind that is not known here; take `etcdctl snapshot save`";
                return Err(ImportError::damaged(path, &what));
            }
        }
    }
    Ok(seed.drop_alarms())
}
