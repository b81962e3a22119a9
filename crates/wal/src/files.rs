//! Files of a log directory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trivet_env::{Disk, DiskFile, OpenMode};

use crate::error::{Error, Result};
use crate::format::{self, BadHeader};

const IDENTITY: &str = "log.id";
const IDENTITY_NEW: &str = "log.id.new";
const PREPARING: &str = "preparing";

/// The directory of one log.
#[derive(Clone)]
pub(crate) struct LogDir {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
}

/// A segment's file. Readers hold it while they read; a file nobody holds may be recycled.
pub(crate) struct Segment {
    pub(crate) sequence: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) size_bytes: u32,
}

/// A file waiting to become a segment.
#[derive(Debug, Clone)]
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    pub(crate) size_bytes: u32,
}

/// What a directory contains.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) identity: bool,
    /// Sequence numbers, ascending.
    pub(crate) segments: Vec<u64>,
    pub(crate) spares: Vec<PathBuf>,
    /// Work that a crash interrupted.
    pub(crate) unfinished: Vec<PathBuf>,
}

impl LogDir {
    pub(crate) fn segment_path(&self, sequence: u64) -> PathBuf {
        self.path.join(format!("{sequence:016x}.wal"))
    }

    pub(crate) fn spare_path(&self, sequence: u64) -> PathBuf {
        self.path.join(format!("{sequence:016x}.spare"))
    }

    pub(crate) fn preparing_path(&self) -> PathBuf {
        self.path.join(PREPARING)
    }

    pub(crate) fn identity_path(&self) -> PathBuf {
        self.path.join(IDENTITY)
    }

    /// Creates the directory and makes the names that lead to it durable.
    pub(crate) fn create(&self) -> Result<()> {
        let disk = &self.disk;
        disk.create_dir_all(&self.path)
            .map_err(|e| Error::io("create", &self.path, e))?;
        for (level, ancestor) in self.path.ancestors().skip(1).enumerate() {
            let ancestor = if ancestor.as_os_str().is_empty() {
                Path::new(".")
            } else {
                ancestor
            };
            match disk.sync_dir(ancestor) {
                Ok(()) => {}
                Err(e) if level == 0 => return Err(Error::io("sync", ancestor, e)),
                // Above the parent, directories may be closed to us; then they are not ours.
                Err(_) => break,
            }
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.disk
            .sync_dir(&self.path)
            .map_err(|e| Error::io("sync", &self.path, e))
    }

    pub(crate) fn list(&self) -> Result<Listing> {
        let names = self
            .disk
            .read_dir(&self.path)
            .map_err(|e| Error::io("list", &self.path, e))?;
        let mut listing = Listing::default();
        for name in names {
            let sequence = |suffix| {
                let digits: &str = name.strip_suffix(suffix)?;
                let plain = digits.len() == 16 && !digits.starts_with('+');
                plain.then(|| u64::from_str_radix(digits, 16).ok())?
            };
            match name.as_str() {
                IDENTITY => listing.identity = true,
                IDENTITY_NEW | PREPARING => listing.unfinished.push(self.path.join(&name)),
                _ => match (sequence(".wal"), sequence(".spare")) {
                    (Some(sequence), _) => listing.segments.push(sequence),
                    (_, Some(_)) => listing.spares.push(self.path.join(&name)),
                    _ => {
                        let dir = self.path.display();
                        tracing::warn!(%dir, name, "unknown file in the log's directory");
                    }
                },
            }
        }
        listing.segments.sort_unstable();
        listing.segments.dedup();
        Ok(listing)
    }

    pub(crate) fn read_identity(&self) -> Result<u64> {
        let path = self.identity_path();
        let read = || -> io::Result<Vec<u8>> {
            let file = self.disk.open(&path, OpenMode::Read)?;
            // One byte more than expected, so that a longer file is noticed.
            let size = file.size_bytes()?.min(format::IDENTITY_BYTES as u64 + 1);
            let mut bytes = vec![0; size as usize];
            file.read_exact_at(0, &mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|e| Error::io("read", &path, e))?;
        format::decode_identity(&bytes).map_err(|bad| match bad {
            BadHeader::Invalid => Error::damaged(&path, 0, "not the identity of a log"),
            BadHeader::Version(version) => Error::Unsupported {
                file: path.clone(),
                version,
            },
        })
    }

    pub(crate) fn write_identity(&self, salt: u64) -> Result<()> {
        let new = self.path.join(IDENTITY_NEW);
        let path = self.identity_path();
        let write = || -> io::Result<()> {
            let file = self.disk.open(&new, OpenMode::CreateNew)?;
            file.write_all_at(0, &format::encode_identity(salt))?;
            file.sync_data()?;
            self.disk.rename(&new, &path)?;
            self.disk.sync_dir(&self.path)
        };
        write().map_err(|e| Error::io("create", &path, e))
    }

    pub(crate) fn open_segment(&self, sequence: u64) -> Result<Segment> {
        let path = self.segment_path(sequence);
        let open = || -> io::Result<(Arc<dyn DiskFile>, u64)> {
            let file = self.disk.open(&path, OpenMode::ReadWrite)?;
            let size = file.size_bytes()?;
            Ok((file, size))
        };
        let (file, size) = open().map_err(|e| Error::io("open", &path, e))?;
        // A larger one cannot be ours: offsets would not fit a record.
        let size_bytes = u32::try_from(size)
            .ok()
            .filter(|size| *size <= SEGMENT_BYTES_LIMIT)
            .ok_or_else(|| Error::damaged(&path, 0, format!("{size} bytes are no segment")))?;
        Ok(Segment {
            sequence,
            path,
            file,
            size_bytes,
        })
    }

    /// Turns `spare`, or without one a new sparse file, into the file of a segment. The name
    /// is durable on return; the content is not a segment yet.
    pub(crate) fn new_segment(
        &self,
        sequence: u64,
        size_bytes: u32,
        spare: Option<&Spare>,
    ) -> Result<Segment> {
        let path = self.segment_path(sequence);
        let make = || -> io::Result<Segment> {
            let (file, size_bytes) = match spare {
                Some(spare) => {
                    let file = self.disk.open(&spare.path, OpenMode::ReadWrite)?;
                    self.disk.rename(&spare.path, &path)?;
                    (file, spare.size_bytes)
                }
                None => {
                    let file = self.disk.open(&path, OpenMode::CreateNew)?;
                    if let Err(error) = file.set_size(u64::from(size_bytes)) {
                        // The name must be free for another attempt.
                        self.disk.remove_file(&path)?;
                        return Err(error);
                    }
                    (file, size_bytes)
                }
            };
            self.disk.sync_dir(&self.path)?;
            Ok(Segment {
                sequence,
                path: path.clone(),
                file,
                size_bytes,
            })
        };
        make().map_err(|e| Error::io("begin", &path, e))
    }

    pub(crate) fn remove(&self, path: &Path) -> Result<()> {
        self.disk
            .remove_file(path)
            .map_err(|e| Error::io("remove", path, e))
    }
}

/// Offsets are counted in 24 bits of 8 bytes.
pub(crate) const SEGMENT_BYTES_LIMIT: u32 = 128 << 20;
