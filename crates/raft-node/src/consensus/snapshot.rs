//! Snapshots on their way: framing, and the file a received one is spooled to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use trivet_env::{Disk, DiskFile, OpenMode};

use crate::api::SnapshotSource;

/// How much one chunk of a received snapshot may hold.
pub(crate) const CHUNK_BYTES_MAX: usize = 4 << 20;

/// Where spooled snapshots lie, below the node's directory. They never outlive a restart.
const SPOOL_PREFIX: &str = "incoming-";

/// A snapshot in one of its states.
pub(crate) enum SnapshotData {
    /// What the state machine itself keeps on disk; there is nothing to read.
    OnDisk,
    /// Ready to be sent.
    Fresh(Box<dyn SnapshotSource>),
    /// Received whole and checked.
    Received(Spool),
}

/// A received snapshot: chunks in a file, each with its length (u32, little endian) in front.
/// The file goes away with this value.
pub(crate) struct Spool {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    end: u64,
    chunks: u64,
    size_bytes: u64,
    crc: u32,
}

impl Spool {
    /// A new spool file in `dir`. Blocks.
    pub(crate) fn create(disk: Arc<dyn Disk>, dir: &Path, unique: u64) -> io::Result<Self> {
        let path = dir.join(format!("{SPOOL_PREFIX}{unique:016x}"));
        let file = disk.open(&path, OpenMode::CreateNew)?;
        Ok(Self {
            disk,
            path,
            file,
            end: 0,
            chunks: 0,
            size_bytes: 0,
            crc: 0,
        })
    }

    /// Removes what an earlier run left behind. Blocks.
    pub(crate) fn clean(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        for name in disk.read_dir(dir)? {
            if name.starts_with(SPOOL_PREFIX) {
                disk.remove_file(&dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Appends one chunk. Blocks.
    pub(crate) fn push(&mut self, data: &[u8]) -> io::Result<()> {
        if data.len() > CHUNK_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a snapshot chunk is too large",
            ));
        }
        let length = data.len() as u32;
        self.file.write_all_at(self.end, &length.to_le_bytes())?;
        self.file.write_all_at(self.end + 4, data)?;
        self.end += 4 + u64::from(length);
        self.chunks += 1;
        self.size_bytes += u64::from(length);
        self.crc = crc32c::crc32c_append(self.crc, data);
        Ok(())
    }

    /// Whether everything that was sent has arrived.
    pub(crate) fn verify(&self, chunks: u64, size_bytes: u64, crc: u32) -> io::Result<()> {
        if (self.chunks, self.size_bytes, self.crc) != (chunks, size_bytes, crc) {
            let message = format!(
                "the snapshot arrived with {} chunks of {} bytes in all instead of {chunks} of {size_bytes}, or damaged",
                self.chunks, self.size_bytes
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(())
    }

    /// The chunks in order. Blocks.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = io::Result<Bytes>> + '_ {
        let mut offset = 0;
        std::iter::from_fn(move || {
            if offset >= self.end {
                return None;
            }
            let chunk = self.chunk_at(offset);
            match &chunk {
                Ok(data) => offset += 4 + data.len() as u64,
                Err(_) => offset = self.end,
            }
            Some(chunk)
        })
    }

    fn chunk_at(&self, offset: u64) -> io::Result<Bytes> {
        let mut length = [0; 4];
        self.file.read_exact_at(offset, &mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > CHUNK_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the spooled snapshot is damaged",
            ));
        }
        let mut data = vec![0; length];
        self.file.read_exact_at(offset + 4, &mut data)?;
        Ok(data.into())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove_file(&self.path) {
            tracing::debug!(%error, "cannot remove a spooled snapshot; the next start will");
        }
    }
}
