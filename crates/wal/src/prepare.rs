//! Fills the next segment with zeros while the current one is in use.
//!
//! Overwriting blocks that exist costs a sync less than growing a file does: the file system
//! has nothing to note in its journal.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use trivet_env::OpenMode;

use crate::files::{LogDir, Spare};
use crate::shared::Shared;

/// Zeros are written and synced in pieces, each when the log has moved on a little, so that the
/// log's own syncs meet few of them and never queue behind a whole segment.
const STEP_BYTES: usize = 1 << 20;

#[derive(Default)]
struct Wish {
    size_bytes: Option<u32>,
    /// How much of the file may be filled by now.
    allowed_bytes: usize,
    stop: bool,
}

/// Hands wishes to the preparing thread.
#[derive(Default)]
pub(crate) struct Preparer {
    wish: Mutex<Wish>,
    changed: Condvar,
}

impl Preparer {
    fn lock(&self) -> MutexGuard<'_, Wish> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a spare file, of which `allowed_bytes` may be filled by now. A wish that is
    /// being fulfilled is not repeated, only allowed more.
    pub(crate) fn ask(&self, size_bytes: u32, allowed_bytes: usize) {
        let mut wish = self.lock();
        if wish.size_bytes.is_none() {
            wish.size_bytes = Some(size_bytes);
            wish.allowed_bytes = allowed_bytes;
        }
        wish.allowed_bytes = wish.allowed_bytes.max(allowed_bytes);
        self.changed.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_one();
    }

    /// The thread.
    pub(crate) fn run(&self, dir: &LogDir, shared: &Arc<Shared>) {
        loop {
            let mut wish = self.lock();
            while !wish.stop && wish.size_bytes.is_none() {
                wish = self
                    .changed
                    .wait(wish)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if wish.stop {
                return;
            }
            let size_bytes = wish.size_bytes.unwrap_or_default();
            drop(wish);
            match self.fill(dir, shared, size_bytes) {
                Ok(Some(spare)) => shared.lock().spares.push(spare),
                Ok(None) => {}
                // Not fatal: the writer goes on with a sparse file.
                Err(error) => {
                    tracing::warn!(dir = %dir.path.display(), %error, "cannot prepare the next log segment");
                    let _ = dir.disk.remove_file(&dir.preparing_path());
                }
            }
            self.lock().size_bytes = None;
        }
    }

    fn fill(
        &self,
        dir: &LogDir,
        shared: &Arc<Shared>,
        size_bytes: u32,
    ) -> io::Result<Option<Spare>> {
        let unfinished = dir.preparing_path();
        let file = dir.disk.open(&unfinished, OpenMode::CreateNew)?;
        let zeros = vec![0; STEP_BYTES.min(size_bytes as usize)];
        let mut offset = 0;
        while offset < size_bytes as usize {
            let mut wish = self.lock();
            while !wish.stop && wish.allowed_bytes <= offset {
                wish = self
                    .changed
                    .wait(wish)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if wish.stop {
                dir.disk.remove_file(&unfinished)?;
                return Ok(None);
            }
            drop(wish);
            let step = zeros.len().min(size_bytes as usize - offset);
            file.write_all_at(offset as u64, &zeros[..step])?;
            file.sync_data()?;
            offset += step;
        }
        // Far above the numbers of segments, whose recycled files are named after themselves.
        let mut number = 1 << 63;
        let known = shared.lock().spares.clone();
        while known
            .iter()
            .any(|spare| spare.path == dir.spare_path(number))
        {
            number += 1;
        }
        let path = dir.spare_path(number);
        dir.disk.rename(&unfinished, &path)?;
        Ok(Some(Spare { path, size_bytes }))
    }
}
