//! Index checkpoints (`docs/formats/state.md`, "Checkpoints").
//!
//! A checkpoint is the root of the state on disk: what it refers to was synced before it, it
//! appears by a rename, and the one with the highest number counts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use trivet_env::{Disk, DiskFile, OpenMode};
use trivet_mvcc::{
    Index, IndexBuilder, LeaseId, LeaseInfo, LeaseTable, Location, Parts, Revision, Version, View,
};
use trivet_raft_node::LogPosition;

use super::codec::DecodeError;
use super::frame::{KIND_END, KIND_HEAD, KIND_LEASES, KIND_RECORDS, take_frame, write_frame};
use super::segments::{SegmentMark, damaged};
use super::side::{Side, SideReader};
use super::wire::{Reader, Writer};

pub(super) const MAGIC: [u8; 8] = *b"TRVTCKPT";
pub(super) const VERSION: u32 = 2;
/// What is read; 1 has no side tables.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=VERSION;
/// Magic, version.
const HEADER: u64 = 12;
/// Records are framed in pieces of about this size.
const FRAME_BYTES: usize = 128 * 1024;
/// Leases per frame.
const FRAME_LEASES: usize = 4096;
/// Frames are written in pieces of about this size.
const WRITE_BYTES: usize = 1 << 20;

pub(super) fn file_name(number: u64) -> String {
    format!("{number:016x}.ckpt")
}

pub(super) fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".ckpt")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// The state as a checkpoint has it.
pub(super) struct Image {
    pub(super) position: LogPosition,
    pub(super) view: View,
    pub(super) leases: Vec<LeaseInfo>,
    pub(super) side: Side,
    pub(super) segments: Vec<SegmentMark>,
}

/// A checkpoint that was read.
pub(super) struct Loaded {
    pub(super) position: LogPosition,
    pub(super) parts: Parts,
    pub(super) side: Side,
    pub(super) segments: Vec<SegmentMark>,
    pub(super) size_bytes: u64,
}

/// Writes and syncs checkpoint `number`, and makes it the one that counts; its size. An error of
/// kind `StorageFull` leaves everything as it was.
pub(super) fn write(disk: &dyn Disk, dir: &Path, number: u64, image: &Image) -> io::Result<u64> {
    let temporary = dir.join(format!("{number:016x}.tmp"));
    if disk.exists(&temporary)? {
        disk.remove_file(&temporary)?;
    }
    let size = write_file(disk, &temporary, image).inspect_err(|_| {
        // Half a checkpoint only takes up space; what stays is removed at the next start.
        drop(disk.remove_file(&temporary));
    })?;
    let publish = || {
        disk.rename(&temporary, &dir.join(file_name(number)))?;
        disk.sync_dir(dir)
    };
    publish().map_err(io::Error::other)?;
    Ok(size)
}

fn write_file(disk: &dyn Disk, path: &Path, image: &Image) -> io::Result<u64> {
    let file = disk.open(path, OpenMode::CreateNew)?;
    let mut out = Output {
        file: &*file,
        offset: 0,
        buffer: Vec::with_capacity(WRITE_BYTES * 2),
    };
    out.buffer.extend_from_slice(&MAGIC);
    out.buffer.extend_from_slice(&VERSION.to_le_bytes());
    out.frame(KIND_HEAD, &encode_head(image))?;
    for leases in image.leases.chunks(FRAME_LEASES) {
        out.frame(KIND_LEASES, &encode_leases(leases))?;
    }
    image
        .side
        .write(&image.leases, |kind, payload| out.frame(kind, payload))?;
    let keys = write_index(&mut out, &image.view.index)?;
    let mut end = Writer::default();
    end.number(keys);
    out.frame(KIND_END, &end.0)?;
    out.flush()?;
    file.sync_data()?;
    Ok(out.offset)
}

struct Output<'a> {
    file: &'a dyn DiskFile,
    offset: u64,
    buffer: Vec<u8>,
}

