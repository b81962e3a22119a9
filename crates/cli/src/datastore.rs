//! `trivet datastore`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use trivet_datastore::Backend;
use trivet_legacy_reader::survey::{self, Finding};
use trivet_legacy_reader::{Directory, Summary};

use crate::args::{DatastoreArgs, DatastoreCommand, DatastoreKind, InspectArgs, OutputFormat};
use crate::failure::Failure;
use crate::{backend, paths};

pub(crate) fn run(args: &DatastoreArgs) -> Result<(), Failure> {
    match &args.command {
        DatastoreCommand::Inspect(args) => inspect(args),
        DatastoreCommand::Import(args) => crate::import::run(args),
        DatastoreCommand::Repair(args) => crate::repair::run(args),
    }
}

fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => paths::data_dir(args.data_dir.as_deref()),
    };
    let place = Place::of(&dir);
    let mut stores = place.look().map_err(|error| {
        Failure::other(anyhow::anyhow!("cannot read {}: {error}", dir.display()))
    })?;
    // What a server would stop at comes first, and of that what is in use.
    stores.sort_by_key(|store| (!store.blocks, store.stale));
    let sound = stores
        .iter()
        .all(|store| store.damage.is_empty() && store.unreadable.is_none());
    let report = Report::new(place.root(), stores);
    match args.output {
        OutputFormat::Json => {
            let json = serde_json::to_string_pretty(&report).map_err(Failure::other)?;
            println!("{json}");
        }
        OutputFormat::Text => print!("{}", text(&report)),
    }
    if sound {
        Ok(())
    } else {
        Err(Failure::other(anyhow::anyhow!(
            "not everything in {} can be read",
            report.directory.display()
        )))
    }
}

/// What was given to look into.
enum Place {
    /// A `server/db`.
    Db(PathBuf),
    /// A dqlite directory.
    Dqlite(PathBuf),
    /// A SQLite file.
    File(PathBuf),
}

impl Place {
    fn of(dir: &Path) -> Self {
        let db = dir.join("server/db");
        if db.is_dir() {
            return Self::Db(db);
        }
        if dir.is_file() {
            return Self::File(dir.to_owned());
        }
        let is_db = [survey::DQLITE, survey::SQLITE, survey::ETCD]
            .iter()
            .any(|name| dir.join(name).symlink_metadata().is_ok());
        if !is_db && survey::is_dqlite_directory(&Directory::new(dir), "") {
            return Self::Dqlite(dir.to_owned());
        }
        Self::Db(dir.to_owned())
    }

    /// What paths in the findings are relative to.
    fn root(&self) -> &Path {
        match self {
            Self::Db(dir) | Self::Dqlite(dir) => dir,
            Self::File(file) => file.parent().unwrap_or(file),
        }
    }

    fn look(&self) -> std::io::Result<Vec<Store>> {
        let scratch = paths::scratch();
        let dir = Directory::new(self.root());
        let findings = match self {
            Self::Db(db) => {
                // A directory that is not there is an error here, unlike for a server.
                std::fs::read_dir(db)?;
                survey::survey(&dir, &scratch)?
            }
            Self::Dqlite(_) => vec![survey::dqlite_directory(&dir, "", &scratch)],
            Self::File(file) => {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                vec![survey::sqlite_file(&dir, &name, &scratch)]
            }
        };
        let mut stores: Vec<Store> = findings.into_iter().map(Store::from).collect();
        if let Self::Db(_) = self {
            for kind in [DatastoreKind::Etcd, DatastoreKind::Memory] {
                let backend = backend::chosen(kind);
                stores.extend(own(&*backend, &dir)?);
            }
        }
        Ok(stores)
    }
}

/// Stores of this program's own.
fn own(backend: &dyn Backend, dir: &Directory) -> std::io::Result<Vec<Store>> {
    let footprints = backend.probe(dir)?.into_iter();
    Ok(footprints
        .filter(|footprint| footprint.backend == backend.name())
        .map(|footprint| Store {
            kind: format!("trivet-{}", footprint.backend),
            path: footprint.path.display().to_string(),
            what: footprint.description,
            blocks: false,
            ..Store::default()
        })
        .collect())
}

/// Everything about one directory. The fields of the first store stand beside its name, for
/// scripts that expect one.
#[derive(Debug, Serialize)]
struct Report {
    directory: PathBuf,
    #[serde(flatten)]
    first: Store,
    others: Vec<Store>,
}

impl Report {
    fn new(directory: &Path, stores: Vec<Store>) -> Self {
        let mut stores = stores.into_iter();
        let first = stores.next().unwrap_or_else(|| Store {
            kind: "none".to_owned(),
            what: "no datastore".to_owned(),
            ..Store::default()
        });
        Self {
            directory: directory.to_owned(),
            first,
            others: stores.collect(),
        }
    }
}

#[derive(Debug, Default, Serialize)]
struct Store {
    kind: String,
    path: String,
    what: String,
    /// Whether a server refuses to start over it.
    blocks: bool,
    stale: bool,
    rows: Option<u64>,
    live_keys: Option<u64>,
    max_revision: Option<i64>,
    compact_revision: Option<i64>,
    servers: Vec<String>,
    damage: Vec<DamagedPlace>,
    unreadable: Option<String>,
}

/// One damaged place.
#[derive(Debug, Serialize)]
struct DamagedPlace {
    file: String,
    offset: u64,
    what: String,
}

impl From<Finding> for Store {
    fn from(finding: Finding) -> Self {
        let number = |of: fn(&Summary) -> i64| finding.summary.as_ref().map(of);
        let count = |of: fn(&Summary) -> u64| finding.summary.as_ref().map(of);
        Self {
            kind: finding.kind.name().to_owned(),
            rows: count(|summary| summary.rows),
            live_keys: count(|summary| summary.live_keys),
            max_revision: number(|summary| summary.max_revision),
            compact_revision: number(|summary| summary.compact_revision),
            path: finding.path,
            what: finding.what,
            blocks: finding.blocks,
            stale: finding.stale,
            servers: finding
                .servers
                .into_iter()
                .map(|server| server.address)
                .collect(),
            damage: finding
                .damage
                .into_iter()
                .map(|damage| DamagedPlace {
                    file: damage.file,
                    offset: damage.offset,
                    what: damage.what,
                })
                .collect(),
            unreadable: finding.unreadable,
        }
    }
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}", report.directory.display());
    for store in std::iter::once(&report.first).chain(&report.others) {
        let path = if store.path.is_empty() {
            "."
        } else {
            &store.path
        };
        let _ = writeln!(out, "\n{path}  {}: {}", store.kind, store.what);
        if let (Some(rows), Some(keys), Some(revision), Some(compacted)) = (
            store.rows,
            store.live_keys,
            store.max_revision,
            store.compact_revision,
        ) {
            let _ = writeln!(out, "  live keys  {keys} (of {rows} rows)");
            let _ = writeln!(out, "  revision   {revision} (compacted up to {compacted})");
        }
        if !store.servers.is_empty() {
            let _ = writeln!(out, "  servers    {}", store.servers.join(", "));
        }
        for damage in &store.damage {
            let _ = writeln!(
                out,
                "  DAMAGED    {} at byte {}: {}",
                damage.file, damage.offset, damage.what
            );
        }
        if let Some(why) = &store.unreadable {
            let _ = writeln!(out, "  UNREADABLE {why}");
        }
    }
    out
}
