//! The guard: whose data lies here?
//!
//! Runs before anything is written, on every start. Every kind of store that the program knows
//! is asked; K3s's own three are recognised here, by content.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use trivet_datastore::{Footprint, ReadOnlyDir};

use crate::StartError;
use crate::config::{Config, Store};

/// What the guard found out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Whether the chosen kind of store has data here.
    pub(crate) own_data: bool,
}

/// Refuses to start over data that the chosen store would leave behind.
pub(crate) fn check(config: &Config) -> Result<Verdict, StartError> {
    let dir = RealDir(config.layout.db());
    let look = || -> io::Result<(bool, Vec<Footprint>)> {
        let mut foreign = k3s_footprints(&dir)?;
        let mut own_data = false;
        let chosen = match &config.store {
            Store::Kind(backend) => {
                for found in backend.probe(&dir)? {
                    if found.backend == backend.name() {
                        own_data = true;
                    } else if !foreign.iter().any(|other| other.path == found.path) {
                        foreign.push(found);
                    }
                }
                backend.name()
            }
            Store::Open(_) => "",
        };
        for backend in config
            .probes
            .iter()
            .filter(|backend| backend.name() != chosen)
        {
            for found in backend.probe(&dir)? {
                if !foreign.iter().any(|other| other.path == found.path) {
                    foreign.push(found);
                }
            }
        }
        Ok((own_data, foreign))
    };
    let (own_data, found) = look().map_err(|source| StartError::File {
        path: config.layout.db(),
        source,
    })?;
    if !found.is_empty() && !own_data {
        return Err(StartError::ForeignData {
            data_dir: config.layout.db(),
            backend: config.store.name().to_owned(),
            found,
        });
    }
    for other in &found {
        tracing::warn!(path = %other.path.display(), what = %other.description, "ignoring other data beside this server's own");
    }
    Ok(Verdict { own_data })
}

/// The three stores that K3s has had.
fn k3s_footprints(dir: &dyn ReadOnlyDir) -> io::Result<Vec<Footprint>> {
    let mut found = Vec::new();
    let mut add = |backend: &str, path: &str, description: &str| {
        found.push(Footprint {
            backend: backend.to_owned(),
            path: PathBuf::from(path),
            description: description.to_owned(),
        });
    };
    if dir.is_dir("etcd/member/wal")? {
        add("k3s etcd", "etcd", "an etcd member of K3s");
    }
    if dir
        .read("state.db", 0, 16)
        .is_ok_and(|start| start == b"SQLite format 3\0")
    {
        add("k3s sqlite", "state.db", "a SQLite database of K3s");
    }
    let names = match dir.read_dir("state.dqlite") {
        Ok(names) => names,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Vec::new()
        }
        Err(error) => return Err(error),
    };
    if names.iter().any(|name| is_dqlite_data(name)) {
        add(
            "k3s dqlite",
            "state.dqlite",
            "a dqlite member of K3s 1.16 to 1.18",
        );
    }
    Ok(found)
}

/// `node-id` and `peers.db` alone mean that the member never wrote anything.
fn is_dqlite_data(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    matches!(name, "metadata1" | "metadata2")
        || name.starts_with("snapshot-")
        || name.strip_prefix("open-").is_some_and(digits)
        || name
            .split_once('-')
            .is_some_and(|(first, last)| first.len() >= 16 && digits(first) && digits(last))
}

/// A directory of the file system.
struct RealDir(PathBuf);

impl RealDir {
    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

fn missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn metadata(path: &Path) -> io::Result<Option<fs::Metadata>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

impl ReadOnlyDir for RealDir {
    fn read_dir(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.at(path))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn read(&self, path: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.at(path))?;
        let (mut bytes, mut done) = (vec![0; length], 0);
        while done < length {
            match file.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn file_size_bytes(&self, path: &str) -> io::Result<Option<u64>> {
        Ok(metadata(&self.at(path))?
            .filter(fs::Metadata::is_file)
            .map(|metadata| metadata.len()))
    }

    fn is_dir(&self, path: &str) -> io::Result<bool> {
        Ok(metadata(&self.at(path))?.is_some_and(|metadata| metadata.is_dir()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn k3s_stores_are_recognised_by_content() {
        let dir = tempfile::tempdir().unwrap();
        let look = || -> Vec<String> {
            k3s_footprints(&RealDir(dir.path().into()))
                .unwrap()
                .into_iter()
                .map(|f| f.backend)
                .collect()
        };
        assert!(look().is_empty());
        fs::create_dir_all(dir.path().join("state.dqlite")).unwrap();
        fs::write(dir.path().join("state.dqlite/node-id"), "1").unwrap();
        fs::write(dir.path().join("state.db"), "something").unwrap();
        fs::create_dir_all(dir.path().join("etcd")).unwrap();
        assert!(look().is_empty());
        fs::write(
            dir.path()
                .join("state.dqlite/0000000000000001-0000000000000005"),
            "",
        )
        .unwrap();
        fs::write(dir.path().join("state.db"), b"SQLite format 3\0more").unwrap();
        fs::create_dir_all(dir.path().join("etcd/member/wal")).unwrap();
        assert_eq!(look(), ["k3s etcd", "k3s sqlite", "k3s dqlite"]);
    }
}