impl Output<'_> {
    fn frame(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        write_frame(&mut self.buffer, kind, payload);
        if self.buffer.len() >= WRITE_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(self.offset, &self.buffer)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

fn encode_head(image: &Image) -> Vec<u8> {
    let mut out = Writer::default();
    out.number(image.position.term);
    out.number(image.position.index);
    write_revisions(&mut out, &image.view);
    out.number(image.segments.len() as u64);
    for mark in &image.segments {
        out.number(mark.number.into());
        out.number(mark.size.into());
    }
    out.0
}

/// The newest revision and the compaction, which is 0 for none and else one more than it is.
pub(super) fn write_revisions(out: &mut Writer, view: &View) {
    out.number(view.revision.0);
    out.number(view.compacted.map_or(0, |revision| revision.0 + 1));
}

pub(super) fn read_revisions(
    input: &mut Reader,
) -> Result<(Revision, Option<Revision>), DecodeError> {
    let revision = Revision(input.number()?);
    let compacted = input.number()?.checked_sub(1).map(Revision);
    if compacted.is_some_and(|compacted| compacted > revision) {
        return Err(DecodeError::Malformed);
    }
    Ok((revision, compacted))
}

pub(super) fn encode_leases(leases: &[LeaseInfo]) -> Vec<u8> {
    let mut out = Writer::default();
    out.number(leases.len() as u64);
    for lease in leases {
        out.signed(lease.id.0);
        out.number(lease.ttl_s);
    }
    out.0
}

pub(super) fn decode_leases(payload: Bytes, leases: &mut LeaseTable) -> Result<(), DecodeError> {
    let mut input = Reader::new(payload);
    for _ in 0..input.count()? {
        let (id, ttl_s) = (LeaseId(input.signed()?), input.number()?);
        leases
            .grant(id, ttl_s)
            .map_err(|_| DecodeError::Malformed)?;
    }
    input.end()
}

fn write_index(out: &mut Output<'_>, index: &Index) -> io::Result<u64> {
    let (mut keys, mut previous): (u64, &[u8]) = (0, &[]);
    let mut records = Writer::with_capacity(FRAME_BYTES + 1024);
    for entry in index.entries() {
        let shared = shared_prefix(previous, entry.key);
        records.number(shared as u64);
        records.bytes(&entry.key[shared..]);
        records.number(entry.older.len() as u64 + 1);
        for version in entry.older.iter().chain([entry.head]) {
            write_version(&mut records, version);
            records.number(version.location.segment.into());
            records.number(version.location.offset.into());
            records.number(version.location.length.into());
        }
        (keys, previous) = (keys + 1, entry.key);
        if records.0.len() >= FRAME_BYTES {
            out.frame(KIND_RECORDS, &records.0)?;
            records.0.clear();
            previous = &[];
        }
    }
    if !records.0.is_empty() {
        out.frame(KIND_RECORDS, &records.0)?;
    }
    Ok(keys)
}

fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// All of a version but its location.
pub(super) fn write_version(out: &mut Writer, version: &Version) {
    out.number(version.main);
    out.number(version.sub.into());
    out.number(version.create);
    out.number(version.version);
    out.signed(version.lease);
}

pub(super) fn read_version(input: &mut Reader) -> Result<Version, DecodeError> {
    Ok(Version {
        main: input.number()?,
        sub: read_u32(input)?,
        create: input.number()?,
        version: input.number()?,
        lease: input.signed()?,
        location: Location::EMPTY,
    })
}

fn read_u32(input: &mut Reader) -> Result<u32, DecodeError> {
    u32::try_from(input.number()?).map_err(|_| DecodeError::Malformed)
}

/// Reads a checkpoint. Damage is an error of kind `InvalidData` that names file and place.
pub(super) fn load(disk: &Arc<dyn Disk>, path: &Path) -> io::Result<Loaded> {
    let file = disk.open(path, OpenMode::Read)?;
    let size_bytes = file.size_bytes()?;
    let mut input = Input {
        path: path.to_owned(),
        file: &*file,
        offset: 0,
        read: 0,
        buffer: BytesMut::new(),
    };
    let header = input.bytes(HEADER as usize)?;
    if header[..8] != MAGIC {
        return Err(input.damage("not a checkpoint"));
    }
    if !is_known(&header[8..]) {
        return Err(input.damage("written by another version of the format"));
    }
    let (kind, head) = input.frame()?;
    if kind != KIND_HEAD {
        return Err(input.damage("the head is missing"));
    }
    let (position, revision, compacted, segments) =
        decode_head(head).map_err(|_| input.damage("malformed head"))?;
    let mut leases = LeaseTable::default();
    let mut side = SideReader::default();
    let mut index = IndexBuilder::default();
    let mut keys = 0;
    loop {
        let (kind, payload) = input.frame()?;
        match kind {
            KIND_LEASES => decode_leases(payload, &mut leases),
            KIND_RECORDS => decode_records(payload, &mut index).map(|count| keys += count),
            KIND_END => {
                let mut end = Reader::new(payload);
                if end.number() != Ok(keys) || end.end().is_err() {
                    return Err(input.damage("the number of keys is not what it should be"));
                }
                break;
            }
            kind => side.read(kind, payload, &mut leases),
        }
        .map_err(|_| input.damage("malformed frame"))?;
    }
    let side = side
        .finish()
        .map_err(|_| input.damage("malformed side tables"))?;
    let view = View {
        index: index.finish(),
        revision,
        compacted,
    };
    Ok(Loaded {
        position,
        parts: Parts { view, leases },
        side,
        segments,
        size_bytes,
    })
}

/// Reads only which segments a checkpoint refers to.
pub(super) fn load_segments(disk: &Arc<dyn Disk>, path: &Path) -> io::Result<Vec<SegmentMark>> {
    let file = disk.open(path, OpenMode::Read)?;
    let mut input = Input {
        path: path.to_owned(),
        file: &*file,
        offset: 0,
        read: 0,
        buffer: BytesMut::new(),
    };
    let header = input.bytes(HEADER as usize)?;
    if header[..8] != MAGIC || !is_known(&header[8..]) {
        return Err(input.damage("not a checkpoint"));
    }
    let (_, head) = input.frame()?;
    Ok(decode_head(head)
        .map_err(|_| input.damage("malformed head"))?
        .3)
}

fn is_known(version: &[u8]) -> bool {
    VERSIONS.clone().any(|known| known.to_le_bytes() == version)
}

type Head = (LogPosition, Revision, Option<Revision>, Vec<SegmentMark>);

fn decode_head(payload: Bytes) -> Result<Head, DecodeError> {
    let mut input = Reader::new(payload);
    let position = LogPosition {
        term: input.number()?,
        index: input.number()?,
    };
    let (revision, compacted) = read_revisions(&mut input)?;
    let mut segments = Vec::new();
    for _ in 0..input.count()? {
        segments.push(SegmentMark {
            number: read_u32(&mut input)?,
            size: read_u32(&mut input)?,
        });
    }
    input.end()?;
    Ok((position, revision, compacted, segments))
}

fn decode_records(payload: Bytes, index: &mut IndexBuilder) -> Result<u64, DecodeError> {
    let mut input = Reader::new(payload);
    let (mut keys, mut key, mut versions) = (0, Vec::new(), Vec::new());
    while input.remaining() > 0 {
        let shared = usize::try_from(input.number()?).map_err(|_| DecodeError::Malformed)?;
        if shared > key.len() {
            return Err(DecodeError::Malformed);
        }
        key.truncate(shared);
        key.extend_from_slice(&input.bytes()?);
        versions.clear();
        for _ in 0..input.count()? {
            let version = read_version(&mut input)?;
            let location = Location {
                segment: read_u32(&mut input)?,
                offset: read_u32(&mut input)?,
                length: read_u32(&mut input)?,
            };
            versions.push(Version {
                location,
                ..version
            });
        }
        if !index.push(&key, &versions) {
            return Err(DecodeError::Malformed);
        }
        keys += 1;
    }
    Ok(keys)
}

struct Input<'a> {
    path: PathBuf,
    file: &'a dyn DiskFile,
    /// Where the next unread frame begins.
    offset: u64,
    /// How far the file has been read into the buffer.
    read: u64,
    buffer: BytesMut,
}

impl Input<'_> {
    fn damage(&self, what: &str) -> io::Error {
        damaged(&self.path, self.offset, what)
    }

    fn fill(&mut self) -> io::Result<()> {
        let old = self.buffer.len();
        self.buffer.resize(old + FRAME_BYTES * 2, 0);
        let got = self.file.read_at(self.read, &mut self.buffer[old..])?;
        self.buffer.truncate(old + got);
        self.read += got as u64;
        if got == 0 {
            Err(self.damage("the file ends early"))
        } else {
            Ok(())
        }
    }

    fn bytes(&mut self, length: usize) -> io::Result<BytesMut> {
        while self.buffer.len() < length {
            self.fill()?;
        }
        self.offset += length as u64;
        Ok(self.buffer.split_to(length))
    }

    fn frame(&mut self) -> io::Result<(u8, Bytes)> {
        loop {
            let before = self.buffer.len();
            match take_frame(&mut self.buffer) {
                Ok(Some(frame)) => {
                    self.offset += (before - self.buffer.len()) as u64;
                    return Ok(frame);
                }
                Ok(None) => self.fill()?,
                Err(error) => return Err(self.damage(&error.to_string())),
            }
        }
    }
}
