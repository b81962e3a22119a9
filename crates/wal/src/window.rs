//! Reading a segment from front to back without holding all of it.

use std::io;
use std::sync::Arc;

use trivet_env::DiskFile;

/// How much is read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// A piece of a file that moves forward.
pub(crate) struct Window {
    file: Arc<dyn DiskFile>,
    size: u64,
    start: u64,
    buffer: Vec<u8>,
}

impl Window {
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let size = file.size_bytes()?;
        Ok(Self {
            file,
            size,
            start: 0,
            buffer: Vec::new(),
        })
    }

    /// `length` bytes at `offset`, `None` when the file ends before.
    pub(crate) fn bytes(&mut self, offset: u64, length: usize) -> io::Result<Option<&[u8]>> {
        let Some(end) = offset
            .checked_add(length as u64)
            .filter(|end| *end <= self.size)
        else {
            return Ok(None);
        };
        if offset < self.start || end > self.start + self.buffer.len() as u64 {
            let wanted = (self.size - offset).min(length.max(WINDOW_BYTES) as u64) as usize;
            self.buffer.clear();
            self.buffer.resize(wanted, 0);
            self.file.read_exact_at(offset, &mut self.buffer)?;
            self.start = offset;
        }
        let at = (offset - self.start) as usize;
        Ok(Some(&self.buffer[at..at + length]))
    }

    /// As many bytes at `offset` as are at hand, at least `length`; `None` when fewer are left.
    pub(crate) fn at_least(&mut self, offset: u64, length: usize) -> io::Result<Option<&[u8]>> {
        if self.bytes(offset, length)?.is_none() {
            return Ok(None);
        }
        Ok(Some(&self.buffer[(offset - self.start) as usize..]))
    }
}
