//! `trivet datastore import`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde::Serialize;
use trivet_datastore::Footprint;
use trivet_env::Env;
use trivet_legacy_reader::Directory;
use trivet_store_etcd::{
    DIR, ImportError, ImportOptions, ImportReport, ImportSource, NAME, Progress, UNFINISHED_IMPORT,
};

use crate::args::{ImportArgs, ImportFrom};
use crate::failure::Failure;
use crate::{backend, paths};

/// Pause between two lines about how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Where K3s keeps the encrypted keys of its cluster.
const K3S_BOOTSTRAP: &[u8] = b"/bootstrap/";

pub(crate) fn run(args: &ImportArgs) -> Result<(), Failure> {
    let data_dir = paths::data_dir(args.data_dir.as_deref());
    let db_dir = data_dir.join("server/db");
    let path = args.source.clone();
    let source = match args.from {
        ImportFrom::EtcdSnapshot => ImportSource::Snapshot {
            file: path,
            skip_hash_check: args.skip_hash_check,
        },
        ImportFrom::EtcdDir if args.skip_hash_check => {
            return Err(Failure::usage(
                "--skip-hash-check is for snapshots: a member directory has no checksum to skip",
            ));
        }
        ImportFrom::EtcdDir => ImportSource::MemberDir(path),
    };
    check_place(&db_dir, source.path())?;
    let options = ImportOptions {
        env: Env::real(),
        db_dir,
        source,
        bump_revision: args.bump_revision,
        noted_prefix: K3S_BOOTSTRAP,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failure::other)?;
    let mut teller = Teller(None);
    let imported = runtime.block_on(trivet_store_etcd::import(options, move |progress| {
        teller.tell(progress);
    }));
    match imported {
        Ok(report) => show(args, &data_dir, &report),
        Err(error @ ImportError::Occupied(_)) => Err(Failure::foreign(error)),
        Err(error) => Err(Failure::other(error)),
    }
}

/// The server's own rule: no store is founded over somebody else's data. What is being imported
/// may lie there, and so may what an interrupted import left.
fn check_place(db_dir: &Path, source: &Path) -> Result<(), Failure> {
    let dir = Directory::new(db_dir);
    let source = source.canonicalize().unwrap_or_else(|_| source.to_owned());
    let mut found: Vec<Footprint> = Vec::new();
    for backend in backend::all() {
        let footprints = backend.probe(&dir).map_err(|error| {
            Failure::other(anyhow!("cannot look into {}: {error}", db_dir.display()))
        })?;
        for footprint in footprints {
            // Of one place the first description stays, as in the server's check.
            if found.iter().all(|other| other.path != footprint.path) {
                found.push(footprint);
            }
        }
    }
    let is_source = |footprint: &Footprint| {
        let place = db_dir.join(&footprint.path);
        let place = place.canonicalize().unwrap_or(place);
        source.starts_with(place)
    };
    found.retain(|footprint| footprint.backend != UNFINISHED_IMPORT && !is_source(footprint));
    let Some(first) = found.first() else {
        return Ok(());
    };
    let place = db_dir.join(&first.path);
    if first.backend == NAME && first.path == Path::new(DIR) {
        return Err(Failure::foreign(ImportError::Occupied(place)));
    }
    let list: Vec<String> = found
        .iter()
        .map(|footprint| {
            let place = db_dir.join(&footprint.path);
            format!("{}: {}", place.display(), footprint.description)
        })
        .collect();
    Err(Failure::foreign(format!(
        "there is other data that a new store would leave behind: {}. Move it away first, or import that",
        list.join("; ")
    )))
}

/// Tells people how far it is, not too often.
struct Teller(Option<Instant>);

impl Teller {
    fn tell(&mut self, progress: Progress) {
        let often = matches!(
            progress,
            Progress::Checking { .. } | Progress::Reading { .. }
        );
        if often && self.0.is_some_and(|last| last.elapsed() < TELL_EVERY) {
            return;
        }
        self.0 = Some(Instant::now());
        match progress {
            Progress::Checking {
                done_bytes,
                total_bytes,
            } => eprintln!(
                "checking the snapshot: {} of {} MiB",
                done_bytes >> 20,
                total_bytes >> 20
            ),
            Progress::Reading { versions, bytes } => {
                eprintln!("reading: {versions} versions, {} MiB", bytes >> 20);
            }
            Progress::Replaying { entries } => {
                eprintln!("applying {entries} entries of the log");
            }
            Progress::Writing => eprintln!("writing the index"),
            Progress::Founding => eprintln!("founding the store"),
            _ => {}
        }
    }
}

/// The report for scripts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    store: PathBuf,
    source: &'a Path,
    revision: u64,
    compact_revision: u64,
    keys: u64,
    versions: u64,
    leases: u64,
    log_entries: u64,
    auth_records: u64,
    auth_enabled: bool,
    alarms_left: u64,
    bootstrap_keys: Vec<String>,
    cluster_id: String,
    member_id: String,
}

fn show(args: &ImportArgs, data_dir: &Path, report: &ImportReport) -> Result<(), Failure> {
    let bootstrap: Vec<String> = report
        .noted_keys
        .iter()
        .map(|key| String::from_utf8_lossy(key).into_owned())
        .collect();
    let store = data_dir.join("server/db").join(DIR);
    if args.json {
        let report = Report {
            store,
            source: &args.source,
            revision: report.revision.0,
            compact_revision: report.compact_revision.0,
            keys: report.keys,
            versions: report.versions,
            leases: report.leases,
            log_entries: report.log_entries,
            auth_records: report.auth_records,
            auth_enabled: report.auth_enabled,
            alarms_left: report.alarms_left,
            bootstrap_keys: bootstrap,
            cluster_id: format!("{:016x}", report.cluster_id),
            member_id: format!("{:016x}", report.member_id),
        };
        let json = serde_json::to_string_pretty(&report).map_err(Failure::other)?;
        println!("{json}");
        return Ok(());
    }
    println!("{}", store.display());
    println!(
        "  revision   {} (compacted up to {})",
        report.revision, report.compact_revision
    );
    println!(
        "  keys       {} ({} versions)",
        report.keys, report.versions
    );
    println!("  leases     {}", report.leases);
    if report.log_entries > 0 {
        println!(
            "  from log   {} entries that the database did not have",
            report.log_entries
        );
    }
    if report.auth_records > 0 {
        let enabled = if report.auth_enabled { "on" } else { "off" };
        println!(
            "  auth       {enabled}, {} users and roles",
            report.auth_records
        );
    }
    if report.alarms_left > 0 {
        println!(
            "  left out   {} alarms of the old cluster's members",
            report.alarms_left
        );
    }
    if !bootstrap.is_empty() {
        println!(
            "  K3s        {} is kept as it is; this server makes keys and certificates of its own",
            bootstrap.join(", ")
        );
    }
    println!(
        "\nStart it with: trivet server --cluster-init --data-dir {}",
        data_dir.display()
    );
    Ok(())
}
