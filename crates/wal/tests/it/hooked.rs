//! A purge that comes between looking up an entry and reading it.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use trivet_env::{Disk, DiskFile, DiskLock, OpenMode, Space};
use trivet_sim::SimDisk;
use trivet_wal::Wal;

use crate::support::{DIR, ack, at, entry, tiny};

type Hook = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// Runs something once, just before the next read.
struct Hooked(SimDisk, Hook);

struct HookedFile(Arc<dyn DiskFile>, Hook);

impl Disk for Hooked {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(HookedFile(
            self.0.open(path, mode)?,
            Arc::clone(&self.1),
        )))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        self.0.read_dir(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }
    fn space(&self, path: &Path) -> io::Result<Option<Space>> {
        self.0.space(path)
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        self.0.lock(path)
    }
}

impl DiskFile for HookedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let hook = self.1.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
        self.0.read_at(offset, buffer)
    }
    fn write_all_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(offset, data)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn size_bytes(&self) -> io::Result<u64> {
        self.0.size_bytes()
    }
    fn set_size(&self, size_bytes: u64) -> io::Result<()> {
        self.0.set_size(size_bytes)
    }
}

#[test]
fn a_segment_that_is_being_read_is_not_recycled() {
    let hook = Hook::default();
    let disk = Arc::new(Hooked(SimDisk::new(), Arc::clone(&hook)));
    let options = trivet_wal::WalOptions {
        segment_bytes_first: 4096,
        ..tiny(false)
    };
    let (wal, _) = Wal::open(disk, Path::new(DIR), options).unwrap();
    let fill = |wal: &Wal, range: std::ops::Range<u64>| {
        for index in range {
            wal.append(vec![entry(index, 1, &[index as u8; 300])], ack().0)
                .unwrap();
        }
        wal.flush().unwrap();
    };
    fill(&wal, 1..40);
    let other = wal.clone();
    *hook.lock().unwrap() = Some(Box::new(move || {
        other.purge_up_to(at(39, 1), ack().0).unwrap();
        fill(&other, 40..120);
    }));
    let read = wal.read(1..4, usize::MAX).unwrap();
    assert!(hook.lock().unwrap().is_none(), "the purge came in between");
    assert_eq!(
        read,
        (1..4)
            .map(|i| entry(i, 1, &[i as u8; 300]))
            .collect::<Vec<_>>()
    );
}
