//! Bytes of headers and records. The tables are in `docs/formats/wal.md`.

use crate::types::{Entry, META_BYTES_MAX};

/// Size of a segment's header.
pub(crate) const HEADER_BYTES: usize = 64;
/// Size of a record's header.
pub(crate) const RECORD_HEADER_BYTES: usize = 32;
/// Size of the identity file.
pub(crate) const IDENTITY_BYTES: usize = 28;
/// Records begin at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// Writes end at multiples of this, so that the kernel need not read what it overwrites.
pub(crate) const BLOCK: usize = 4096;
/// The format version this program writes.
pub(crate) const VERSION: u32 = 1;

const SEGMENT_MAGIC: &[u8; 8] = b"TrvtSeg\n";
const IDENTITY_MAGIC: &[u8; 8] = b"TrvtLog\n";

/// Start value of all checksums of one segment. It differs for each life of a recycled file,
/// so that what an earlier life left behind never looks like a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(salt: u64, sequence: u64) -> Self {
        Self(crc32c::crc32c_append(
            crc32c::crc32c(&salt.to_le_bytes()),
            &sequence.to_le_bytes(),
        ))
    }

    fn sum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) sequence: u64,
    /// One past the last index when the segment was begun; 0: no entry and no purge point.
    pub(crate) next_index: u64,
    /// Where the records of the segment before end; 0 in the first one.
    pub(crate) previous_end: u32,
    /// Where the copies of purge point and meta end.
    pub(crate) carried_end: u32,
}

/// Why a header was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Not the header of a segment with this sequence number.
    Invalid,
    /// Of another version.
    Version(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self, seed: Seed) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.next_index.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.previous_end.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.carried_end.to_le_bytes());
        let sum = seed.sum(&bytes[..60]);
        bytes[60..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8], sequence: u64, seed: Seed) -> Result<Self, BadHeader> {
        if bytes.len() < HEADER_BYTES || &bytes[..8] != SEGMENT_MAGIC {
            return Err(BadHeader::Invalid);
        }
        if u64_at(bytes, 16) != sequence {
            return Err(BadHeader::Invalid);
        }
        // Size, magic, sequence and checksum keep their places in every version.
        if u32_at(bytes, 60) != seed.sum(&bytes[..60]) {
            return Err(BadHeader::Invalid);
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(BadHeader::Version(version));
        }
        Ok(Self {
            sequence,
            next_index: u64_at(bytes, 24),
            previous_end: u32_at(bytes, 32),
            carried_end: u32_at(bytes, 36),
        })
    }
}

/// The identity file: fixes the salt of a log when it is created.
pub(crate) fn encode_identity(salt: u64) -> [u8; IDENTITY_BYTES] {
    let mut bytes = [0; IDENTITY_BYTES];
    bytes[..8].copy_from_slice(IDENTITY_MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&salt.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..24]);
    bytes[24..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The salt in an identity file.
pub(crate) fn decode_identity(bytes: &[u8]) -> Result<u64, BadHeader> {
    if bytes.len() != IDENTITY_BYTES
        || &bytes[..8] != IDENTITY_MAGIC
        || u32_at(bytes, 24) != crc32c::crc32c(&bytes[..24])
    {
        return Err(BadHeader::Invalid);
    }
    match u32_at(bytes, 8) {
        VERSION => Ok(u64_at(bytes, 16)),
        version => Err(BadHeader::Version(version)),
    }
}

/// What a record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// `index`, `term` and payload of an entry.
    Entry = 1,
    /// Removes all entries from `index` on; 0 empties a log that was never purged.
    Truncate = 2,
    /// Moves the purge point to (`index`, `term`).
    Purge = 3,
    /// Sets meta kind `index` to the payload.
    Meta = 4,
    /// Nothing: its place proves that the batch before it was synced.
    Mark = 5,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Entry,
            Self::Truncate,
            Self::Purge,
            Self::Meta,
            Self::Mark,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }

    fn length_max(self) -> usize {
        match self {
            Self::Entry => Entry::PAYLOAD_BYTES_MAX,
            Self::Meta => META_BYTES_MAX,
            Self::Truncate | Self::Purge | Self::Mark => 0,
        }
    }
}

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) length: u32,
    pub(crate) payload_sum: u32,
    /// Where in the segment the write that carried this record began. Everything before that
    /// place had been synced by then.
    pub(crate) batch_start: u32,
}

