//! A SQLite database being rebuilt page by page in a scratch file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::damage::Fault;

/// Far above any database that Kubernetes fits into; keeps hostile page numbers from making
/// files of absurd size.
const MAX_BYTES: u64 = 64 << 30;
/// Pages of an unfinished transaction that are kept in memory; more go to a file.
const PENDING_IN_MEMORY: usize = 8 << 20;

/// Whether SQLite knows such a page size.
pub(crate) fn is_page_size(bytes: u32) -> bool {
    bytes.is_power_of_two() && (512..=65536).contains(&bytes)
}

fn scratch_error(source: io::Error) -> Fault {
    Fault::io("cannot write the scratch file", source)
}

/// Pages of a transaction that may still be taken back. The last version of each counts.
#[derive(Debug, Default)]
struct Pending {
    transaction: u64,
    /// Page number to slot.
    slots: HashMap<u32, u32>,
    memory: Vec<u8>,
    file: Option<File>,
    used: u32,
}

/// A database image. Only complete transactions ever reach its file.
#[derive(Debug)]
pub(crate) struct Image {
    file: NamedTempFile,
    scratch: PathBuf,
    page_bytes: Option<u32>,
    pages: u32,
    pending: Pending,
}

impl Image {
    pub(crate) fn new(scratch: &Path) -> Result<Self, Fault> {
        let file = tempfile::Builder::new()
            .prefix(".trivet-read-")
            .tempfile_in(scratch)
            .map_err(|source| {
                Fault::io(
                    format!("cannot create a scratch file in {}", scratch.display()),
                    source,
                )
            })?;
        Ok(Self {
            file,
            scratch: scratch.to_owned(),
            page_bytes: None,
            pages: 0,
            pending: Pending::default(),
        })
    }

    /// Size of the database in pages.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// Size of a page in bytes, 0 before the first.
    pub(crate) fn page_bytes(&self) -> u32 {
        self.page_bytes.unwrap_or(0)
    }

    /// Fixes the page size, or checks that it is still the same.
    pub(crate) fn expect_page_bytes(&mut self, bytes: u32, offset: u64) -> Result<(), Fault> {
        match self.page_bytes {
            _ if !is_page_size(bytes) => {
                Err(Fault::bad(offset, format!("impossible page size {bytes}")))
            }
            Some(known) if known != bytes => Err(Fault::bad(
                offset,
                format!("page size {bytes} in a database of page size {known}"),
            )),
            _ => {
                self.page_bytes = Some(bytes);
                Ok(())
            }
        }
    }

    fn check_size(&self, pages: u64, offset: u64) -> Result<(), Fault> {
        if pages.saturating_mul(self.page_bytes().into()) > MAX_BYTES {
            return Err(Fault::bad(
                offset,
                format!("a database of {pages} pages is beyond belief"),
            ));
        }
        Ok(())
    }

