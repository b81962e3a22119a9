//! The state as a stream (`docs/formats/state.md`, "Snapshot stream").
//!
//! It carries every version that is not compacted, not only the newest ones: members must
//! agree on which revisions can be read, because a transaction may ask for one, and a watch on
//! the receiving member goes on without a gap.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use trivet_env::Disk;
use trivet_mvcc::{
    Index, IndexBuilder, LeaseInfo, LeaseTable, Location, Parts, ReadValues, Revision, Store,
    Values, Version, View,
};
use trivet_raft_node::{LogPosition, SnapshotSource};

use crate::aside;

use super::checkpoint::{
    self, Image, decode_leases, encode_leases, read_revisions, read_version, write_revisions,
    write_version,
};
use super::codec::DecodeError;
use super::frame::{
    FrameError, KIND_END, KIND_HEAD, KIND_LEASES, KIND_RECORDS, take_frame, write_frame,
};
use super::maintain::Work;
use super::open::remove_strays;
use super::segments::{self, Segments, Table};
use super::shared::Shared;
use super::side::{Side, SideReader};
use super::wire::{Reader, Writer};

const MAGIC: [u8; 8] = *b"TRVTSNAP";
const VERSION: u64 = 2;
/// What is read; 1 has no side tables.
const VERSIONS: std::ops::RangeInclusive<u64> = 1..=VERSION;
/// Values per frame, about.
const FRAME_BYTES: usize = 256 * 1024;
/// Chunks handed out are no larger.
const CHUNK_BYTES: usize = 1 << 20;
/// Keys looked up at once.
const PAGE_KEYS: usize = 512;
/// Leases per frame.
const FRAME_LEASES: usize = 4096;

/// Reads an image of the state as a stream.
pub(super) struct Source {
    view: View,
    table: Arc<Table>,
    leases: Vec<LeaseInfo>,
    side: Side,
    stage: Stage,
    /// The last key looked up.
    after: Option<Bytes>,
    /// Looked up, not yet written.
    queue: VecDeque<(Bytes, Version)>,
    records: u64,
    checksum: u32,
    out: BytesMut,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Records,
    Done,
}

impl Source {
    pub(super) fn new(view: View, leases: Vec<LeaseInfo>, side: Side, table: Arc<Table>) -> Self {
        Self {
            view,
            table,
            leases,
            side,
            stage: Stage::Head,
            after: None,
            queue: VecDeque::new(),
            records: 0,
            checksum: 0,
            out: BytesMut::new(),
        }
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) {
        let mut frame = Vec::with_capacity(payload.len() + 16);
        write_frame(&mut frame, kind, payload);
        self.checksum = crc32c::crc32c_append(self.checksum, &frame);
        self.out.extend_from_slice(&frame);
    }

    fn advance(&mut self) -> io::Result<()> {
        match self.stage {
            Stage::Head => {
                let mut head = Writer::default();
                head.0.extend_from_slice(&MAGIC);
                head.number(VERSION);
                write_revisions(&mut head, &self.view);
                self.frame(KIND_HEAD, &head.0);
                let leases = std::mem::take(&mut self.leases);
                for leases in leases.chunks(FRAME_LEASES) {
                    self.frame(KIND_LEASES, &encode_leases(leases));
                }
                let side = std::mem::take(&mut self.side);
                side.write(&leases, |kind, payload| {
                    self.frame(kind, payload);
                    io::Result::Ok(())
                })?;
                self.stage = Stage::Records;
            }
            Stage::Records => self.write_records()?,
            Stage::Done => {}
        }
        Ok(())
    }

    fn write_records(&mut self) -> io::Result<()> {
        if self.queue.is_empty() {
            self.look_up();
        }
        if self.queue.is_empty() {
            let mut end = Writer::default();
            end.number(self.records);
            end.number(self.checksum.into());
            self.frame(KIND_END, &end.0);
            self.stage = Stage::Done;
            return Ok(());
        }
        let (mut bytes, mut count) = (0, 0);
        for (key, version) in &self.queue {
            if bytes >= FRAME_BYTES {
                break;
            }
            bytes += key.len() + version.location.length as usize;
            count += 1;
        }
        let records: Vec<(Bytes, Version)> = self.queue.drain(..count).collect();
        let locations: Vec<Location> = records
            .iter()
            .map(|(_, version)| version.location)
            .collect();
        let values = self.table.read_many(&locations)?;
        let mut payload = Writer::with_capacity(bytes + 32 * count);
        for ((key, version), value) in records.iter().zip(&values) {
            payload.bytes(key);
            write_version(&mut payload, version);
            payload.bytes(value);
        }
        self.records += count as u64;
        self.frame(KIND_RECORDS, &payload.0);
        Ok(())
    }

