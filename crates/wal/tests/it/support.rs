//! Shared pieces of the tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use bytes::Bytes;
use trivet_env::Disk;
use trivet_sim::SimDisk;
use trivet_wal::{Callback, Entry, Position, Recovered, Result, Wal, WalOptions};

pub(crate) const DIR: &str = "/data/log";

pub(crate) fn tiny(prepare_ahead: bool) -> WalOptions {
    WalOptions {
        segment_bytes_first: 512,
        segment_bytes_max: 4096,
        queue_bytes_max: 8192,
        batch_bytes_max: 1024,
        cache_bytes_max: 300,
        spares_max: 2,
        prepare_ahead,
        salt: 4711,
    }
}

pub(crate) fn open(disk: &SimDisk, options: WalOptions) -> Result<(Wal, Recovered)> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Wal::open(disk, Path::new(DIR), options)
}

/// A callback and where its result arrives; a dropped callback arrives as a closed channel.
pub(crate) fn ack() -> (Callback, Receiver<Result<()>>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

pub(crate) fn entry(index: u64, term: u64, payload: &[u8]) -> Entry {
    Entry {
        index,
        term,
        payload: Bytes::copy_from_slice(payload),
    }
}

pub(crate) fn at(index: u64, term: u64) -> Position {
    Position { index, term }
}

/// All entries, read in small steps.
pub(crate) fn entries(wal: &Wal) -> Result<Vec<Entry>> {
    let state = wal.state();
    let Some(last) = state.last.filter(|last| Some(*last) != state.purged) else {
        return Ok(Vec::new());
    };
    let mut next = match state.purged {
        Some(purged) => purged.index + 1,
        // Without a purge point the first index is found by asking.
        None => (0..=last.index)
            .find(|index| wal.term_at(*index).is_some())
            .unwrap(),
    };
    let mut all = Vec::new();
    while next <= last.index {
        let some = wal.read(next..last.index + 1, 100)?;
        assert!(!some.is_empty(), "a read of {next}.. is empty");
        next += some.len() as u64;
        all.extend(some);
    }
    Ok(all)
}

pub(crate) fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let mut files = disk.files();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    files
}
