//! What a directory's segments say: replay, and the rule that tells damage from a torn tail.
//!
//! At most one write is not synced at any time. So whatever stands before the start of *any*
//! valid batch was synced once, and must be whole; only the last batch may be torn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::files::{LogDir, Segment};
use crate::format::{
    ALIGN, BLOCK, BadHeader, HEADER_BYTES, RECORD_HEADER_BYTES, RecordHeader, RecordKind, Seed,
    SegmentHeader,
};
use crate::types::{MetaKind, Position};
use crate::view::{Change, Index, Location};
use crate::window::Window;

/// A segment of the log and the end of the entries in it.
pub(crate) struct Held {
    pub(crate) segment: Arc<Segment>,
    /// One past the highest index ever written to it, truncated ones included; 0: none.
    pub(crate) next_max: u64,
}

/// The log as found.
#[derive(Default)]
pub(crate) struct Recovery {
    pub(crate) index: Index,
    pub(crate) meta: BTreeMap<MetaKind, Bytes>,
    pub(crate) held: VecDeque<Held>,
    /// Where the records of the last segment end.
    pub(crate) end: u32,
    pub(crate) torn_bytes: u64,
    /// Segments that a purge was about to remove.
    pub(crate) leftovers: Vec<u64>,
}

/// Reads all segments. Repairs a torn tail; touches nothing when there is damage.
pub(crate) fn recover(dir: &LogDir, mut sequences: Vec<u64>, salt: u64) -> Result<Recovery> {
    if let Some(newest) = sequences.last().copied() {
        let alone = newest > 1 && !sequences.contains(&(newest - 1));
        let segment = dir.open_segment(newest)?;
        if !is_begun(&segment, Seed::new(salt, newest), alone)? {
            // Durable with the directory's sync that ends the opening, before anything is written.
            dir.remove(&segment.path)?;
            sequences.pop();
        }
    }
    // Removals of one purge may reach the disk in any order: what counts is the unbroken run
    // up to the newest. Whether something is missing before it shows at the end.
    let mut start = sequences.len().saturating_sub(1);
    while start > 0 && sequences[start - 1] + 1 == sequences[start] {
        start -= 1;
    }
    let leftovers = sequences[..start].to_vec();
    let mut segments = Vec::new();
    for sequence in &sequences[start..] {
        let segment = dir.open_segment(*sequence)?;
        let header = read_header(&segment, Seed::new(salt, *sequence))?.ok_or_else(|| {
            Error::damaged(
                &segment.path,
                0,
                "the header is broken, newer segments exist",
            )
        })?;
        segments.push((segment, header));
    }
    replay_all(dir, segments, salt, leftovers)
}

fn replay_all(
    dir: &LogDir,
    segments: Vec<(Segment, SegmentHeader)>,
    salt: u64,
    leftovers: Vec<u64>,
) -> Result<Recovery> {
    let Some((_, first)) = segments.first() else {
        return Ok(Recovery {
            leftovers,
            ..Recovery::default()
        });
    };
    let first = *first;
    let mut recovery = Recovery {
        index: Index::starting_at(first.next_index),
        leftovers,
        ..Recovery::default()
    };
    let ends: Vec<Option<u32>> = segments
        .iter()
        .skip(1)
        .map(|(_, header)| Some(header.previous_end))
        .chain([None])
        .collect();
    for ((segment, header), end) in segments.into_iter().zip(ends) {
        let next = recovery.index.view.next();
        if header.next_index != next {
            let what = format!("begins before entry {}, expected {next}", header.next_index);
            return Err(Error::damaged(&segment.path, 24, what));
        }
        let seed = Seed::new(salt, header.sequence);
        let mut replay = Replay::new(&segment, seed)?;
        let stop = replay.run(&mut recovery, end)?;
        if end.is_none() {
            recovery.end = stop;
            recovery.torn_bytes = replay.repair_tail(stop)?;
        }
        let next_max = replay.next_max;
        recovery.held.push_back(Held {
            segment: Arc::new(segment),
            next_max,
        });
    }
    let view = &recovery.index.view;
    let complete = match view.purged() {
        Some(purged) => view.range().start == purged.index + 1,
        None => first.next_index == 0,
    };
    if !complete {
        let path = dir.segment_path(first.sequence.saturating_sub(1));
        let what = format!(
            "the file is missing; entries before {} are needed",
            view.range().start
        );
        return Err(Error::damaged(&path, 0, what));
    }
    Ok(recovery)
}