    fn look_up(&mut self) {
        let compacted = self.view.compact_revision().0;
        loop {
            let mut seen = false;
            let mut last = None;
            for entry in self
                .view
                .index
                .entries_after(self.after.as_deref(), PAGE_KEYS)
            {
                seen = true;
                let key = Bytes::copy_from_slice(entry.key);
                let versions = entry.uncompacted(compacted).into_iter();
                self.queue
                    .extend(versions.map(|version| (key.clone(), version)));
                last = Some(key);
            }
            self.after = last.or(self.after.take());
            if !seen || !self.queue.is_empty() {
                return;
            }
        }
    }
}

impl SnapshotSource for Source {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        while self.out.len() < CHUNK_BYTES && self.stage != Stage::Done {
            self.advance()?;
        }
        if self.out.is_empty() {
            return Ok(None);
        }
        let length = self.out.len().min(CHUNK_BYTES);
        Ok(Some(self.out.split_to(length).freeze()))
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the snapshot is not usable: {what}"),
    )
}

impl From<DecodeError> for io::Error {
    fn from(error: DecodeError) -> Self {
        malformed(&error.to_string())
    }
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        malformed(&error.to_string())
    }
}

impl Shared {
    /// Replaces the state by the one in a stream; durable on return. The new checkpoint is the
    /// switch: until it is there, the old state is what a restart finds.
    pub(super) fn install(
        &self,
        position: LogPosition,
        chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> io::Result<()> {
        let mut work = self.work();
        let next_number = {
            let inner = self.read();
            if !inner.failed_by_damage {
                inner.usable()?;
            }
            inner.segments.next_number()
        };
        let disk = Arc::clone(&self.disk);
        let mut segments = Segments::new(
            disk,
            self.values_dir.clone(),
            next_number,
            self.limits.segment_bytes,
            Arc::clone(&self.damage),
        );
        let number = work.next_number;
        // A number is used once, whatever becomes of the file.
        work.next_number += 1;
        let read = read_stream(chunks, &mut segments).and_then(|(parts, side)| {
            segments.flush()?;
            let unsynced = segments.take_unsynced();
            for file in &unsynced.files {
                file.sync_data()?;
            }
            self.disk.sync_dir(&self.values_dir)?;
            let image = Image {
                position,
                view: parts.view.clone(),
                leases: parts.leases.iter().collect(),
                side,
                segments: segments.marks(),
            };
            let size = checkpoint::write(&*self.disk, &self.checkpoints_dir, number, &image)?;
            Ok((parts, image.side, image.segments, size))
        });
        let (parts, side, marks, size) = match read {
            Ok(read) => read,
            Err(error) => {
                let unused = next_number..segments.next_number();
                self.write().segments.skip_numbers(unused.end);
                for number in unused {
                    // The error to report is the first; what stays is removed at the next start.
                    let path = self.values_dir.join(segments::file_name(number));
                    drop(self.disk.remove_file(&path));
                }
                return Err(error);
            }
        };
        let needed: BTreeSet<u32> = marks.iter().map(|mark| mark.number).collect();
        let (revision, cursor, side) = {
            let mut inner = self.write();
            inner.store = Store::from_parts(parts, self.limits.watch_log);
            if inner.side.auth.revision() != side.auth.revision() {
                // What voided tokens meanwhile was not seen here.
                inner.tokens.forget_all();
            }
            inner.side = side;
            inner.segments = segments;
            inner.applied = position;
            inner.relocation = None;
            (inner.failed, inner.failed_by_damage) = (None, false);
            inner.checkpoint_bytes = size;
            (inner.commands_since, inner.bytes_since) = (0, 0);
            inner.lease_log.reset();
            self.note_size(&inner);
            (
                inner.store.revision(),
                inner.lease_log.cursor(),
                inner.side.clone(),
            )
        };
        *self.durable() = position;
        work.checkpoints.push((number, marks));
        let keep = self.keep_replaced.swap(false, Ordering::AcqRel);
        if keep || !self.damage.is_empty() {
            self.set_replaced_aside(&mut work, &needed)?;
        }
        self.damage.clear();
        self.prune(&mut work, 1)?;
        remove_strays(&*self.disk, &self.values_dir, &needed)?;
        self.publish(revision, cursor, &side);
        Ok(())
    }
}

impl Shared {
    /// Moves everything but the newest checkpoint and its segments out of the way, for people to
    /// look at. With enough of that there already, it is removed like any other state that was
    /// replaced.
    fn set_replaced_aside(&self, work: &mut Work, needed: &BTreeSet<u32>) -> io::Result<()> {
        let Some(aside) = aside::name(&*self.disk, &self.state_dir)? else {
            tracing::warn!(
                dir = %self.state_dir.display(),
                "so many damaged copies of the state are kept already that this one is removed"
            );
            return Ok(());
        };
        let newest = work.checkpoints.split_off(work.checkpoints.len() - 1);
        let old = std::mem::replace(&mut work.checkpoints, newest);
        let old = old.iter().map(|(number, _)| checkpoint::file_name(*number));
        let values = self
            .disk
            .read_dir(&self.values_dir)?
            .into_iter()
            .filter(|name| {
                segments::parse_name(name).is_some_and(|number| !needed.contains(&number))
            });
        // Checkpoints first: one that came back would miss its segments.
        move_all(
            &*self.disk,
            &self.checkpoints_dir,
            &aside.join("checkpoints"),
            old,
        )?;
        move_all(&*self.disk, &self.values_dir, &aside.join("values"), values)?;
        tracing::warn!(dir = %aside.display(), "the state that was replaced is kept");
        Ok(())
    }
}

fn move_all(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    names: impl Iterator<Item = String>,
) -> io::Result<()> {
    disk.create_dir_all(to)?;
    for name in names {
        disk.rename(&from.join(&name), &to.join(&name))?;
    }
    disk.sync_dir(to)?;
    disk.sync_dir(from)
}

fn read_stream(
    chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    segments: &mut Segments,
) -> io::Result<(Parts, Side)> {
    let mut stream = Stream {
        chunks,
        buffer: BytesMut::new(),
        checksum: 0,
    };
    let (kind, payload, _) = stream.frame()?;
    if kind != KIND_HEAD || payload.len() < MAGIC.len() || payload[..MAGIC.len()] != MAGIC {
        return Err(malformed("it has no head"));
    }
    let mut head = Reader::new(payload.slice(MAGIC.len()..));
    if !VERSIONS.contains(&head.number()?) {
        return Err(malformed("it is of another version"));
    }
    let (revision, compacted) = read_revisions(&mut head)?;
    let mut leases = LeaseTable::default();
    let mut side = SideReader::default();
    let mut records = Records::default();
    loop {
        let (kind, payload, before) = stream.frame()?;
        match kind {
            KIND_LEASES => decode_leases(payload, &mut leases)?,
            KIND_RECORDS => {
                records.read(payload, revision, segments)?;
                segments.flush()?;
            }
            KIND_END => {
                let mut end = Reader::new(payload);
                if end.number()? != records.count || end.number()? != u64::from(before) {
                    return Err(malformed("count or checksum differ"));
                }
                break;
            }
            kind => side.read(kind, payload, &mut leases)?,
        }
    }
    if !stream.buffer.is_empty() {
        return Err(malformed("something follows its end"));
    }
    let view = View {
        index: records.finish()?,
        revision,
        compacted,
    };
    Ok((Parts { view, leases }, side.finish()?))
}

struct Stream<'a> {
    chunks: &'a mut dyn Iterator<Item = io::Result<Bytes>>,
    buffer: BytesMut,
    checksum: u32,
}

