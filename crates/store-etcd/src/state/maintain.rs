//! Work on files: checkpoints, removing what was compacted, rewriting sparse segments.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use trivet_env::Space;
use trivet_mvcc::{ReadValues, Values};

use super::checkpoint::{self, Image};
use super::segments::{self, SegmentMark};
use super::shared::{Inner, Shared};

/// Pause between two steps, so that whoever applies gets the lock.
const PAUSE: Duration = Duration::from_millis(2);
/// Keys visited by one step of removal.
const REMOVE_KEYS: usize = 1000;
/// Keys visited by one step of rewriting.
const MOVE_KEYS: usize = 256;
/// Checkpoints kept: the newest, and one to fall back to should that be damaged.
const KEPT: usize = 2;

/// Sparse segments on their way into others.
pub(super) struct Relocation {
    from: BTreeSet<u32>,
    cursor: Option<Vec<u8>>,
}

/// Which checkpoints there are.
#[derive(Default)]
pub(super) struct Work {
    /// Number and segments, oldest first.
    pub(super) checkpoints: Vec<(u64, Vec<SegmentMark>)>,
    pub(super) next_number: u64,
}

/// What the worker is asked for.
pub(super) enum Job {
    /// Write a checkpoint.
    Checkpoint,
    /// There is something to remove.
    Maintain,
}

/// The worker thread. Ends when nobody can ask it any more.
pub(super) fn run(shared: &Arc<Shared>, jobs: &Receiver<Job>) {
    let mut busy = true;
    loop {
        let job = if busy {
            match jobs.recv_timeout(PAUSE) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        } else {
            match jobs.recv() {
                Ok(job) => Some(job),
                Err(_) => return,
            }
        };
        let done = match job {
            Some(Job::Checkpoint) => shared.write_checkpoint().map(|()| true),
            Some(Job::Maintain) | None => shared.maintain().and_then(|more| {
                if !more {
                    shared.reclaim()?;
                }
                Ok(more)
            }),
        };
        match done {
            Ok(more) => busy = more,
            // Nothing is written or moved until another state has come.
            Err(_) if shared.read().failed_by_damage => busy = false,
            Err(error) => {
                shared.fail(&error);
                return;
            }
        }
    }
}

impl Shared {
    /// Writes a checkpoint of the state as it is now, unless there is one already.
    pub(super) fn write_checkpoint(&self) -> io::Result<()> {
        self.checkpoint(false)
    }

    /// Writes a checkpoint; `again` also where there is one of this state whose values lie
    /// elsewhere.
    pub(super) fn checkpoint(&self, again: bool) -> io::Result<()> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let needed_bytes = self.read().checkpoint_bytes * 5 / 4;
        if !self.has_room(needed_bytes) {
            tracing::warn!(needed_bytes, "no checkpoint for want of space");
            return Ok(());
        }
        let (image, unsynced) = {
            let mut inner = self.write();
            inner.usable()?;
            if !again && inner.applied == *self.durable() {
                return Ok(());
            }
            inner.segments.flush()?;
            (inner.commands_since, inner.bytes_since) = (0, 0);
            (inner.image(), inner.segments.take_unsynced())
        };
        for file in &unsynced.files {
            file.sync_data()?;
        }
        if unsynced.new_entries {
            self.disk.sync_dir(&self.values_dir)?;
        }
        let written =
            checkpoint::write(&*self.disk, &self.checkpoints_dir, work.next_number, &image);
        let size = match written {
            Ok(size) => size,
            // The one before still counts, and the log goes back to it.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::error!(%error, "no checkpoint for want of space");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        *self.durable() = image.position;
        {
            let mut inner = self.write();
            inner.checkpoint_bytes = size;
            self.note_size(&inner);
        }
        let number = work.next_number;
        work.checkpoints.push((number, image.segments));
        work.next_number += 1;
        self.prune(&mut work, KEPT)
    }

    /// Removes checkpoints but the newest `keep`, and the segments that only they needed.
    pub(super) fn prune(&self, work: &mut Work, keep: usize) -> io::Result<()> {
        let surplus = work.checkpoints.len().saturating_sub(keep);
        for (number, _) in &work.checkpoints[..surplus] {
            self.disk
                .remove_file(&self.checkpoints_dir.join(checkpoint::file_name(*number)))?;
        }
        if surplus > 0 {
            // Before the segments: a checkpoint that came back would miss them.
            self.disk.sync_dir(&self.checkpoints_dir)?;
            work.checkpoints.drain(..surplus);
        }
        let marks = || work.checkpoints.iter().flat_map(|(_, marks)| marks);
        let needed: BTreeSet<u32> = marks().map(|mark| mark.number).collect();
        let Some(&last) = needed.last() else {
            return Ok(());
        };
        let unused = {
            let mut inner = self.write();
            let unused = inner.segments.forget_unused(last, &needed);
            self.note_size(&inner);
            unused
        };
        for number in unused {
            self.disk
                .remove_file(&self.values_dir.join(segments::file_name(number)))?;
        }
        Ok(())
    }