pub(crate) fn read_header(segment: &Segment, seed: Seed) -> Result<Option<SegmentHeader>> {
    let mut bytes = [0; HEADER_BYTES];
    if (segment.size_bytes as usize) < HEADER_BYTES {
        return Ok(None);
    }
    segment
        .file
        .read_exact_at(0, &mut bytes)
        .map_err(|e| Error::io("read", &segment.path, e))?;
    match SegmentHeader::decode(&bytes, segment.sequence, seed) {
        Ok(header) => Ok(Some(header)),
        Err(BadHeader::Invalid) => Ok(None),
        Err(BadHeader::Version(version)) => Err(Error::Unsupported {
            file: segment.path.clone(),
            version,
        }),
    }
}

/// Whether the newest segment's first write, with the copies of purge point and meta, arrived.
/// If not, the segment before it is still there and complete, unless there is damage.
fn is_begun(segment: &Segment, seed: Seed, alone: bool) -> Result<bool> {
    let header = read_header(segment, seed)?;
    let mut replay = Replay::new(segment, seed)?;
    let mut at = 0;
    if let Some(header) = header {
        at = HEADER_BYTES as u32;
        while at < header.carried_end {
            match replay.record(at)? {
                Some((record, _)) => at += record.stride() as u32,
                None => break,
            }
        }
        if at == header.carried_end {
            return Ok(true);
        }
    }
    if let Some(follows) = replay.synced_after(at, |_| ())? {
        let what = format!("the beginning is broken, a later write begins at byte {follows}");
        return Err(Error::damaged(&segment.path, u64::from(at), what));
    }
    if alone {
        let what = "the beginning is broken and the segment before is gone";
        return Err(Error::damaged(&segment.path, u64::from(at), what));
    }
    Ok(false)
}

/// Reads the records of one segment.
pub(crate) struct Replay<'a> {
    segment: &'a Segment,
    seed: Seed,
    window: Window,
    next_max: u64,
    /// Where the first and the last write began that records were read from.
    batches: Option<(u32, u32)>,
}

impl<'a> Replay<'a> {
    pub(crate) fn new(segment: &'a Segment, seed: Seed) -> Result<Self> {
        let window = Window::new(Arc::clone(&segment.file))
            .map_err(|e| Error::io("read", &segment.path, e))?;
        Ok(Self {
            segment,
            seed,
            window,
            next_max: 0,
            batches: None,
        })
    }

    /// The record at `offset`, `None` when there is no whole one.
    pub(crate) fn record(&mut self, offset: u32) -> Result<Option<(RecordHeader, &[u8])>> {
        let io = |e| Error::io("read", &self.segment.path, e);
        let start = u64::from(offset);
        let Some(bytes) = self.window.bytes(start, RECORD_HEADER_BYTES).map_err(io)? else {
            return Ok(None);
        };
        let Some(header) = RecordHeader::decode(bytes, offset, self.seed) else {
            return Ok(None);
        };
        let payload_at = start + RECORD_HEADER_BYTES as u64;
        let payload = self
            .window
            .bytes(payload_at, header.length as usize)
            .map_err(io)?;
        Ok(payload
            .filter(|payload| header.matches(payload))
            .map(|payload| (header, payload)))
    }

    /// Applies records up to `end` (the last segment: as far as they go); returns where that is.
    fn run(&mut self, recovery: &mut Recovery, end: Option<u32>) -> Result<u32> {
        let segment = self.segment;
        let mut offset = HEADER_BYTES as u32;
        while end.is_none_or(|end| offset < end) {
            let Some((header, payload)) = self.record(offset)? else {
                let Some(end) = end else { break };
                let what = format!("a record is broken, synced records end at byte {end}");
                return Err(Error::damaged(&segment.path, u64::from(offset), what));
            };
            let meta = (header.kind == RecordKind::Meta).then(|| Bytes::copy_from_slice(payload));
            let location = Location {
                sequence: segment.sequence,
                offset,
                payload_bytes: header.length,
            };
            apply(recovery, &header, meta, location)
                .map_err(|what| Error::damaged(&segment.path, u64::from(offset), what))?;
            if header.kind == RecordKind::Entry {
                self.next_max = self.next_max.max(header.index + 1);
            }
            offset += header.stride() as u32;
            let first = self.batches.map_or(header.batch_start, |(first, _)| first);
            self.batches = Some((first, header.batch_start));
        }
        match end {
            Some(end) if end != offset => {
                let what = format!("a record crosses byte {end}, where records end");
                Err(Error::damaged(&segment.path, u64::from(offset), what))
            }
            _ => Ok(offset),
        }
    }

