//! Commands of dqlite's state machine: the payload of log entries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::damage::Fault;
use crate::image::Image;
use crate::input::{Input, u16_at, u32_at, u64_at};

/// Names are file names with options; K3s's has 40 bytes.
const MAX_NAME: usize = 4096;
/// K3s has one database.
const MAX_DATABASES: usize = 16;
/// Page numbers that are read at a time.
const NUMBERS_AT_ONCE: usize = 1024;

/// The databases being rebuilt, by name.
#[derive(Debug)]
pub(crate) struct Databases {
    scratch: PathBuf,
    pub(crate) images: BTreeMap<Vec<u8>, Image>,
}

impl Databases {
    pub(crate) fn new(scratch: &Path) -> Self {
        Self {
            scratch: scratch.to_owned(),
            images: BTreeMap::new(),
        }
    }

    /// The image of that name, made when missing.
    pub(crate) fn image(&mut self, name: &[u8], offset: u64) -> Result<&mut Image, Fault> {
        if !self.images.contains_key(name) {
            if self.images.len() >= MAX_DATABASES {
                return Err(Fault::bad(offset, "too many databases"));
            }
            self.images
                .insert(name.to_owned(), Image::new(&self.scratch)?);
        }
        Ok(self.images.get_mut(name).expect("was just inserted"))
    }
}

/// Reads padded text: bytes, a NUL, and zeros up to a multiple of 8.
fn text(input: &mut Input<'_>, end: u64) -> Result<Vec<u8>, Fault> {
    let start = input.pos();
    let mut name = Vec::new();
    while input.pos() + 8 <= end && name.len() < MAX_NAME {
        let mut word = [0; 8];
        input.exact(&mut word)?;
        match word.iter().position(|&byte| byte == 0) {
            Some(length) => {
                name.extend_from_slice(&word[..length]);
                return Ok(name);
            }
            None => name.extend_from_slice(&word),
        }
    }
    Err(Fault::bad(start, "the name of a database has no end"))
}

/// Applies the command that begins here and is `length` bytes long.
pub(crate) fn apply(
    input: &mut Input<'_>,
    length: u64,
    databases: &mut Databases,
) -> Result<(), Fault> {
    let start = input.pos();
    let end = start + length;
    if length < 16 {
        return Err(Fault::bad(
            start,
            format!("a command of {length} bytes, too short for any"),
        ));
    }
    let mut head = [0; 8];
    input.exact(&mut head)?;
    if head[0] != 1 {
        return Err(Fault::bad(start, format!("command format {}", head[0])));
    }
    match head[1] {
        // OPEN and CHECKPOINT change nothing that is stored.
        1 | 4 => text(input, end).map(|_| ()),
        2 => frames(input, end, databases),
        3 => {
            let mut id = [0; 8];
            input.exact(&mut id)?;
            let id = u64_at(&id, 0);
            for image in databases.images.values_mut() {
                image.undo(id);
            }
            Ok(())
        }
        kind => Err(Fault::bad(start + 1, format!("command of type {kind}"))),
    }
}

fn frames(input: &mut Input<'_>, end: u64, databases: &mut Databases) -> Result<(), Fault> {
    let start = input.pos();
    let name = text(input, end)?;
    let fields = input.pos();
    let mut head = [0; 24];
    if end - fields < head.len() as u64 {
        return Err(Fault::bad(fields, "page frames without their header"));
    }
    input.exact(&mut head)?;
    let transaction = u64_at(&head, 0);
    let truncate = u32_at(&head, 8);
    let is_commit = head[12] != 0;
    let count = u64::from(u32_at(&head, 16));
    // 65536 does not fit into two bytes; the length of the entry confirms it.
    let page_bytes = match u16_at(&head, 20) {
        0 | 1 if count > 0 => 65536,
        bytes => u32::from(bytes),
    };
    let numbers_at = input.pos();
    let pages_at = numbers_at + count * 8;
    if pages_at + count * u64::from(page_bytes) != end {
        return Err(Fault::bad(
            start,
            format!(
                "{count} page frames of {page_bytes} bytes do not fit an entry that ends at byte {end}"
            ),
        ));
    }
    let image = databases.image(&name, start)?;
    // An entry without pages may end a transaction, and need not know a page size.
    if count > 0 || page_bytes != 0 {
        image.expect_page_bytes(page_bytes, fields + 20)?;
    }
    image.begin(transaction);
    let mut page = vec![0; page_bytes as usize];
    let mut done = 0;
    while done < count {
        let some = (count - done).min(NUMBERS_AT_ONCE as u64);
        let mut numbers = vec![0; some as usize * 8];
        input.seek(numbers_at + done * 8);
        input.exact(&mut numbers)?;
        input.seek(pages_at + done * u64::from(page_bytes));
        for (place, number) in numbers.chunks_exact(8).enumerate() {
            let offset = numbers_at + (done + place as u64) * 8;
            let number = u32::try_from(u64_at(number, 0))
                .map_err(|_| Fault::bad(offset, "page number beyond what SQLite knows"))?;
            input.exact(&mut page)?;
            image.write(number, &page, offset)?;
        }
        done += some;
    }
    if is_commit {
        image.commit((truncate != 0).then_some(truncate), fields + 8)?;
    }
    Ok(())
}
