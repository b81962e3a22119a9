//! Whose data lies in `<data-dir>/server/db`? Decided by place and content, without a write.

use std::fmt::Write;
use std::io;
use std::path::Path;

use trivet_datastore::ReadOnlyDir;

use crate::damage::{Damage, ReadError};
use crate::input::join;
use crate::kine::{Kine, Schema, Summary};
use crate::names::Name;
use crate::{Server, dqlite, sqlite};

/// Where K3s kept dqlite. The mere existence of the name made K3s 1.0 to 1.18 run on dqlite.
pub const DQLITE: &str = "state.dqlite";
/// Where K3s keeps SQLite.
pub const SQLITE: &str = "state.db";
/// Where K3s keeps embedded etcd.
pub const ETCD: &str = "etcd";

const DQLITE_WHAT: &str = "a dqlite database of K3s 1.0 to 1.18";

/// Kinds of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// K3s on dqlite, or the place of it.
    K3sDqlite,
    /// K3s on SQLite.
    K3sSqlite,
    /// K3s on its embedded etcd.
    K3sEtcd,
    /// Raft files of dqlite, but of another program.
    OtherDqlite,
    /// Anything else.
    Unknown,
}

impl Kind {
    /// One word or two.
    pub fn name(self) -> &'static str {
        match self {
            Self::K3sDqlite => "k3s-dqlite",
            Self::K3sSqlite => "k3s-sqlite",
            Self::K3sEtcd => "k3s-etcd",
            Self::OtherDqlite => "other-dqlite",
            Self::Unknown => "unknown",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of data it is.
    pub kind: Kind,
    /// Where, relative to the directory that was surveyed.
    pub path: String,
    /// What it is, in words.
    pub what: String,
    /// Whether a server that starts without this data would leave a cluster's data behind.
    pub blocks: bool,
    /// Whether a newer store beside it took its content over.
    pub stale: bool,
    /// The data in numbers, if it could be read.
    pub summary: Option<Summary>,
    /// Servers of the cluster, if the store knows them.
    pub servers: Vec<Server>,
    /// What is wrong with it.
    pub damage: Vec<Damage>,
    /// Why it could not be looked at, where the data is not to blame.
    pub unreadable: Option<String>,
}

impl Finding {
    fn new(kind: Kind, path: &str, what: impl Into<String>) -> Self {
        Self {
            kind,
            path: path.to_owned(),
            what: what.into(),
            blocks: true,
            stale: false,
            summary: None,
            servers: Vec::new(),
            damage: Vec::new(),
            unreadable: None,
        }
    }

    fn closed(kind: Kind, path: &str, what: &str, error: &io::Error) -> Self {
        Self {
            unreadable: Some(error.to_string()),
            ..Self::new(kind, path, what)
        }
    }

    fn harmless(kind: Kind, path: &str, what: impl Into<String>) -> Self {
        Self {
            blocks: false,
            ..Self::new(kind, path, what)
        }
    }

