//! Snapshots: the state machine's databases at one index, and the servers at that time.

use std::io::{self, Read};

use lz4_flex::frame::FrameDecoder;
use trivet_datastore::ReadOnlyDir;

use crate::command::Databases;
use crate::configuration::{self, Server};
use crate::damage::Fault;
use crate::image::source_error;
use crate::input::{Input, u32_at, u64_at};
use crate::{crc, sqlite_wal};

const META_HEADER: u64 = 32;
const MAX_CONFIGURATION: u64 = 1 << 20;
const MAX_NAME: usize = 4096;
const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4D, 0x18];

fn missing(what: &str) -> Fault {
    Fault::bad(0, format!("{what} is gone"))
}

/// Checks a `.meta` file; says the servers it lists.
pub(crate) fn meta(dir: &dyn ReadOnlyDir, path: &str) -> Result<Vec<Server>, Fault> {
    let mut input = Input::open(dir, path)?.ok_or_else(|| missing("the file"))?;
    let mut head = [0; META_HEADER as usize];
    input.exact(&mut head)?;
    let (format, length) = (u64_at(&head, 0), u64_at(&head, 24));
    if format != 1 {
        return Err(Fault::bad(0, format!("format {format} instead of 1")));
    }
    if length == 0 || length > MAX_CONFIGURATION || length != input.left() {
        return Err(Fault::bad(
            24,
            format!(
                "a configuration of {length} bytes is announced, {} follow",
                input.left()
            ),
        ));
    }
    let mut configuration = vec![0; length as usize];
    input.exact(&mut configuration)?;
    let crc = crc::update(crc::update(0, &head[16..]), &configuration);
    if u64_at(&head, 8) != u64::from(crc) {
        return Err(Fault::bad(16, "the checksum does not match"));
    }
    configuration::decode(&configuration)
        .ok_or_else(|| Fault::bad(META_HEADER, "the list of servers cannot be read"))
}

/// Counts what was read, to say where something is wrong.
struct Counted<R> {
    inner: R,
    at: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.at += got as u64;
        Ok(got)
    }
}

impl<R: Read> Counted<R> {
    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read(&mut buffer[done..]) {
                Ok(0) => return Err(Fault::bad(self.at, "the snapshot ends here, too early")),
                Ok(got) => done += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(source_error(error, self.at)),
            }
        }
        Ok(())
    }

    fn word(&mut self) -> Result<u64, Fault> {
        let mut word = [0; 8];
        self.exact(&mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    fn text(&mut self) -> Result<Vec<u8>, Fault> {
        let (start, mut name) = (self.at, Vec::new());
        while name.len() < MAX_NAME {
            let word = self.word()?.to_le_bytes();
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
}

/// Loads a snapshot's data into databases that are still empty. After an error they hold
/// nonsense and must be thrown away. Offsets in a compressed snapshot are those of its content.
pub(crate) fn load(
    dir: &dyn ReadOnlyDir,
    path: &str,
    databases: &mut Databases,
) -> Result<(), Fault> {
    let mut input = Input::open(dir, path)?.ok_or_else(|| missing("the file"))?;
    let length = input.len();
    let mut magic = [0; 4];
    input.exact(&mut magic)?;
    input.seek(0);
    if magic == LZ4_MAGIC {
        content(FrameDecoder::new(input), None, databases)
    } else if u32_at(&magic, 0) == 1 {
        content(input, Some(length), databases)
    } else {
        Err(Fault::bad(
            0,
            "neither a snapshot of format 1 nor compressed with LZ4",
        ))
    }
}

fn content(input: impl Read, length: Option<u64>, databases: &mut Databases) -> Result<(), Fault> {
    let mut input = Counted {
        inner: input,
        at: 0,
    };
    let format = input.word()?;
    if format != 1 {
        return Err(Fault::bad(0, format!("format {format} instead of 1")));
    }
    let count = input.word()?;
    for _ in 0..count {
        let start = input.at;
        let name = input.text()?;
        let (main, wal) = (input.word()?, input.word()?);
        let end = main
            .checked_add(wal)
            .and_then(|both| both.checked_add(input.at))
            .ok_or_else(|| Fault::bad(start, "impossible lengths"))?;
        if let Some(length) = length.filter(|&length| end > length) {
            return Err(Fault::bad(
                length,
                format!("the file ends here and should have {end} bytes at least"),
            ));
        }
        let image = databases.image(&name, start)?;
        if image.pages() != 0 {
            return Err(Fault::bad(start, "the same database twice"));
        }
        if main > 0 {
            let at = input.at;
            let mut head = [0; 100];
            if main < head.len() as u64 {
                return Err(Fault::bad(at, format!("a database of {main} bytes")));
            }
            input.exact(&mut head)?;
            let page_bytes = page_bytes(&head)
                .ok_or_else(|| Fault::bad(at, "no header of a SQLite database"))?;
            image.expect_page_bytes(page_bytes, at + 16)?;
            image.load(&head, &mut input, main, at)?;
        }
        let at = input.at;
        sqlite_wal::apply(&mut input, wal, image, at)?;
    }
    // Reading on is also what makes the decoder check the checksum of the whole.
    let at = input.at;
    match input.read(&mut [0; 1]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Fault::bad(at, "more follows the last database")),
        Err(error) => Err(source_error(error, at)),
    }
}

/// Page size in the header of a SQLite database.
pub(crate) fn page_bytes(head: &[u8]) -> Option<u32> {
    if !head.starts_with(b"SQLite format 3\0") {
        return None;
    }
    match u16::from_be_bytes([*head.get(16)?, *head.get(17)?]) {
        1 => Some(65536),
        bytes => Some(bytes.into()),
    }
}