    /// Takes a whole database file, `bytes` long, whose first part was already read.
    pub(crate) fn load(
        &mut self,
        head: &[u8],
        rest: &mut dyn Read,
        bytes: u64,
        offset: u64,
    ) -> Result<(), Fault> {
        let page_bytes = u64::from(self.page_bytes()).max(1);
        if !bytes.is_multiple_of(page_bytes) {
            return Err(Fault::bad(
                offset,
                format!("a database of {bytes} bytes is no whole number of pages"),
            ));
        }
        self.check_size(bytes / page_bytes, offset)?;
        let file = self.file.as_file_mut();
        file.write_all(head).map_err(scratch_error)?;
        let (mut left, mut buffer) = (bytes - head.len() as u64, vec![0; 64 * 1024]);
        while left > 0 {
            let want = left.min(buffer.len() as u64) as usize;
            let got = match rest.read(&mut buffer[..want]) {
                Ok(0) => {
                    return Err(Fault::bad(
                        offset + bytes - left,
                        format!("the database ends here, {left} of {bytes} bytes are missing"),
                    ));
                }
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(source_error(error, offset + bytes - left)),
            };
            file.write_all(&buffer[..got]).map_err(scratch_error)?;
            left -= got as u64;
        }
        // At most MAX_BYTES / 512, which fits.
        self.pages = u32::try_from(bytes / page_bytes).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Begins or goes on with a transaction. Another one that is still open was given up by
    /// its writer: its pages are dropped.
    pub(crate) fn begin(&mut self, transaction: u64) {
        if self.pending.transaction != transaction {
            self.rollback();
            self.pending.transaction = transaction;
        }
    }

    /// Adds a page to the open transaction.
    pub(crate) fn write(&mut self, page: u32, bytes: &[u8], offset: u64) -> Result<(), Fault> {
        if page == 0 {
            return Err(Fault::bad(offset, "page number 0"));
        }
        self.check_size(page.into(), offset)?;
        let pending = &mut self.pending;
        let slot = match pending.slots.get(&page) {
            Some(&slot) => slot,
            None => {
                let slot = pending.used;
                pending.used += 1;
                pending.slots.insert(page, slot);
                slot
            }
        };
        let at = u64::from(slot) * bytes.len() as u64;
        if pending.file.is_none() && at as usize + bytes.len() > PENDING_IN_MEMORY {
            let file = tempfile::tempfile_in(&self.scratch).map_err(scratch_error)?;
            file.write_all_at(&pending.memory, 0)
                .map_err(scratch_error)?;
            pending.memory = Vec::new();
            pending.file = Some(file);
        }
        match &pending.file {
            Some(file) => file.write_all_at(bytes, at).map_err(scratch_error)?,
            None => {
                let at = at as usize;
                if pending.memory.len() < at + bytes.len() {
                    pending.memory.resize(at + bytes.len(), 0);
                }
                pending.memory[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    /// Makes the open transaction part of the database. `pages` is the size after it, if the
    /// source says so; otherwise the database only grows.
    pub(crate) fn commit(&mut self, pages: Option<u32>, offset: u64) -> Result<(), Fault> {
        let page_bytes = self.page_bytes();
        let highest = self.pending.slots.keys().copied().max().unwrap_or(0);
        let size = pages.unwrap_or(self.pages.max(highest));
        self.check_size(size.into(), offset)?;
        let pending = std::mem::take(&mut self.pending);
        let mut bytes = vec![0; page_bytes as usize];
        let mut order: Vec<_> = pending.slots.iter().collect();
        order.sort_unstable();
        for (&page, &slot) in order {
            if page > size {
                continue;
            }
            let at = u64::from(slot) * u64::from(page_bytes);
            match &pending.file {
                Some(file) => file.read_exact_at(&mut bytes, at).map_err(scratch_error)?,
                None => {
                    let at = at as usize;
                    bytes.copy_from_slice(&pending.memory[at..at + page_bytes as usize]);
                }
            }
            let at = u64::from(page - 1) * u64::from(page_bytes);
            self.file
                .as_file()
                .write_all_at(&bytes, at)
                .map_err(scratch_error)?;
        }
        if size < self.pages {
            self.file
                .as_file()
                .set_len(u64::from(size) * u64::from(page_bytes))
                .map_err(scratch_error)?;
        }
        self.pages = size;
        Ok(())
    }

    /// Drops the open transaction; says how many pages it had.
    pub(crate) fn rollback(&mut self) -> usize {
        std::mem::take(&mut self.pending).slots.len()
    }

    /// Drops the open transaction if it has that number.
    pub(crate) fn undo(&mut self, transaction: u64) {
        if self.pending.transaction == transaction {
            self.rollback();
        }
    }

    /// The finished database file; `None` if nothing was ever committed. An open transaction
    /// is dropped.
    pub(crate) fn finish(mut self) -> Result<Option<NamedTempFile>, Fault> {
        self.rollback();
        if self.pages == 0 {
            return Ok(None);
        }
        let file = self.file.as_file();
        file.set_len(u64::from(self.pages) * u64::from(self.page_bytes()))
            .map_err(scratch_error)?;
        // "Written with a rollback journal": SQLite then opens the file without a log beside it.
        file.write_all_at(&[1, 1], 18).map_err(scratch_error)?;
        Ok(Some(self.file))
    }
}

/// Decoders report bad input as `InvalidData`; anything else is the operating system's.
pub(crate) fn source_error(error: io::Error, offset: u64) -> Fault {
    match error.kind() {
        io::ErrorKind::InvalidData
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::Other => Fault::bad(offset, error.to_string()),
        _ => Fault::io("cannot read", error),
    }
}
