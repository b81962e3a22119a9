//! The content of one file: what programs see, and what would survive a crash.

use std::collections::BTreeSet;

use crate::rng::SimRng;

/// The unit in which a write reaches the disk or does not.
pub const SECTOR_BYTES: usize = 512;
/// The unit of space accounting.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// A change since the last sync.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Resize(usize),
}

/// A file's content. `cached` is `durable` with `pending` and everything lost by failed syncs
/// applied.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inode {
    pub(crate) cached: Vec<u8>,
    pub(crate) durable: Vec<u8>,
    pending: Vec<Change>,
    /// Blocks that occupy space; holes of a sparse file do not.
    blocks: BTreeSet<u64>,
}

impl Inode {
    /// A file whose content is durable.
    pub(crate) fn durable(content: Vec<u8>) -> Self {
        let blocks = (0..(content.len() as u64).div_ceil(BLOCK_BYTES)).collect();
        Self {
            cached: content.clone(),
            durable: content,
            pending: Vec::new(),
            blocks,
        }
    }

    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) {
        overlay(&mut self.cached, offset, data);
        self.pending.push(Change::Write {
            offset,
            data: data.to_vec(),
        });
    }

    pub(crate) fn resize(&mut self, size: usize) {
        self.cached.resize(size, 0);
        self.pending.push(Change::Resize(size));
        self.blocks
            .retain(|block| block * BLOCK_BYTES < size as u64);
    }

    /// How many of `length` bytes at `offset` fit into `space_left`, which is charged.
    pub(crate) fn allocate(&mut self, offset: u64, length: u64, space_left: &mut u64) -> u64 {
        let mut fits = 0;
        while fits < length {
            let block = (offset + fits) / BLOCK_BYTES;
            if self.blocks.insert(block) {
                if *space_left < BLOCK_BYTES {
                    self.blocks.remove(&block);
                    return fits;
                }
                *space_left -= BLOCK_BYTES;
            }
            fits = ((block + 1) * BLOCK_BYTES - offset).min(length);
        }
        length
    }

    pub(crate) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write { offset, data } => overlay(&mut self.durable, offset, &data),
                Change::Resize(size) => self.durable.resize(size, 0),
            }
        }
    }

    /// A failed sync: part of the pending data arrives, the rest is forgotten for ever, while
    /// readers go on seeing it.
    pub(crate) fn fail_sync(&mut self, rng: &SimRng) {
        self.durable = self.after_crash(rng);
        self.pending.clear();
    }

    /// What a crash could leave.
    pub(crate) fn after_crash(&self, rng: &SimRng) -> Vec<u8> {
        // All, none, few, half, most: a plain coin per sector would hardly ever show the
        // extremes, which is where many mistakes hide.
        let percent = [0, 100, 10, 50, 90][rng.below(5) as usize];
        let mut content = self.durable.clone();
        let mut sizes = vec![content.len()];
        let mut size_seen = content.len();
        for change in &self.pending {
            match change {
                Change::Write { offset, data } => {
                    size_seen = size_seen.max(offset + data.len());
                    let mut at = 0;
                    while at < data.len() {
                        let sector_end = (offset + at) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES;
                        let end = (sector_end - offset).min(data.len());
                        if rng.chance(percent) {
                            overlay(&mut content, offset + at, &data[at..end]);
                        }
                        at = end;
                    }
                }
                Change::Resize(size) => {
                    size_seen = *size;
                    if rng.chance(percent) {
                        content.resize(*size, 0);
                    }
                }
            }
            sizes.push(size_seen);
        }
        content.resize(sizes[rng.below(sizes.len() as u64) as usize], 0);
        content
    }
}

fn overlay(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(data);
}
