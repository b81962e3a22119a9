//! The log as its caller sees it.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use trivet_env::Disk;

use crate::error::Result;
use crate::types::{Callback, Entry, LogState, MetaKind, Position, Recovered, WalOptions};

/// An open log. Clones share it; the last one dropped closes it (see [`Wal::close`]).
#[derive(Clone, Debug)]
pub struct Wal {}

#[allow(clippy::todo, clippy::needless_pass_by_value, unused_variables)]
impl Wal {
    /// open
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: WalOptions) -> Result<(Wal, Recovered)> { todo!() }
    /// append
    pub fn append(&self, entries: Vec<Entry>, done: Callback) -> Result<()> { todo!() }
    /// truncate
    pub fn truncate_after(&self, index: Option<u64>, done: Callback) -> Result<()> { todo!() }
    /// purge
    pub fn purge_up_to(&self, position: Position, done: Callback) -> Result<()> { todo!() }
    /// meta
    pub fn put_meta(&self, kind: MetaKind, value: Bytes, done: Callback) -> Result<()> { todo!() }
    /// lazy meta
    pub fn put_meta_lazy(&self, kind: MetaKind, value: Bytes) -> Result<()> { todo!() }
    /// meta
    pub fn meta(&self, kind: MetaKind) -> Option<Bytes> { todo!() }
    /// read
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>> { todo!() }
    /// cached
    pub fn read_cached(&self, range: Range<u64>, max_bytes: usize) -> Result<Option<Vec<Entry>>> { todo!() }
    /// state
    pub fn state(&self) -> LogState { todo!() }
    /// term
    pub fn term_at(&self, index: u64) -> Option<u64> { todo!() }
    /// size
    pub fn size_bytes(&self) -> u64 { todo!() }
    /// flush
    pub fn flush(&self) -> Result<()> { todo!() }
    /// close
    pub fn close(&self) -> Result<()> { todo!() }
}
