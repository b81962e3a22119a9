//! Disks that lie: planted bugs.

use std::io;
use std::path::Path;
use std::sync::Arc;

use trivet_env::{Disk, DiskFile, DiskLock, OpenMode};
use trivet_sim::SimDisk;

/// What is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Nothing: how it should be.
    None,
    /// The log is acknowledged before it is synced.
    LogNotSynced,
    /// A new log segment's directory entry is not made durable.
    LogDirectoryNotSynced,
    /// Checkpoints and values are not synced.
    StateNotSynced,
}

impl Bug {
    /// The disk as code with this bug uses it.
    pub(crate) fn plant(self, disk: &SimDisk) -> Arc<dyn Disk> {
        match self {
            Self::None => Arc::new(disk.clone()),
            bug => Arc::new(Forgetful {
                disk: disk.clone(),
                bug,
            }),
        }
    }
}

struct Forgetful {
    disk: SimDisk,
    bug: Bug,
}

struct Unsynced(Arc<dyn DiskFile>);

impl Disk for Forgetful {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        let below = |name: &str| path.components().any(|part| part.as_os_str() == name);
        let forget = match self.bug {
            Bug::LogNotSynced => below("log"),
            Bug::StateNotSynced => below("state"),
            _ => false,
        };
        Ok(if forget {
            Arc::new(Unsynced(file))
        } else {
            file
        })
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.read_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.bug == Bug::LogDirectoryNotSynced && path.ends_with("log") {
            return Ok(());
        }
        self.disk.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        Disk::lock(&self.disk, path)
    }
}

impl DiskFile for Unsynced {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }

    fn write_all_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(offset, data)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn size_bytes(&self) -> io::Result<u64> {
        self.0.size_bytes()
    }

    fn set_size(&self, size_bytes: u64) -> io::Result<()> {
        self.0.set_size(size_bytes)
    }
}
