//! Disks that lie: planted bugs.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use trivet_env::{Disk, DiskFile, DiskLock, OpenMode, Space};
use trivet_sim::SimDisk;

/// What is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Nothing: how it should be.
    None,
    /// The log is acknowledged before it is synced.
    LogNotSynced,
    /// Now and then the log is acknowledged before it is synced, and synced with what follows.
    LogSyncedLate,
    /// The directories above the store's own are not made durable.
    AncestorsNotSynced,
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

struct Unsynced {
    file: Arc<dyn DiskFile>,
    /// Of so many syncs one is left out.
    one_of: u64,
    syncs: AtomicU64,
}

impl Disk for Forgetful {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        let below = |name: &str| path.components().any(|part| part.as_os_str() == name);
        let one_of = match self.bug {
            Bug::LogNotSynced if below("log") => 1,
            Bug::LogSyncedLate if below("log") => 7,
            Bug::StateNotSynced if below("state") => 1,
            _ => return Ok(file),
        };
        Ok(Arc::new(Unsynced {
            file,
            one_of,
            syncs: AtomicU64::new(0),
        }))
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
        match self.bug {
            Bug::LogDirectoryNotSynced if path.ends_with("log") => Ok(()),
            Bug::AncestorsNotSynced if path.components().count() < 3 => Ok(()),
            _ => self.disk.sync_dir(path),
        }
    }

    fn space(&self, path: &Path) -> io::Result<Option<Space>> {
        Disk::space(&self.disk, path)
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        Disk::lock(&self.disk, path)
    }
}

impl DiskFile for Unsynced {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write_all_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(offset, data)
    }

    fn sync_data(&self) -> io::Result<()> {
        let number = self.syncs.fetch_add(1, Ordering::Relaxed);
        if number % self.one_of == self.one_of - 1 {
            return Ok(());
        }
        self.file.sync_data()
    }

    fn size_bytes(&self) -> io::Result<u64> {
        self.file.size_bytes()
    }

    fn set_size(&self, size_bytes: u64) -> io::Result<()> {
        self.file.set_size(size_bytes)
    }
}