    /// Looks through the rest of the file for headers of this segment's records. Returns the
    /// place of a batch that began after `offset`, which proves that the bytes at `offset`
    /// were synced; `found` gets the places of all others.
    pub(crate) fn synced_after(
        &mut self,
        offset: u32,
        mut found: impl FnMut(u32),
    ) -> Result<Option<u32>> {
        let io = |e| Error::io("read", &self.segment.path, e);
        let mut at = u64::from(offset);
        while let Some(bytes) = self.window.at_least(at, RECORD_HEADER_BYTES).map_err(io)? {
            let zeros = bytes
                .chunks(BLOCK)
                .take_while(|chunk| chunk.iter().all(|b| *b == 0));
            let skip = zeros
                .map(<[u8]>::len)
                .sum::<usize>()
                .saturating_sub(RECORD_HEADER_BYTES);
            if skip >= ALIGN {
                at += (skip - skip % ALIGN) as u64;
                continue;
            }
            for start in (0..=bytes.len() - RECORD_HEADER_BYTES)
                .step_by(ALIGN)
                .take(BLOCK / ALIGN)
            {
                let place = at as u32 + start as u32;
                match RecordHeader::decode(&bytes[start..], place, self.seed) {
                    Some(header) if header.batch_start > offset => {
                        return Ok(Some(header.batch_start));
                    }
                    Some(_) => found(place),
                    None => {}
                }
            }
            at += ((bytes.len() - RECORD_HEADER_BYTES) / ALIGN * ALIGN + ALIGN).min(BLOCK) as u64;
        }
        Ok(None)
    }

    /// Decides between torn tail and damage, removes what is left of a torn batch, and makes
    /// everything before it durable: a killed process may have left it in the page cache, and
    /// after a failed sync it may be only there, in pages that count as clean. Returns the bytes
    /// given up.
    fn repair_tail(&mut self, offset: u32) -> Result<u64> {
        let segment = self.segment;
        let mut stale = Vec::new();
        if let Some(follows) = self.synced_after(offset, |place| stale.push(place))? {
            let what = format!("a record is broken, a later write begins at byte {follows}");
            return Err(Error::damaged(&segment.path, u64::from(offset), what));
        }
        // Records of the torn batch are valid under this segment's seed: behind a new batch
        // they could come to life again.
        for place in &stale {
            segment
                .file
                .write_all_at(u64::from(*place), &[0; RECORD_HEADER_BYTES])
                .map_err(|e| Error::io("repair", &segment.path, e))?;
        }
        self.rewrite_last_batch(offset)?;
        segment
            .file
            .sync_data()
            .map_err(|e| Error::io("sync", &segment.path, e))?;
        let end = stale
            .last()
            .map_or(offset, |place| place + RECORD_HEADER_BYTES as u32);
        Ok(u64::from(end - offset))
    }

    /// Writes what the last write before `end` left there once more, so that a sync reaches it.
    /// Everything earlier was synced before that write began.
    fn rewrite_last_batch(&mut self, end: u32) -> Result<()> {
        const PIECE_BYTES: u64 = 1 << 20;
        let segment = self.segment;
        // The first write of a segment brings its header.
        let start = match self.batches {
            Some((first, last)) if first != last => last,
            _ => 0,
        };
        let (mut at, end) = (u64::from(start), u64::from(end));
        while at < end {
            let length = (end - at).min(PIECE_BYTES) as usize;
            let piece = self
                .window
                .bytes(at, length)
                .map_err(|e| Error::io("read", &segment.path, e))?;
            let Some(piece) = piece else { break };
            segment
                .file
                .write_all_at(at, piece)
                .map_err(|e| Error::io("repair", &segment.path, e))?;
            at += length as u64;
        }
        Ok(())
    }
}

fn apply(
    recovery: &mut Recovery,
    header: &RecordHeader,
    meta: Option<Bytes>,
    location: Location,
) -> Result<(), String> {
    let position = Position {
        index: header.index,
        term: header.term,
    };
    let change = match (header.kind, meta) {
        (RecordKind::Entry, _) => Change::Entry(position, location),
        (RecordKind::Truncate, _) => Change::Truncate(header.index),
        (RecordKind::Purge, _) => Change::Purge(position),
        (RecordKind::Meta, value) => {
            let kind = u8::try_from(header.index)
                .map_err(|_| format!("meta kind {} is no byte", header.index))?;
            recovery
                .meta
                .insert(MetaKind(kind), value.unwrap_or_default());
            return Ok(());
        }
        (RecordKind::Mark, _) => return Ok(()),
    };
    recovery.index.apply(change)
}
