//! Reading entries back from segments.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::files::Segment;
use crate::format::{RECORD_HEADER_BYTES, RecordHeader, RecordKind, Seed, record_bytes};
use crate::shared::State;
use crate::types::Entry;

/// How far apart two records may lie to be read at once: vote and commit records in between
/// are cheaper read than skipped.
const GAP_BYTES_MAX: u64 = 4096;

/// Entries that are read at once.
pub(crate) struct Run {
    segment: Arc<Segment>,
    /// (index, offset, payload bytes), ascending.
    entries: Vec<(u64, u32, u32)>,
}

impl Run {
    fn end(&self) -> u64 {
        self.entries.last().map_or(0, |(_, offset, length)| {
            u64::from(*offset) + record_bytes(*length as usize) as u64
        })
    }
}

/// Where the entries at the front of `range` lie. Holding the segments keeps the files.
pub(crate) fn places(state: &State, range: Range<u64>, max_bytes: usize) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    let mut bytes = 0;
    // What is in memory follows with the next call.
    let end = range.end.min(state.cache.first().unwrap_or(range.end));
    for index in range.start..end {
        let missing = || Error::Refused(format!("entry {index} is not in the index"));
        let location = state.index.location(index).ok_or_else(missing)?;
        bytes += location.payload_bytes as usize;
        if index > range.start && bytes > max_bytes {
            break;
        }
        let entry = (index, location.offset, location.payload_bytes);
        if let Some(run) = runs.last_mut() {
            let near = u64::from(location.offset).checked_sub(run.end());
            if run.segment.sequence == location.sequence
                && near.is_some_and(|gap| gap <= GAP_BYTES_MAX)
            {
                run.entries.push(entry);
                continue;
            }
        }
        let front = state.held.front().map_or(0, |held| held.segment.sequence);
        let held = location
            .sequence
            .checked_sub(front)
            .and_then(|at| state.held.get(at as usize));
        let segment = Arc::clone(&held.ok_or_else(missing)?.segment);
        runs.push(Run {
            segment,
            entries: vec![entry],
        });
    }
    Ok(runs)
}

/// Reads and checks. Payloads share one buffer per run.
pub(crate) fn load(runs: &[Run], salt: u64) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for run in runs {
        let Run {
            segment,
            entries: places,
        } = run;
        let start = places
            .first()
            .map_or(0, |(_, offset, _)| u64::from(*offset));
        let mut buffer = vec![0; (run.end() - start) as usize];
        segment
            .file
            .read_exact_at(start, &mut buffer)
            .map_err(|e| Error::io("read", &segment.path, e))?;
        let buffer = Bytes::from(buffer);
        let seed = Seed::new(salt, segment.sequence);
        for (index, offset, length) in places {
            let at = (u64::from(*offset) - start) as usize;
            let payload_at = at + RECORD_HEADER_BYTES;
            let payload = buffer.slice(payload_at..payload_at + *length as usize);
            let header = RecordHeader::decode(&buffer[at..], *offset, seed)
                .filter(|header| header.kind == RecordKind::Entry && header.index == *index)
                .filter(|header| header.matches(&payload))
                .ok_or_else(|| {
                    let what = format!("entry {index} cannot be read back");
                    Error::damaged(&segment.path, u64::from(*offset), what)
                })?;
            entries.push(Entry {
                index: *index,
                term: header.term,
                payload,
            });
        }
    }
    Ok(entries)
}
