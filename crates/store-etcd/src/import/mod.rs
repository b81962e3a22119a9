//! A new store from what a genuine etcd left: a snapshot, or the directory of a stopped member.
//!
//! The store is built beside its place and moved there when it is complete and durable: whatever
//! interrupts an import, no store is found where one is looked for. It is a cluster of its own
//! with one voter. The values did not come through the log, so the log begins behind them: a
//! member that joins later gets them as a snapshot.

mod build;
mod found;

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use trivet_datastore::{Error as StoreError, Revision};
use trivet_env::{Disk, Env};

use crate::backend::DIR;
use crate::format::Format;

/// Where a store is built, beside [`DIR`].
pub(crate) const UNFINISHED: &str = "trivet.importing";
/// The store below [`UNFINISHED`].
const STORE: &str = "store";
/// Locked by the import that works there.
const LOCK: &str = "LOCK";

/// What is taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportSource {
    /// A file made by `etcdctl snapshot save`, or a copy of a database file.
    Snapshot {
        /// The file.
        file: PathBuf,
        /// Take it without a checksum behind it, or whatever that says.
        skip_hash_check: bool,
    },
    /// The directory of a stopped etcd: its database and its log. It is not changed.
    MemberDir(PathBuf),
}

impl ImportSource {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Snapshot { file, .. } => file,
            Self::MemberDir(dir) => dir,
        }
    }
}

/// What to import, and where to.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The world.
    pub env: Env,
    /// `<data-dir>/server/db`; created when missing.
    pub db_dir: PathBuf,
    /// Where from.
    pub source: ImportSource,
    /// Skips so many revisions and makes all older ones unreadable, so that nobody takes what
    /// happens next for something he saw in the cluster before.
    pub bump_revision: u64,
    /// Keys that begin with this are named in the report.
    pub noted_prefix: &'static [u8],
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The checksum of a snapshot is computed.
    Checking {
        /// So far.
        done_bytes: u64,
        /// In all.
        total_bytes: u64,
    },
    /// Versions are read.
    Reading {
        /// So many so far.
        versions: u64,
        /// Bytes of them.
        bytes: u64,
    },
    /// Entries of the log that the database does not have are applied.
    Replaying {
        /// So many in all.
        entries: u64,
    },
    /// The state is made durable.
    Writing,
    /// The store becomes a cluster of its own.
    Founding,
}

/// What was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportReport {
    /// The newest revision.
    pub revision: Revision,
    /// The last compaction, 0 for none.
    pub compact_revision: Revision,
    /// Keys that exist.
    pub keys: u64,
    /// Versions that are not compacted, deletions included.
    pub versions: u64,
    /// Leases. Their time starts anew when the store does.
    pub leases: u64,
    /// Entries of the log that the database did not have.
    pub log_entries: u64,
    /// Users and roles.
    pub auth_records: u64,
    /// Whether clients must be known and permitted.
    pub auth_enabled: bool,
    /// Alarms that were left behind; they were of members of another cluster.
    pub alarms_left: u64,
    /// Keys with [`ImportOptions::noted_prefix`], the first hundred of them.
    pub noted_keys: Vec<Bytes>,
    /// Identity of the new cluster.
    pub cluster_id: u64,
    /// Identity of its member.
    pub member_id: u64,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The source is damaged, or not what it is said to be.
    #[error("{} cannot be imported: {what}", path.display())]
    Damaged {
        /// Which file or directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// There is no checksum behind the snapshot.
    #[error(
        "{} has no checksum behind it: it is no snapshot made by `etcdctl snapshot save`, or it is cut off. If it is a copy of a database file, made while no etcd was running, skip the check",
        .0.display()
    )]
    NoChecksum(PathBuf),
    /// The checksum behind the snapshot is another one.
    #[error("{} is damaged: its SHA-256 is not the one that was saved with it", .0.display())]
    ChecksumDiffers(PathBuf),
    /// An etcd uses the source.
    #[error(
        "{} is in use: stop the etcd there first, or take `etcdctl snapshot save` from it",
        .0.display()
    )]
    InUse(PathBuf),
    /// The log of a member beyond its database depends on users and roles.
    #[error(
        "{} is behind its log, and what the log adds depends on users and roles: start this etcd once and stop it, or take `etcdctl snapshot save` from it",
        .0.display()
    )]
    Auth(PathBuf),
    /// There is something where the store is to be.
    #[error(
        "{} is there already: an import only founds a new store. Move it away first",
        .0.display()
    )]
    Occupied(PathBuf),
    /// Another import works here.
    #[error("another import is working in {}", .0.display())]
    Busy(PathBuf),
    /// The revision would not fit.
    #[error("the revision cannot be raised by {0}")]
    Revision(u64),
    /// The new store did not come up.
    #[error("the store was built but could not be founded: {0}")]
    Store(StoreError),
}