    /// One line: what it is, how much is in it, what is damaged.
    pub fn describe(&self) -> String {
        let mut text = self.what.clone();
        if let Some(summary) = &self.summary {
            let _ = write!(
                text,
                " with {} live keys up to revision {}",
                summary.live_keys, summary.max_revision
            );
        }
        if let Some((first, more)) = self.damage.split_first() {
            let _ = write!(text, ", damaged: {first}");
            if !more.is_empty() {
                let _ = write!(text, " (and {} more)", more.len());
            }
        }
        if let Some(why) = &self.unreadable {
            let _ = write!(text, ", which could not be read ({why})");
        }
        text
    }
}

/// Looks at a `server/db` directory, which need not exist. Scratch files are made in `scratch`
/// and removed again. What cannot be read is a finding too; an error means that the directory
/// itself cannot be listed.
pub fn survey(dir: &dyn ReadOnlyDir, scratch: &Path) -> io::Result<Vec<Finding>> {
    let names = match dir.read_dir("") {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    // By name in the listing: a dangling link counts, as it did for K3s.
    let beside_dqlite = names.iter().any(|name| name == DQLITE);
    for name in &names {
        match name.as_str() {
            DQLITE => found.push(k3s_dqlite(dir, scratch)),
            SQLITE => found.extend(k3s_sqlite(dir, scratch, beside_dqlite)),
            ETCD => found.push(k3s_etcd(dir)),
            "state.db.migrated" => found.push(Finding::harmless(
                Kind::K3sSqlite,
                name,
                "the SQLite database that K3s set aside when it moved to etcd",
            )),
            "trivet" | "state.db-wal" | "state.db-shm" | "state.db-journal" => {}
            name if name.starts_with("joined-") => {}
            name => found.push(other(dir, name)),
        }
    }
    Ok(found)
}

/// Whether a directory holds dqlite's files, wherever it lies.
pub fn is_dqlite_directory(dir: &dyn ReadOnlyDir, path: &str) -> bool {
    dir.read_dir(path).is_ok_and(|names| {
        names
            .iter()
            .any(|name| Name::parse(name).is_some() || name == "node-id")
    })
}

/// Surveys one dqlite directory, wherever it lies.
pub fn dqlite_directory(dir: &dyn ReadOnlyDir, path: &str, scratch: &Path) -> Finding {
    let what = DQLITE_WHAT;
    let names = match dir.read_dir(path) {
        Ok(names) => names,
        Err(error) => return Finding::closed(Kind::K3sDqlite, path, what, &error),
    };
    let parsed: Vec<(Name, &String)> = names
        .iter()
        .filter_map(|name| Some((Name::parse(name)?, name)))
        .collect();
    if parsed.iter().any(|(name, _)| name.is_raft_data()) {
        return dqlite_data(dir, path, path, what, scratch);
    }
    // A server that was told to join again moved its data aside.
    let backups = parsed
        .iter()
        .filter_map(|(name, text)| match name {
            Name::Backup { seconds } => Some((*seconds, *text)),
            _ => None,
        })
        .filter(|(_, text)| {
            dir.read_dir(&join(path, text)).is_ok_and(|names| {
                names
                    .iter()
                    .filter_map(|name| Name::parse(name))
                    .any(Name::is_raft_data)
            })
        });
    if let Some((_, newest)) = backups.max() {
        let data = join(path, newest);
        let what = format!("{what}, set aside by K3s in {data}");
        return dqlite_data(dir, path, &data, &what, scratch);
    }
    let what = if names.is_empty() {
        "the empty directory of a dqlite database of K3s 1.0 to 1.18".to_owned()
    } else if names.iter().any(|name| name == "node-id") {
        format!("{what} that was never started")
    } else {
        "the directory of a dqlite database of K3s 1.0 to 1.18, without any of its data".to_owned()
    };
    Finding::new(Kind::K3sDqlite, path, what)
}

fn dqlite_data(
    dir: &dyn ReadOnlyDir,
    path: &str,
    data: &str,
    what: &str,
    scratch: &Path,
) -> Finding {
    let mut finding = Finding::new(Kind::K3sDqlite, path, what);
    match dqlite::read(dir, data, scratch) {
        Ok(read) => {
            finding.servers = read.servers;
            finding.damage = read.damage;
            match read.kine {
                Some(kine) => count(&mut finding, &kine, data),
                None if !finding.damage.is_empty() => {
                    finding.what.push_str(" of which nothing can be read");
                }
                None if read.databases.is_empty() => {
                    finding.what.push_str(" in which nothing was ever written");
                }
                None => finding.what.push_str(" without a table of K3s"),
            }
        }
        Err(error) => unreadable(&mut finding, data, error),
    }
    finding
}

fn count(finding: &mut Finding, kine: &Kine, file: &str) {
    match kine.summary() {
        Ok(summary) => finding.summary = Some(summary),
        Err(error) => unreadable(finding, file, error),
    }
}

fn unreadable(finding: &mut Finding, file: &str, error: ReadError) {
    match error {
        ReadError::Damaged(damage) => finding.damage.push(damage),
        error @ ReadError::Sqlite(_) => finding.damage.push(Damage {
            file: file.to_owned(),
            offset: 0,
            what: error.to_string(),
        }),
        error => finding.unreadable = Some(error.to_string()),
    }
}

fn k3s_dqlite(dir: &dyn ReadOnlyDir, scratch: &Path) -> Finding {
    match dir.is_dir(DQLITE) {
        Ok(true) => dqlite_directory(dir, DQLITE, scratch),
        Ok(false) => Finding::new(
            Kind::K3sDqlite,
            DQLITE,
            "no directory, in the place where K3s 1.0 to 1.18 keeps its dqlite database",
        ),
        Err(error) => Finding::closed(Kind::K3sDqlite, DQLITE, DQLITE_WHAT, &error),
    }
}

fn k3s_sqlite(dir: &dyn ReadOnlyDir, scratch: &Path, beside_dqlite: bool) -> Option<Finding> {
    let size = |path: &str| dir.file_size_bytes(path).ok().flatten().unwrap_or(0);
    if size(SQLITE) == 0 && size("state.db-wal") == 0 {
        return None;
    }
    let mut finding = sqlite_file(dir, SQLITE, scratch);
    if beside_dqlite {
        finding.stale = true;
        finding
            .what
            .push_str(", the copy from before K3s moved to dqlite,");
        if finding.summary.is_none() {
            finding.what.pop();
        }
    }
    Some(finding)
}

/// Surveys one SQLite file, wherever it lies.
pub fn sqlite_file(dir: &dyn ReadOnlyDir, path: &str, scratch: &Path) -> Finding {
    let mut finding = Finding::new(Kind::K3sSqlite, path, "a SQLite database of K3s");
    match sqlite::read(dir, path, scratch) {
        Ok(read) => {
            finding.damage = read.damage;
            match &read.kine {
                Some(kine) => {
                    if kine.schema() == Schema::KeyValue {
                        finding.what.push_str(" from before v1.0");
                    }
                    count(&mut finding, kine, path);
                }
                None if finding.damage.is_empty() => {
                    finding.what =
                        "a SQLite database without a table of K3s, in the place of one".to_owned();
                }
                None => {
                    finding.what =
                        "in the place of K3s's SQLite database, something of which nothing can be read".to_owned();
                }
            }
        }
        Err(error) => unreadable(&mut finding, path, error),
    }
    finding
}

fn k3s_etcd(dir: &dyn ReadOnlyDir) -> Finding {
    match dir.is_dir("etcd/member") {
        Ok(true) => Finding::new(Kind::K3sEtcd, ETCD, "an embedded etcd member of K3s"),
        Ok(false) => Finding::harmless(
            Kind::K3sEtcd,
            ETCD,
            "the place of an embedded etcd of K3s, without its data",
        ),
        Err(error) => Finding::closed(Kind::K3sEtcd, ETCD, "an embedded etcd of K3s", &error),
    }
}

fn other(dir: &dyn ReadOnlyDir, name: &str) -> Finding {
    // A file, or a directory that is not ours to look into.
    let names = dir.read_dir(name).unwrap_or_default();
    if names
        .iter()
        .filter_map(|name| Name::parse(name))
        .any(|name| {
            matches!(
                name,
                Name::Metadata | Name::Closed { .. } | Name::Snapshot { .. }
            )
        })
    {
        Finding::harmless(
            Kind::OtherDqlite,
            name,
            "files of dqlite, but not where K3s keeps them",
        )
    } else {
        Finding::harmless(Kind::Unknown, name, "nothing of K3s's")
    }
}
