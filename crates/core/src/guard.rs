//! The guard: whose data lies here?
//!
//! Runs before anything is written, on every start. Every kind of store that the program knows
//! is asked; K3s's own three are recognised here too, by their places.

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
        let (mut own_data, mut foreign) = (false, Vec::new());
        // Of one place the first description stays: whoever knows the data better speaks first.
        let add = |foreign: &mut Vec<Footprint>, found: Footprint| {
            if !foreign.iter().any(|other| other.path == found.path) {
                foreign.push(found);
            }
        };
        let mut chosen = "";
        if let Store::Kind(backend) = &config.store {
            chosen = backend.name();
            for found in backend.probe(&dir)? {
                if found.backend == chosen {
                    own_data = true;
                } else {
                    add(&mut foreign, found);
                }
            }
        }
        let others = config
            .probes
            .iter()
            .filter(|backend| backend.name() != chosen);
        // Beside own data others are only mentioned: not worth reading them on every start.
        for backend in others.filter(|_| !own_data) {
            for found in backend.probe(&dir)? {
                add(&mut foreign, found);
            }
        }
        for found in k3s_footprints(&dir)? {
            add(&mut foreign, found);
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

/// The three stores that K3s has had, by place and name, for programs that register no probe
/// that looks inside.
fn k3s_footprints(dir: &dyn ReadOnlyDir) -> io::Result<Vec<Footprint>> {
    let mut found = Vec::new();
    let mut add = |backend: &str, path: &str, description: &str| {
        found.push(Footprint {
            backend: backend.to_owned(),
            path: PathBuf::from(path),
            description: description.to_owned(),
        });
    };
    if dir.is_dir("etcd/member")? {
        add("k3s-etcd", "etcd", "an embedded etcd member of K3s");
    }
    if dir
        .file_size_bytes("state.db")?
        .is_some_and(|size| size > 0)
    {
        add("k3s-sqlite", "state.db", "a SQLite database of K3s");
    }
    // The bare name is what K3s itself goes by, even that of a dangling link.
    let names = match dir.read_dir("") {
        Err(error) if missing(&error) => Vec::new(),
        names => names?,
    };
    if names.iter().any(|name| name == "state.dqlite") {
        add(
            "k3s-dqlite",
            "state.dqlite",
            "a dqlite database of K3s 1.0 to 1.18",
        );
    }
    Ok(found)
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
    fn k3s_stores_are_recognised_by_place() {
        let dir = tempfile::tempdir().unwrap();
        let look = || -> Vec<String> {
            k3s_footprints(&RealDir(dir.path().into()))
                .unwrap()
                .into_iter()
                .map(|f| f.backend)
                .collect()
        };
        assert!(look().is_empty());
        fs::create_dir_all(dir.path().join("elsewhere.dqlite")).unwrap();
        fs::write(dir.path().join("state.db"), "").unwrap();
        fs::create_dir_all(dir.path().join("etcd")).unwrap();
        assert!(look().is_empty());
        std::os::unix::fs::symlink("nowhere", dir.path().join("state.dqlite")).unwrap();
        fs::write(dir.path().join("state.db"), b"SQLite format 3\0more").unwrap();
        fs::create_dir_all(dir.path().join("etcd/member/wal")).unwrap();
        assert_eq!(look(), ["k3s-etcd", "k3s-sqlite", "k3s-dqlite"]);
    }
}
