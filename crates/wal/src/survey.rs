//! What can still be read in a log that is damaged. For repairing; changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use trivet_env::Disk;

use crate::error::{Error, Result};
use crate::files::{LogDir, Segment};
use crate::format::{ALIGN, HEADER_BYTES, RecordHeader, RecordKind, Seed};
use crate::recover::{Replay, read_header};
use crate::types::{Entry, MetaKind, Position};

/// A damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPlace {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What was found or missed there.
    pub what: String,
}

/// Entries without damage between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stretch {
    /// In order of index.
    pub entries: Vec<Entry>,
    /// The last purge point in it.
    pub purged: Option<Position>,
}

/// What [`survey`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// In the order of the files; damage lies between any two.
    pub stretches: Vec<Stretch>,
    /// Everything that is damaged or missing.
    pub damage: Vec<DamagedPlace>,
    /// The last value of each kind that can be read.
    pub meta: BTreeMap<MetaKind, Bytes>,
}

/// Reads all that can be read. A torn tail is no damage.
///
/// # Errors
/// When files cannot be read at all.
pub fn survey(disk: Arc<dyn Disk>, dir: &Path) -> Result<Survey> {
    let dir = LogDir {
        disk,
        path: dir.to_path_buf(),
    };
    let mut found = Finds::default();
    let listing = dir.list()?;
    let salt = match dir.read_identity() {
        Ok(salt) => salt,
        // Without it no record can be told from noise.
        Err(error) => {
            found.damaged(match error {
                Error::Damaged { file, offset, what } => DamagedPlace { file, offset, what },
                other => DamagedPlace {
                    file: dir.identity_path(),
                    offset: 0,
                    what: other.to_string(),
                },
            });
            return Ok(found.survey);
        }
    };
    let mut before = None;
    for (place, sequence) in listing.segments.iter().enumerate() {
        if let Some(before) = before
            && before + 1 != *sequence
        {
            found.damaged(DamagedPlace {
                file: dir.segment_path(before + 1),
                offset: 0,
                what: "the file is missing".to_owned(),
            });
        }
        before = Some(*sequence);
        let end = match listing.segments.get(place + 1) {
            Some(next) if *next == sequence + 1 => {
                let next = dir.open_segment(*next)?;
                let header = read_header(&next, Seed::new(salt, sequence + 1))?;
                header.map(|header| header.previous_end)
            }
            _ => None,
        };
        let newest = place + 1 == listing.segments.len();
        let segment = dir.open_segment(*sequence)?;
        found.read(&segment, Seed::new(salt, *sequence), end, newest)?;
    }
    found.close();
    Ok(found.survey)
}

#[derive(Default)]
struct Finds {
    survey: Survey,
    entries: BTreeMap<u64, Entry>,
    purged: Option<Position>,
}

impl Finds {
    fn close(&mut self) {
        let entries: Vec<Entry> = std::mem::take(&mut self.entries).into_values().collect();
        let purged = self.purged.take();
        if !entries.is_empty() || purged.is_some() {
            self.survey.stretches.push(Stretch { entries, purged });
        }
    }

    fn damaged(&mut self, place: DamagedPlace) {
        self.close();
        self.survey.damage.push(place);
    }

    fn read(
        &mut self,
        segment: &Segment,
        seed: Seed,
        end: Option<u32>,
        newest: bool,
    ) -> Result<()> {
        let mut replay = Replay::new(segment, seed)?;
        if read_header(segment, seed)?.is_none() {
            // A newest segment may never have been begun.
            if !newest || replay.synced_after(0, |_| ())?.is_some() {
                self.damaged(DamagedPlace {
                    file: segment.path.clone(),
                    offset: 0,
                    what: "the header is broken".to_owned(),
                });
            }
        }
        let mut offset = HEADER_BYTES as u32;
        while end.is_none_or(|end| offset < end) {
            if let Some((header, payload)) = replay.record(offset)? {
                let payload = Bytes::copy_from_slice(payload);
                self.record(&header, payload);
                offset += header.stride() as u32;
                continue;
            }
            if end.is_none() && replay.synced_after(offset, |_| ())?.is_none() {
                return Ok(());
            }
            self.damaged(DamagedPlace {
                file: segment.path.clone(),
                offset: offset.into(),
                what: "a record is broken".to_owned(),
            });
            let limit = end.unwrap_or(segment.size_bytes);
            loop {
                offset += ALIGN as u32;
                if offset >= limit {
                    return Ok(());
                }
                if replay.record(offset)?.is_some() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, header: &RecordHeader, payload: Bytes) {
        let (index, term) = (header.index, header.term);
        match header.kind {
            RecordKind::Entry => {
                self.entries.split_off(&index);
                let entry = Entry {
                    index,
                    term,
                    payload,
                };
                self.entries.insert(index, entry);
            }
            RecordKind::Truncate => drop(self.entries.split_off(&index)),
            RecordKind::Purge => {
                self.entries = self.entries.split_off(&(index.saturating_add(1)));
                self.purged = Some(Position { index, term });
            }
            RecordKind::Meta => {
                if let Ok(kind) = u8::try_from(index) {
                    self.survey.meta.insert(MetaKind(kind), payload);
                }
            }
            RecordKind::Mark => {}
        }
    }
}