impl RecordHeader {
    /// The header at the start of `bytes`, which lie at `offset` of a segment.
    pub(crate) fn decode(bytes: &[u8], offset: u32, seed: Seed) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        let kind = RecordKind::from_byte(bytes[12])?;
        let batch_start = (u32_at(bytes, 12) >> 8) * ALIGN as u32;
        let length = u32_at(bytes, 8);
        if length as usize > kind.length_max()
            || batch_start > offset
            || u32_at(bytes, 0) != seed.sum(&bytes[4..])
        {
            return None;
        }
        Some(Self {
            kind,
            index: u64_at(bytes, 16),
            term: u64_at(bytes, 24),
            length,
            payload_sum: u32_at(bytes, 4),
            batch_start,
        })
    }

    /// Bytes from this record to the next.
    pub(crate) fn stride(&self) -> usize {
        record_bytes(self.length as usize)
    }

    pub(crate) fn matches(&self, payload: &[u8]) -> bool {
        payload.len() == self.length as usize && crc32c::crc32c(payload) == self.payload_sum
    }
}

/// What a record with so many bytes of payload occupies.
pub(crate) fn record_bytes(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(ALIGN)
}

/// A record to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) kind: RecordKind,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) payload: &'a [u8],
}

impl Record<'_> {
    /// Appends the record to `out`. `batch_start` is the place of the current write.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, batch_start: u32, seed: Seed) {
        debug_assert!(
            (batch_start as usize).is_multiple_of(ALIGN),
            "records are aligned"
        );
        debug_assert!(
            self.payload.len() <= self.kind.length_max(),
            "checked by the caller"
        );
        let mut header = [0; RECORD_HEADER_BYTES];
        header[4..8].copy_from_slice(&crc32c::crc32c(self.payload).to_le_bytes());
        header[8..12].copy_from_slice(&(self.payload.len() as u32).to_le_bytes());
        let place = (batch_start / ALIGN as u32) << 8 | self.kind as u32;
        header[12..16].copy_from_slice(&place.to_le_bytes());
        header[16..24].copy_from_slice(&self.index.to_le_bytes());
        header[24..].copy_from_slice(&self.term.to_le_bytes());
        let sum = seed.sum(&header[4..]);
        header[..4].copy_from_slice(&sum.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(self.payload);
        out.resize(out.len().next_multiple_of(ALIGN), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_only_under_its_own_seed() {
        let seed = Seed::new(1, 2);
        let mut out = Vec::new();
        let record = Record {
            kind: RecordKind::Entry,
            index: 5,
            term: 6,
            payload: b"seven",
        };
        record.encode(&mut out, 4096, seed);
        assert_eq!(out.len(), record_bytes(5));
        let header = RecordHeader::decode(&out, 4096, seed).unwrap();
        assert_eq!(
            (header.index, header.term, header.batch_start),
            (5, 6, 4096)
        );
        assert!(header.matches(&out[RECORD_HEADER_BYTES..][..5]));
        assert_eq!(RecordHeader::decode(&out, 4096, Seed::new(1, 3)), None);
        assert_eq!(RecordHeader::decode(&out, 4096, Seed::new(2, 2)), None);
        assert_eq!(
            RecordHeader::decode(&out, 4088, seed),
            None,
            "a batch begins before its records"
        );
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let seed = Seed::new(9, 9);
        let header = SegmentHeader {
            sequence: 9,
            next_index: 3,
            previous_end: 4,
            carried_end: 64,
        };
        let good = header.encode(seed);
        assert_eq!(SegmentHeader::decode(&good, 9, seed), Ok(header));
        let identity = encode_identity(77);
        assert_eq!(decode_identity(&identity), Ok(77));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad, 9, seed).is_err(), "bit {bit}");
        }
        for bit in 0..IDENTITY_BYTES * 8 {
            let mut bad = identity;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_identity(&bad).is_err(), "bit {bit}");
        }
    }
}