impl ImportError {
    pub(crate) fn damaged(path: &Path, what: &dyn std::fmt::Display) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            what: what.to_string(),
        }
    }
}

/// Imports. Anything but `Ok` leaves nothing where a store is looked for.
pub async fn import(
    options: ImportOptions,
    progress: impl FnMut(Progress) + Send + 'static,
) -> Result<ImportReport, ImportError> {
    let site = {
        let (disk, db_dir) = (options.env.disk.clone(), options.db_dir.clone());
        blocking(move || Site::prepare(&*disk, &db_dir)).await?
    };
    let store = site.store();
    let (options, mut report, mut progress) = {
        let store = store.clone();
        let mut progress = progress;
        blocking(move || {
            let report = build::build(&options, &store, &mut progress)?;
            Ok((options, report, progress))
        })
        .await?
    };
    progress(Progress::Founding);
    let identity = found::found(&options.env, &store)
        .await
        .map_err(ImportError::Store)?;
    (report.cluster_id, report.member_id) = (identity.cluster_id, identity.member_id);
    let format = Format {
        imported_from: Some(printable(options.source.path())),
        ..identity
    };
    let disk = options.env.disk.clone();
    blocking(move || {
        format
            .store(&*disk, &store)
            .map_err(|source| failed(&store, source))?;
        site.finish(&*disk)
    })
    .await?;
    Ok(report)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImportError> + Send + 'static,
) -> Result<T, ImportError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn failed(path: &Path, source: io::Error) -> ImportError {
    ImportError::Io {
        path: path.to_owned(),
        source,
    }
}

/// The path on one line of a file, within its limit.
fn printable(path: &Path) -> String {
    const MAX_CHARS: usize = 1000;
    let text = path.display().to_string();
    let shown = text.chars().filter(|char| !char.is_control());
    shown.take(MAX_CHARS).collect()
}

/// The place where a store is built.
struct Site {
    db_dir: PathBuf,
    _lock: trivet_env::DiskLock,
}

impl Site {
    /// Makes room; what an interrupted import left goes.
    fn prepare(disk: &dyn Disk, db_dir: &Path) -> Result<Self, ImportError> {
        Self::check_vacant(disk, db_dir)?;
        let beside = db_dir.join(UNFINISHED);
        disk.create_dir_all(&beside)
            .map_err(|source| failed(&beside, source))?;
        let lock = disk.lock(&beside.join(LOCK)).map_err(|source| {
            if source.kind() == io::ErrorKind::WouldBlock {
                ImportError::Busy(beside.clone())
            } else {
                failed(&beside, source)
            }
        })?;
        let site = Self {
            db_dir: db_dir.to_owned(),
            _lock: lock,
        };
        match std::fs::remove_dir_all(site.store()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(&site.store(), error))
            }
            _ => Ok(site),
        }
    }

    fn store(&self) -> PathBuf {
        self.db_dir.join(UNFINISHED).join(STORE)
    }

    /// Nothing lies where the store is to be.
    fn check_vacant(disk: &dyn Disk, db_dir: &Path) -> Result<(), ImportError> {
        let place = db_dir.join(DIR);
        let vacant = match disk.read_dir(&place) {
            Ok(names) => names.is_empty(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => false,
            Err(error) => return Err(failed(&place, error)),
        };
        if vacant {
            Ok(())
        } else {
            Err(ImportError::Occupied(place))
        }
    }

    /// Moves the store to its place. The move is what makes it one.
    fn finish(self, disk: &dyn Disk) -> Result<(), ImportError> {
        Self::check_vacant(disk, &self.db_dir)?;
        let (store, place) = (self.store(), self.db_dir.join(DIR));
        let beside = self.db_dir.join(UNFINISHED);
        for dir in [&store, &beside] {
            disk.sync_dir(dir).map_err(|source| failed(dir, source))?;
        }
        // Fails if a server has begun one there meanwhile: only an empty directory is replaced.
        disk.rename(&store, &place)
            .map_err(|source| failed(&place, source))?;
        disk.sync_dir(&self.db_dir)
            .map_err(|source| failed(&self.db_dir, source))?;
        // What stays is an empty directory, which the next import would use.
        drop(std::fs::remove_dir_all(&beside));
        Ok(())
    }
}
