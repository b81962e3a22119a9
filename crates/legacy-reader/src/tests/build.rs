//! Encoders for what the crate decodes.

use std::collections::BTreeMap;
use std::io::{self, Write};

use rusqlite::Connection;
use tempfile::TempDir;
use trivet_datastore::ReadOnlyDir;

use crate::crc;

pub(crate) const NAME: &str = "./db/state.db?_journal=WAL&cache=shared";

/// Files of one directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryDir(pub(crate) BTreeMap<String, Vec<u8>>);

impl MemoryDir {
    pub(crate) fn with(mut self, name: &str, bytes: Vec<u8>) -> Self {
        self.0.insert(name.to_owned(), bytes);
        self
    }
}

impl ReadOnlyDir for MemoryDir {
    fn read_dir(&self, _path: &str) -> io::Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn read(&self, path: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let bytes = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
        let start = usize::try_from(offset).unwrap().min(bytes.len());
        Ok(bytes[start..bytes.len().min(start + length)].to_vec())
    }

    fn file_size_bytes(&self, path: &str) -> io::Result<Option<u64>> {
        Ok(self.0.get(path).map(|bytes| bytes.len() as u64))
    }

    fn is_dir(&self, path: &str) -> io::Result<bool> {
        Ok(path.is_empty())
    }
}

/// A kine database that grows row by row, and its pages.
pub(crate) struct Source {
    dir: TempDir,
    connection: Connection,
    pub(crate) page_bytes: u32,
    shown: Vec<Vec<u8>>,
}

pub(crate) type Pages = Vec<(u64, Vec<u8>)>;

impl Source {
    pub(crate) fn new(page_bytes: u32) -> Self {
        let dir = TempDir::new().unwrap();
        let connection = Connection::open(dir.path().join("db")).unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA page_size={page_bytes}; PRAGMA synchronous=OFF;
                 CREATE TABLE kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name INTEGER, created INTEGER, \
                 deleted INTEGER, create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, \
                 old_value BLOB);"
            ))
            .unwrap();
        Self {
            dir,
            connection,
            page_bytes,
            shown: Vec::new(),
        }
    }

    /// Adds a key with so many bytes of value.
    pub(crate) fn put(&mut self, key: &str, bytes: usize) {
        self.connection
            .execute(
                "INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value) \
                 VALUES (?1, 1, 0, 0, 0, 0, ?2)",
                (key, vec![b'v'; bytes]),
            )
            .unwrap();
    }

    pub(crate) fn file(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("db")).unwrap()
    }

    /// Pages that changed since the last call, and the size in pages.
    pub(crate) fn changes(&mut self) -> (Pages, u32) {
        let now: Vec<Vec<u8>> = self
            .file()
            .chunks_exact(self.page_bytes as usize)
            .map(<[u8]>::to_vec)
            .collect();
        let changed = now
            .iter()
            .enumerate()
            .filter(|(place, page)| self.shown.get(*place) != Some(*page))
            .map(|(place, page)| (place as u64 + 1, page.clone()))
            .collect();
        let size = now.len() as u32;
        self.shown = now;
        (changed, size)
    }
}

fn text(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

pub(crate) fn frames(
    transaction: u64,
    truncate: u32,
    commit: bool,
    page_bytes: u32,
    pages: &Pages,
) -> Vec<u8> {
    // The unused bytes are garbage on purpose.
    let mut out = vec![1, 2, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
    out.extend(text(NAME));
    out.extend(transaction.to_le_bytes());
    out.extend(truncate.to_le_bytes());
    out.extend([u8::from(commit), 0x11, 0x22, 0x33]);
    out.extend((pages.len() as u32).to_le_bytes());
    out.extend((page_bytes as u16).to_le_bytes());
    out.extend([0x44, 0x55]);
    for (number, _) in pages {
        out.extend(number.to_le_bytes());
    }
    for (_, page) in pages {
        out.extend(page);
    }
    out
}

pub(crate) fn undo(transaction: u64) -> Vec<u8> {
    let mut out = vec![1, 3, 0, 0, 0, 0, 0, 0];
    out.extend(transaction.to_le_bytes());
    out
}

pub(crate) fn configuration() -> Vec<u8> {
    let mut out = vec![1];
    out.extend(1_u64.to_le_bytes());
    out.extend(1_u64.to_le_bytes());
    out.extend(b"10.0.0.11:6443\0\x01");
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

/// One batch of entries, of kind and payload.
pub(crate) fn batch(entries: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut head = (entries.len() as u64).to_le_bytes().to_vec();
    let mut data = Vec::new();
    for (kind, payload) in entries {
        head.extend(1_u64.to_le_bytes());
        head.extend([*kind, 9, 9, 9]);
        head.extend((payload.len() as u32).to_le_bytes());
        data.extend(payload);
    }
    let mut out = crc::update(0, &head).to_le_bytes().to_vec();
    out.extend(crc::update(0, &data).to_le_bytes());
    out.extend(head);
    out.extend(data);
    out
}

/// A segment with one batch for each command.
pub(crate) fn segment(commands: &[Vec<u8>]) -> Vec<u8> {
    let mut out = 1_u64.to_le_bytes().to_vec();
    for command in commands {
        out.extend(batch(&[(1, command.clone())]));
    }
    out
}

pub(crate) fn snapshot(main: &[u8], wal: &[u8]) -> Vec<u8> {
    let mut out = 1_u64.to_le_bytes().to_vec();
    out.extend(1_u64.to_le_bytes());
    out.extend(text(NAME));
    out.extend((main.len() as u64).to_le_bytes());
    out.extend((wal.len() as u64).to_le_bytes());
    out.extend(main);
    out.extend(wal);
    out
}

pub(crate) fn lz4(bytes: &[u8]) -> Vec<u8> {
    let info = lz4_flex::frame::FrameInfo::new()
        .content_size(Some(bytes.len() as u64))
        .content_checksum(true)
        .block_mode(lz4_flex::frame::BlockMode::Linked);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn meta() -> Vec<u8> {
    let configuration = configuration();
    let mut tail = 1_u64.to_le_bytes().to_vec();
    tail.extend((configuration.len() as u64).to_le_bytes());
    tail.extend(configuration);
    let mut out = 1_u64.to_le_bytes().to_vec();
    out.extend(u64::from(crc::update(0, &tail)).to_le_bytes());
    out.extend(tail);
    out
}
