//! Reading files piecewise through a [`ReadOnlyDir`], which cannot write.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use trivet_datastore::ReadOnlyDir;

use crate::damage::Fault;

const CHUNK: usize = 256 * 1024;

/// A directory of the file system that can only be looked at. Links are followed, except that
/// a dangling one is still listed by name.
#[derive(Debug, Clone)]
pub struct Directory(PathBuf);

impl Directory {
    /// The directory at a path, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn metadata(&self, path: &str) -> io::Result<Option<fs::Metadata>> {
        match fs::metadata(self.0.join(path)) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl ReadOnlyDir for Directory {
    fn read_dir(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.0.join(path))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn read(&self, path: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.0.join(path))?;
        let (mut bytes, mut done) = (vec![0; length], 0);
        while done < length {
            match file.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    fn file_size_bytes(&self, path: &str) -> io::Result<Option<u64>> {
        Ok(self
            .metadata(path)?
            .filter(fs::Metadata::is_file)
            .map(|metadata| metadata.len()))
    }

    fn is_dir(&self, path: &str) -> io::Result<bool> {
        Ok(self
            .metadata(path)?
            .is_some_and(|metadata| metadata.is_dir()))
    }
}

pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// A path below a path; either may be empty.
pub(crate) fn join(parent: &str, name: &str) -> String {
    match (parent, name) {
        ("", name) => name.to_owned(),
        (parent, "") => parent.to_owned(),
        (parent, name) => format!("{parent}/{name}"),
    }
}

/// One file, read forwards in pieces, with jumps.
pub(crate) struct Input<'a> {
    dir: &'a dyn ReadOnlyDir,
    path: String,
    len: u64,
    pos: u64,
    chunk: Vec<u8>,
    chunk_at: u64,
}

impl<'a> Input<'a> {
    /// `None` where there is no regular file.
    pub(crate) fn open(dir: &'a dyn ReadOnlyDir, path: &str) -> Result<Option<Self>, Fault> {
        let size = dir
            .file_size_bytes(path)
            .map_err(|source| Fault::io(format!("cannot look at {path}"), source))?;
        Ok(size.map(|len| Self {
            dir,
            path: path.to_owned(),
            len,
            pos: 0,
            chunk: Vec::new(),
            chunk_at: 0,
        }))
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn pos(&self) -> u64 {
        self.pos
    }

    pub(crate) fn left(&self) -> u64 {
        self.len.saturating_sub(self.pos)
    }

    pub(crate) fn seek(&mut self, pos: u64) {
        self.pos = pos;
    }

    /// What can be had without another read; empty at the end of the file.
    pub(crate) fn piece(&mut self, most: usize) -> Result<&[u8], Fault> {
        self.fill()?;
        let start = self.start().min(self.chunk.len());
        let end = self.chunk.len().min(start.saturating_add(most));
        self.pos += (end - start) as u64;
        Ok(&self.chunk[start..end])
    }

    /// Fills the buffer or finds the file too short.
    pub(crate) fn exact(&mut self, buffer: &mut [u8]) -> Result<(), Fault> {
        let from = self.pos;
        let mut done = 0;
        while done < buffer.len() {
            let piece = self.piece(buffer.len() - done)?;
            if piece.is_empty() {
                return Err(Fault::bad(
                    from,
                    format!(
                        "the file ends here, {} of {} bytes are missing",
                        buffer.len() - done,
                        buffer.len()
                    ),
                ));
            }
            buffer[done..done + piece.len()].copy_from_slice(piece);
            done += piece.len();
        }
        Ok(())
    }

    /// Whether everything from here on is zero. Moves to the end.
    pub(crate) fn rest_is_zero(&mut self) -> Result<bool, Fault> {
        static ZEROS: [u8; 4096] = [0; 4096];
        loop {
            let piece = self.piece(ZEROS.len())?;
            if piece.is_empty() {
                return Ok(true);
            }
            if piece != &ZEROS[..piece.len()] {
                return Ok(false);
            }
        }
    }

    fn start(&self) -> usize {
        // In range right after `fill`, whose chunks fit into memory.
        usize::try_from(self.pos.saturating_sub(self.chunk_at)).unwrap_or(usize::MAX)
    }

    fn fill(&mut self) -> Result<(), Fault> {
        let end = self.chunk_at + self.chunk.len() as u64;
        if self.pos >= self.chunk_at && self.pos < end {
            return Ok(());
        }
        let want = self.left().min(CHUNK as u64) as usize;
        self.chunk = if want == 0 {
            Vec::new()
        } else {
            self.dir
                .read(&self.path, self.pos, want)
                .map_err(|source| Fault::io(format!("cannot read {}", self.path), source))?
        };
        self.chunk_at = self.pos;
        Ok(())
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.piece(buffer.len()) {
            Ok(piece) => {
                buffer[..piece.len()].copy_from_slice(piece);
                Ok(piece.len())
            }
            Err(Fault::Io { source, .. }) => Err(source),
            Err(Fault::Bad { what, .. }) => Err(io::Error::new(io::ErrorKind::InvalidData, what)),
        }
    }
}

/// Little-endian numbers in a slice that is known to be long enough.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
