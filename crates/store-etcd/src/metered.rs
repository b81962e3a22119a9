//! A disk whose syncs are timed.

use std::io;
use std::path::Path;
use std::sync::Arc;

use trivet_env::{Clock, Disk, DiskFile, DiskLock, Env, OpenMode, Space};

use crate::meter::Histogram;
use crate::metrics::Metrics;

/// Picks what a disk's syncs are counted in.
type Pick = fn(&Metrics) -> &Histogram;

/// The same world, with the syncs of its disk counted.
pub(crate) fn metered(env: &Env, metrics: &Arc<Metrics>, pick: Pick) -> Env {
    Env {
        disk: Arc::new(MeteredDisk {
            disk: env.disk.clone(),
            meter: Meter {
                clock: env.clock.clone(),
                metrics: metrics.clone(),
                pick,
            },
        }),
        ..env.clone()
    }
}

#[derive(Clone)]
struct Meter {
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    pick: Pick,
}

struct MeteredDisk {
    disk: Arc<dyn Disk>,
    meter: Meter,
}

struct MeteredFile {
    file: Arc<dyn DiskFile>,
    meter: Meter,
}

impl Disk for MeteredDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        // What is only read is never synced.
        Ok(match mode {
            OpenMode::Read => file,
            OpenMode::ReadWrite | OpenMode::CreateNew => Arc::new(MeteredFile {
                file,
                meter: self.meter.clone(),
            }),
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
        self.disk.sync_dir(path)
    }

    fn space(&self, path: &Path) -> io::Result<Option<Space>> {
        self.disk.space(path)
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        self.disk.lock(path)
    }
}

impl DiskFile for MeteredFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    fn write_all_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(offset, data)
    }

    fn sync_data(&self) -> io::Result<()> {
        let Meter {
            clock,
            metrics,
            pick,
        } = &self.meter;
        let start = clock.monotonic();
        let outcome = self.file.sync_data();
        pick(metrics).observe(clock.monotonic().saturating_sub(start));
        outcome
    }

    fn size_bytes(&self) -> io::Result<u64> {
        self.file.size_bytes()
    }

    fn set_size(&self, size_bytes: u64) -> io::Result<()> {
        self.file.set_size(size_bytes)
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(offset, buffer)
    }
}