impl Stream<'_> {
    /// The next frame, and the checksum of all frames before it.
    fn frame(&mut self) -> io::Result<(u8, Bytes, u32)> {
        loop {
            if let Some((kind, payload)) = take_frame(&mut self.buffer)? {
                let before = self.checksum;
                let mut frame = Vec::with_capacity(payload.len() + 16);
                write_frame(&mut frame, kind, &payload);
                self.checksum = crc32c::crc32c_append(before, &frame);
                return Ok((kind, payload, before));
            }
            match self.chunks.next() {
                Some(chunk) => self.buffer.extend_from_slice(&chunk?),
                None => return Err(malformed("it ends early")),
            }
        }
    }
}

/// Gathers the versions of each key.
#[derive(Default)]
struct Records {
    index: IndexBuilder,
    key: Bytes,
    versions: Vec<Version>,
    count: u64,
}

impl Records {
    fn read(
        &mut self,
        payload: Bytes,
        revision: Revision,
        segments: &mut Segments,
    ) -> io::Result<()> {
        let mut input = Reader::new(payload);
        while input.remaining() > 0 {
            let key = input.bytes()?;
            let version = read_version(&mut input)?;
            let value = input.bytes()?;
            if version.main > revision.0 || version.create > version.main {
                return Err(malformed("a version is newer than the state"));
            }
            let location = if value.is_empty() {
                Location::EMPTY
            } else {
                segments.append(&value)?
            };
            if key != self.key {
                self.flush()?;
                self.key = Bytes::copy_from_slice(&key);
            }
            self.versions.push(Version {
                location,
                ..version
            });
            self.count += 1;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.versions.is_empty() && !self.index.push(&self.key, &self.versions) {
            return Err(malformed("its records are out of order"));
        }
        self.versions.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<Index> {
        self.flush()?;
        Ok(self.index.finish())
    }
}
