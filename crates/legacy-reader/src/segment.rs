//! Log segments: batches of entries, each with two checksums.

use crate::crc;
use crate::damage::Fault;
use crate::input::{Input, u32_at, u64_at};

/// A batch with more entries is corrupt, by raft's own rule.
const MAX_ENTRIES: u64 = 262_144;

/// What an entry carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Command,
    Barrier,
    Configuration,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) kind: EntryKind,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// A batch whose header is good.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry>,
    pub(crate) end: u64,
}

/// What lies at an offset of a segment.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing but zeros, or the end of the file.
    End,
    /// A batch whose checksums hold.
    Batch(Batch),
    /// A batch whose entries are damaged, while its header tells where it ends and the file
    /// reaches that far.
    BadData(Batch, String),
    /// Nothing that tells where to go on.
    Unreadable(String),
}

/// How a segment begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Batches follow.
    Format1,
    /// Empty, or prepared and never used.
    Unused,
    /// Something else.
    Unknown,
}

/// Reads the first word and stands behind it.
pub(crate) fn start(input: &mut Input<'_>) -> Result<Start, Fault> {
    input.seek(0);
    if input.len() == 0 {
        return Ok(Start::Unused);
    }
    if input.len() >= 8 {
        let mut format = [0; 8];
        input.exact(&mut format)?;
        if u64_at(&format, 0) == 1 {
            return Ok(Start::Format1);
        }
        input.seek(0);
    }
    Ok(if input.rest_is_zero()? {
        Start::Unused
    } else {
        Start::Unknown
    })
}

/// Looks at the batch at the input's position. Where that stands afterwards is unspecified.
pub(crate) fn batch(input: &mut Input<'_>) -> Result<Found, Fault> {
    let start = input.pos();
    let torn = |what: &str| {
        Ok(Found::Unreadable(format!(
            "the file ends inside a batch: {what} is incomplete"
        )))
    };
    let mut head = [0; 16];
    if input.left() < head.len() as u64 {
        return match input.rest_is_zero()? {
            true => Ok(Found::End),
            false => torn("its header"),
        };
    }
    input.exact(&mut head)?;
    let count = u64_at(&head, 8);
    if count == 0 {
        input.seek(start);
        return Ok(match input.rest_is_zero()? {
            true => Found::End,
            false => Found::Unreadable("a batch without entries, but more behind it".to_owned()),
        });
    }
    if count > MAX_ENTRIES {
        return Ok(Found::Unreadable(format!(
            "a batch that claims {count} entries"
        )));
    }
    if input.left() < count * 16 {
        return torn("the list of its entries");
    }
    let mut headers = vec![0; count as usize * 16];
    input.exact(&mut headers)?;
    if crc::update(crc::update(0, &head[8..]), &headers) != u32_at(&head, 0) {
        return Ok(Found::Unreadable(
            "the checksum of a batch's header does not match".to_owned(),
        ));
    }
    let mut entries = Vec::with_capacity(count as usize);
    let data_at = input.pos();
    let mut offset = data_at;
    for header in headers.chunks_exact(16) {
        let kind = match header[8] {
            1 => EntryKind::Command,
            2 => EntryKind::Barrier,
            3 => EntryKind::Configuration,
            kind => {
                return Ok(Found::Unreadable(format!("an entry of type {kind}")));
            }
        };
        let length = u64::from(u32_at(header, 12));
        entries.push(Entry {
            term: u64_at(header, 0),
            kind,
            offset,
            length,
        });
        offset += length;
    }
    let end = offset;
    if end > input.len() {
        return torn("the data of its entries");
    }
    let batch = Batch { entries, end };
    let mut sum = 0;
    while input.pos() < end {
        let most = usize::try_from(end - input.pos()).unwrap_or(usize::MAX);
        let piece = input.piece(most)?;
        if piece.is_empty() {
            return torn("the data of its entries");
        }
        sum = crc::update(sum, piece);
    }
    if sum == u32_at(&head, 4) {
        Ok(Found::Batch(batch))
    } else {
        Ok(Found::BadData(
            batch,
            "the checksum of a batch's data does not match".to_owned(),
        ))
    }
}
