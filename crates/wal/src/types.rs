//! What goes in and out of the log.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::format::{HEADER_BYTES, RECORD_HEADER_BYTES};

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Index of the entry.
    pub index: u64,
    /// Term of the entry.
    pub term: u64,
}

/// One entry. The payload is opaque here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Index; entries follow each other without a hole.
    pub index: u64,
    /// Term.
    pub term: u64,
    /// The bytes, at most [`Entry::PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
}

impl Entry {
    /// Limit of one payload. An entry must fit a segment of its own with room to spare.
    pub const PAYLOAD_BYTES_MAX: usize = 32 << 20;

    /// Where the entry stands.
    pub fn position(&self) -> Position {
        Position {
            index: self.index,
            term: self.term,
        }
    }
}

/// Which piece of small state a meta record replaces. The numbers are the caller's to choose
/// and part of its disk format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetaKind(pub u8);

/// Limit of the value of one meta record: all of them are copied into every new segment.
pub const META_BYTES_MAX: usize = 4096;

/// Limit of one call to [`Wal::append`](crate::Wal::append), in payload bytes plus
/// [`ENTRY_OVERHEAD_BYTES`] for each entry.
pub const APPEND_BYTES_MAX: usize = 64 << 20;

/// What an entry costs on disk and in the queue on top of its payload.
pub const ENTRY_OVERHEAD_BYTES: usize = RECORD_HEADER_BYTES + 8;

/// Called once, in the order of the calls, on the writer thread: `Ok` when the change is
/// durable. Must not block and must not call a blocking method of the same log.
pub type Callback = Box<dyn FnOnce(Result<()>) + Send>;

/// What the log contains, seen by its caller: changes count from the moment the call that
/// makes them returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogState {
    /// The last purged entry; everything up to here is gone.
    pub purged: Option<Position>,
    /// The last entry, or the purge point when there is no entry after it.
    pub last: Option<Position>,
}

/// What [`Wal::open`](crate::Wal::open) found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Purge point and last entry.
    pub state: LogState,
    /// The last value of each meta kind.
    pub meta: BTreeMap<MetaKind, Bytes>,
    /// Whether the directory held no log yet.
    pub fresh: bool,
    /// Bytes given up behind the last whole record because a crash interrupted the last
    /// write; they were never acknowledged. 0 after a clean stop.
    pub torn_bytes: u64,
}

/// Settings of a log.
#[derive(Debug, Clone)]
pub struct WalOptions {
    /// Size of the first segment. Each next one doubles, up to `segment_bytes_max`: a log
    /// that stays small never writes large files of zeros.
    pub segment_bytes_first: u32,
    /// Size of a full-grown segment, at most 128 MiB (offsets are 24 bits of 8 bytes).
    pub segment_bytes_max: u32,
    /// How many bytes may wait for the writer before callers are made to wait.
    pub queue_bytes_max: usize,
    /// How many bytes one write may carry (a single larger call still goes through).
    pub batch_bytes_max: usize,
    /// How many bytes of the newest entries stay in memory.
    pub cache_bytes_max: usize,
    /// How many emptied segments are kept for reuse.
    pub spares_max: usize,
    /// Fill the next segment with zeros on a thread of its own once the current one is half
    /// full. Without it a new segment is a sparse file, made when it is needed.
    pub prepare_ahead: bool,
    /// Random number mixed into every checksum. Used when the log is created and kept in it
    /// afterwards; makes it impossible to smuggle a record in through a payload.
    pub salt: u64,
}

impl WalOptions {
    /// The settings for production: 1 MiB growing to 64 MiB segments, 64 MiB of queue, 4 MiB
    /// per write, 8 MiB of memory for the newest entries, 2 spare segments.
    pub fn new(salt: u64) -> Self {
        Self {
            segment_bytes_first: 1 << 20,
            segment_bytes_max: 64 << 20,
            queue_bytes_max: 64 << 20,
            batch_bytes_max: 4 << 20,
            cache_bytes_max: 8 << 20,
            spares_max: 2,
            prepare_ahead: true,
            salt,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.segment_bytes_first > self.segment_bytes_max {
            return Err(Error::Options(
                "the first segment is larger than the largest",
            ));
        }
        if self.segment_bytes_max > 128 << 20 {
            return Err(Error::Options("a segment is at most 128 MiB"));
        }
        if (self.segment_bytes_first as usize) < HEADER_BYTES {
            return Err(Error::Options("a segment is at least 64 bytes"));
        }
        Ok(())
    }
}