    /// Gives back every byte that nothing refers to: removes all that was compacted, rewrites
    /// all segments with something to gain, and writes checkpoints until no kept one needs the
    /// old files. In small steps: readers and the log go on. Blocks for as long as that takes.
    pub fn defragment(&self) -> io::Result<()> {
        let _one_at_a_time = self
            .defragmenting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let run = || -> io::Result<()> {
            self.maintain_to_the_end()?;
            {
                let _work = self.work();
                let mut inner = self.write();
                inner.usable()?;
                inner.segments.seal_wasteful()?;
                let from = inner.segments.wasteful();
                if !from.is_empty() {
                    inner.relocation = Some(Relocation { from, cursor: None });
                }
            }
            self.maintain_to_the_end()?;
            self.let_go(1)
        };
        run().inspect_err(|error| self.fail(error))
    }

    fn maintain_to_the_end(&self) -> io::Result<()> {
        while self.maintain()? {
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Writes checkpoints until the segments in which nothing is in use are gone, if they make
    /// up so many bytes.
    fn let_go(&self, worth_bytes: u64) -> io::Result<()> {
        for _ in 0..KEPT {
            if self.read().segments.dead_bytes() < worth_bytes {
                break;
            }
            self.checkpoint(true)?;
        }
        Ok(())
    }

    /// What it takes for space to be given back before checkpoints come to it by themselves.
    pub(super) fn reclaim(&self) -> io::Result<()> {
        let total_bytes = self.read().size().total_bytes;
        self.let_go((total_bytes / 8).max(self.limits.segment_bytes.into()))
    }

    /// One bounded step of removing what was compacted, or of rewriting sparse segments.
    /// `true` if there is more to do.
    pub(super) fn maintain(&self) -> io::Result<bool> {
        let _work = self.work();
        let roomy = self.has_room(u64::from(self.limits.segment_bytes) / 2);
        let mut inner = self.write();
        inner.usable()?;
        let Inner {
            store,
            segments,
            relocation,
            ..
        } = &mut *inner;
        if store.has_removals() {
            store.compact_step(REMOVE_KEYS, segments);
            return Ok(true);
        }
        if !roomy {
            // Values need a new place before their old one can go.
            return Ok(false);
        }
        if relocation.is_none() {
            let from = segments.sparse();
            // What is damaged is not moved, and what is beside it neither.
            if from.is_empty() || !self.damage.is_empty() {
                return Ok(false);
            }
            *relocation = Some(Relocation { from, cursor: None });
        }
        let Some(Relocation { from, cursor }) = relocation else {
            return Ok(false);
        };
        let wanted = |location: trivet_mvcc::Location| from.contains(&location.segment);
        let done = store.relocate_step(cursor, MOVE_KEYS, &wanted, &mut |old| {
            let value = segments.read(old)?;
            let new = segments.append(&value)?;
            segments.release(old);
            Ok(new)
        });
        segments.flush()?;
        let done = match done {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                *relocation = None;
                return Ok(false);
            }
            done => done?,
        };
        if done {
            *relocation = None;
        }
        self.note_size(&inner);
        Ok(true)
    }
}

/// Room that is left alone.
const MARGIN_BYTES: u64 = 1 << 20;
/// How long to wait before looking for room again.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

impl Shared {
    /// The room of the file system, where that is known.
    pub fn space(&self) -> Option<Space> {
        match self.disk.space(&self.values_dir) {
            Ok(space) => space,
            Err(error) => {
                tracing::debug!(%error, "the space of the file system is not known");
                None
            }
        }
    }

    /// Whether so many bytes can be written, as far as is known.
    fn has_room(&self, bytes: u64) -> bool {
        self.space()
            .is_none_or(|space| space.free_bytes >= bytes + MARGIN_BYTES)
    }

    /// Waits until so many bytes can be written: what is applied cannot be given up half way.
    /// Call without the lock, so that readers go on. An error when the state is closed meanwhile.
    pub(super) fn wait_for_room(&self, bytes: u64) -> io::Result<()> {
        if self.has_room(bytes) {
            return Ok(());
        }
        tracing::error!(dir = %self.values_dir.display(), "the file system is full, the state waits for space");
        while !self.has_room(bytes) {
            if self.closed.load(Ordering::Acquire) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            std::thread::sleep(ROOM_PAUSE);
        }
        tracing::info!("there is space again, the state goes on");
        Ok(())
    }
}

impl Inner {
    pub(super) fn image(&self) -> Image {
        Image {
            position: self.applied,
            view: self.store.view().clone(),
            leases: self.store.leases().iter().collect(),
            side: self.side.clone(),
            segments: self.segments.marks(),
        }
    }
}
