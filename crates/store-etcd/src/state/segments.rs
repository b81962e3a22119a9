//! Values in append-only files (`docs/formats/state.md`, "Value segments").
//!
//! Nothing is synced here on the way: what a checkpoint refers to is synced before the
//! checkpoint is, and everything later comes back from the log.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use trivet_env::{Disk, DiskFile, OpenMode};
use trivet_mvcc::{Location, ReadValues, Values};

use super::damage::DamageLog;

pub(super) const MAGIC: [u8; 8] = *b"TRVTVALS";
pub(super) const VERSION: u32 = 1;
/// Magic, version, number, checksum.
pub(super) const HEADER: u32 = 20;
/// Length and checksum before every value.
pub(super) const RECORD_HEADER: u32 = 8;

/// Neighbouring values are read together when no more than this lies between them.
const MAX_GAP: u64 = 4096;
/// Neighbouring values are read together up to this many bytes.
const MAX_SPAN: u64 = 256 * 1024;

/// Damage, with file and place.
pub(super) fn damaged(file: &Path, offset: u64, what: &str) -> io::Error {
    let file = file.display();
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{file} is damaged at byte {offset}: {what}"),
    )
}

pub(super) fn file_name(number: u32) -> String {
    format!("{number:08x}.seg")
}

pub(super) fn parse_name(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// The open files, for readers. Files that were removed stay readable through it.
#[derive(Clone)]
pub(super) struct Table {
    dir: PathBuf,
    files: BTreeMap<u32, Arc<dyn DiskFile>>,
    damage: Arc<DamageLog>,
}

impl Table {
    /// What there is of the segments of a checkpoint, for reading only.
    pub(super) fn of_what_is_there(
        disk: &dyn Disk,
        dir: &Path,
        marks: &[SegmentMark],
    ) -> io::Result<(Self, Vec<String>)> {
        let (mut files, mut damage) = (BTreeMap::new(), Vec::new());
        for mark in marks {
            let path = dir.join(file_name(mark.number));
            match disk.open(&path, OpenMode::Read) {
                Ok(file) => {
                    match check(&path, &*file, *mark) {
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                            damage.push(error.to_string());
                        }
                        Err(error) => return Err(error),
                    }
                    files.insert(mark.number, file);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    damage.push(missing(mark.number));
                }
                Err(error) => return Err(error),
            }
        }
        let table = Self {
            dir: dir.to_owned(),
            files,
            damage: Arc::default(),
        };
        Ok((table, damage))
    }

    fn file(&self, location: Location) -> io::Result<&dyn DiskFile> {
        match self.files.get(&location.segment) {
            Some(file) => Ok(&**file),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn contains(&self, segment: u32) -> bool {
        self.files.contains_key(&segment)
    }

    /// Checks a record that starts `record` and takes its value.
    fn value<'a>(&self, location: Location, record: &'a [u8]) -> io::Result<&'a [u8]> {
        let damage = |what| Err(self.damaged(location.segment, location.offset.into(), what));
        let (header, value) = record.split_at(RECORD_HEADER as usize);
        let value = &value[..location.length as usize];
        if header[..4] != location.length.to_le_bytes() {
            return damage("the length is not the one in the index");
        }
        if header[4..] != crc32c::crc32c(value).to_le_bytes() {
            return damage("the checksum is wrong");
        }
        Ok(value)
    }

    fn read_record(&self, location: Location, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file(location)?
            .read_exact_at(offset, buffer)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    self.damaged(location.segment, offset, "the file ends early")
                }
                _ => error,
            })
    }

    /// Damage, noted.
    fn damaged(&self, segment: u32, offset: u64, what: &str) -> io::Error {
        let error = damaged(&self.dir.join(file_name(segment)), offset, what);
        self.damage.note(&error);
        error
    }
}

impl ReadValues for Table {
    fn read(&self, location: Location) -> io::Result<Bytes> {
        let mut record = vec![0; (RECORD_HEADER + location.length) as usize];
        self.read_record(location, location.offset.into(), &mut record)?;
        self.value(location, &record)?;
        Ok(Bytes::from(record).slice(RECORD_HEADER as usize..))
    }

    fn read_many(&self, locations: &[Location]) -> io::Result<Vec<Bytes>> {
        // Copied: a slice would keep its neighbours in memory as long as itself.
        self.read_spans(locations, |_, value| Bytes::copy_from_slice(value))
    }

    fn read_together(&self, locations: &[Location]) -> io::Result<Vec<Bytes>> {
        self.read_spans(locations, Bytes::slice_ref)
    }
}

impl Table {
    /// Reads values that lie near each other in one piece; `take` makes a value from the piece
    /// and its place in it.
    fn read_spans(
        &self,
        locations: &[Location],
        take: impl Fn(&Bytes, &[u8]) -> Bytes,
    ) -> io::Result<Vec<Bytes>> {
        let mut order: Vec<usize> = (0..locations.len())
            .filter(|&index| locations[index].length > 0)
            .collect();
        // Often they are in order already: written one after the other, and never since.
        if !order.is_sorted_by_key(|&index| locations[index]) {
            order.sort_unstable_by_key(|&index| locations[index]);
        }
        let mut values = vec![Bytes::new(); locations.len()];
        let mut rest = &order[..];
        while let Some(&first) = rest.first() {
            let start = u64::from(locations[first].offset);
            let end_of = |location: &Location| {
                u64::from(location.offset) + u64::from(RECORD_HEADER) + u64::from(location.length)
            };
            let mut end = end_of(&locations[first]);
            let together = rest.iter().take_while(|&&index| {
                let location = &locations[index];
                let fits = location.segment == locations[first].segment
                    && u64::from(location.offset) <= end + MAX_GAP
                    && (index == first || end_of(location) - start <= MAX_SPAN);
                if fits {
                    end = end.max(end_of(location));
                }
                fits
            });
            let together = together.count().max(1);
            if together == 1 {
                values[first] = self.read(locations[first])?;
                rest = &rest[1..];
                continue;
            }
            let mut piece = vec![0; (end - start) as usize];
            self.read_record(locations[first], start, &mut piece)?;
            let piece = Bytes::from(piece);
            for &index in &rest[..together] {
                let location = locations[index];
                let record = &piece[(u64::from(location.offset) - start) as usize..];
                values[index] = take(&piece, self.value(location, record)?);
            }
            rest = &rest[together..];
        }
        Ok(values)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    size: u32,
    live: u64,
}

impl Usage {
    fn is_wasteful(self) -> bool {
        self.size > HEADER && self.live * 10 <= u64::from(self.size - HEADER) * 9
    }
}

/// A segment as a checkpoint records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentMark {
    pub(super) number: u32,
    pub(super) size: u32,
}

/// What has to be synced before a checkpoint may refer to it.
pub(super) struct Unsynced {
    pub(super) files: Vec<Arc<dyn DiskFile>>,
    pub(super) new_entries: bool,
}

/// The segments, for the one writer.
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    table: Arc<Table>,
    usage: BTreeMap<u32, Usage>,
    /// The segment that is appended to; there is none before the first value.
    active: Option<u32>,
    next_number: u32,
    /// The tail of the active segment that is not yet in the file.
    pending: Vec<u8>,
    unsynced: BTreeSet<u32>,
    new_entries: bool,
    max_size: u32,
}

impl Segments {
    /// No segments yet; the first will have `next_number`.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        next_number: u32,
        max_size: u32,
        damage: Arc<DamageLog>,
    ) -> Self {
        Self {
            disk,
            table: Arc::new(Table {
                dir,
                files: BTreeMap::new(),
                damage,
            }),
            usage: BTreeMap::new(),
            active: None,
            next_number,
            pending: Vec::new(),
            unsynced: BTreeSet::new(),
            new_entries: false,
            max_size,
        }
    }

    /// Opens the segments of a checkpoint. What lies behind their recorded ends is cut off.
    pub(super) fn open(&mut self, marks: &[SegmentMark]) -> io::Result<()> {
        for mark in marks {
            let path = self.table.dir.join(file_name(mark.number));
            let file = self
                .disk
                .open(&path, OpenMode::ReadWrite)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => damaged(&path, 0, "the file is missing"),
                    _ => error,
                })?;
            let size = check(&path, &*file, *mark)?;
            if size > u64::from(mark.size) {
                file.set_size(mark.size.into())?;
            }
            Arc::make_mut(&mut self.table)
                .files
                .insert(mark.number, file);
            self.usage.insert(
                mark.number,
                Usage {
                    size: mark.size,
                    live: 0,
                },
            );
            self.active = self.active.max(Some(mark.number));
            self.next_number = self.next_number.max(mark.number + 1);
        }
        Ok(())
    }

    /// Counts a value that the index refers to; `false` if it lies nowhere.
    pub(super) fn adopt(&mut self, location: Location) -> bool {
        if location.length == 0 {
            return true;
        }
        let end =
            u64::from(location.offset) + u64::from(RECORD_HEADER) + u64::from(location.length);
        match self.usage.get_mut(&location.segment) {
            Some(usage) if end <= u64::from(usage.size) && location.offset >= HEADER => {
                usage.live += end - u64::from(location.offset);
                true
            }
            _ => false,
        }
    }

    pub(super) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table)
    }

    pub(super) fn next_number(&self) -> u32 {
        self.next_number
    }

    /// Numbers below `next` are taken.
    pub(super) fn skip_numbers(&mut self, next: u32) {
        self.next_number = self.next_number.max(next);
    }

    fn roll(&mut self) -> io::Result<()> {
        self.flush()?;
        let number = self.next_number;
        let path = self.table.dir.join(file_name(number));
        let file = self.disk.open(&path, OpenMode::CreateNew)?;
        file.write_all_at(0, &encode_header(number))?;
        Arc::make_mut(&mut self.table).files.insert(number, file);
        self.usage.insert(
            number,
            Usage {
                size: HEADER,
                live: 0,
            },
        );
        self.active = Some(number);
        self.next_number += 1;
        self.unsynced.insert(number);
        self.new_entries = true;
        Ok(())
    }

    /// Writes what was appended. Readers of the [`Table`] see it from here on.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Some(number) = self.active
            && !self.pending.is_empty()
        {
            let usage = self.usage[&number];
            let start = u64::from(usage.size) - self.pending.len() as u64;
            self.table.files[&number].write_all_at(start, &self.pending)?;
            self.pending.clear();
            self.pending.shrink_to(1 << 20);
        }
        Ok(())
    }

    /// The segments that are in use. Call after [`Segments::flush`].
    pub(super) fn marks(&self) -> Vec<SegmentMark> {
        self.usage
            .iter()
            .filter(|(number, usage)| usage.live > 0 || Some(**number) == self.active)
            .map(|(&number, usage)| SegmentMark {
                number,
                size: usage.size,
            })
            .collect()
    }

    /// Hands over what has to be synced. A failure to do so is final: the caller must not go
    /// on with these segments.
    pub(super) fn take_unsynced(&mut self) -> Unsynced {
        let numbers = std::mem::take(&mut self.unsynced);
        let files = numbers
            .iter()
            .filter_map(|number| self.table.files.get(number))
            .cloned();
        Unsynced {
            files: files.collect(),
            new_entries: std::mem::take(&mut self.new_entries),
        }
    }

    /// Full segments of which less than half is in use.
    pub(super) fn sparse(&self) -> BTreeSet<u32> {
        self.usage
            .iter()
            .filter(|(number, usage)| {
                Some(**number) != self.active
                    && usage.live > 0
                    && usage.live * 2 < u64::from(usage.size)
            })
            .map(|(&number, _)| number)
            .collect()
    }

    /// Full segments of which a tenth or more is not in use, but not all.
    pub(super) fn wasteful(&self) -> BTreeSet<u32> {
        self.usage
            .iter()
            .filter(|(number, usage)| {
                Some(**number) != self.active && usage.live > 0 && usage.is_wasteful()
            })
            .map(|(&number, _)| number)
            .collect()
    }

    /// Takes the active segment for full if it is wasteful.
    pub(super) fn seal_wasteful(&mut self) -> io::Result<()> {
        match self.active {
            Some(number) if self.usage[&number].is_wasteful() => self.roll(),
            _ => Ok(()),
        }
    }

    /// Bytes of full segments in which nothing is in use.
    pub(super) fn dead_bytes(&self) -> u64 {
        self.usage
            .iter()
            .filter(|(number, usage)| Some(**number) != self.active && usage.live == 0)
            .map(|(_, usage)| u64::from(usage.size))
            .sum()
    }

    /// Lets go of segments up to `last` that hold nothing in use and are not in `keep`;
    /// their files can be removed then.
    pub(super) fn forget_unused(&mut self, last: u32, keep: &BTreeSet<u32>) -> Vec<u32> {
        let unused: Vec<u32> = self
            .usage
            .range(..=last)
            .filter(|(number, usage)| {
                usage.live == 0 && !keep.contains(number) && Some(**number) != self.active
            })
            .map(|(&number, _)| number)
            .collect();
        for number in &unused {
            self.usage.remove(number);
            self.unsynced.remove(number);
            Arc::make_mut(&mut self.table).files.remove(number);
        }
        unused
    }

    /// Bytes in files, and bytes of them in use.
    pub(super) fn size_bytes(&self) -> (u64, u64) {
        self.usage.values().fold((0, 0), |(total, live), usage| {
            (total + u64::from(usage.size), live + usage.live)
        })
    }
}

impl ReadValues for Segments {
    fn read(&self, location: Location) -> io::Result<Bytes> {
        if Some(location.segment) == self.active {
            let written = self.usage[&location.segment].size - self.pending.len() as u32;
            if let Some(start) = location.offset.checked_sub(written) {
                let record = &self.pending[start as usize..];
                return self
                    .table
                    .value(location, record)
                    .map(Bytes::copy_from_slice);
            }
        }
        self.table.read(location)
    }
}

impl Values for Segments {
    fn append(&mut self, value: &[u8]) -> io::Result<Location> {
        let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "value is too large");
        let length = u32::try_from(value.len()).map_err(|_| too_large())?;
        let record = RECORD_HEADER.checked_add(length).ok_or_else(too_large)?;
        let size = self
            .active
            .map_or(u32::MAX, |number| self.usage[&number].size);
        // A value that is larger than a segment gets one for itself.
        if size
            .checked_add(record)
            .is_none_or(|size| size > self.max_size)
            && size != HEADER
        {
            self.roll()?;
        }
        let number = self.active.expect("a segment was opened above");
        let usage = self
            .usage
            .get_mut(&number)
            .expect("the active segment is counted");
        let offset = usage.size;
        usage.size = offset.checked_add(record).ok_or_else(too_large)?;
        usage.live += u64::from(record);
        self.pending.extend_from_slice(&length.to_le_bytes());
        self.pending
            .extend_from_slice(&crc32c::crc32c(value).to_le_bytes());
        self.pending.extend_from_slice(value);
        self.unsynced.insert(number);
        Ok(Location {
            segment: number,
            offset,
            length,
        })
    }

    fn release(&mut self, location: Location) {
        if location.length > 0
            && let Some(usage) = self.usage.get_mut(&location.segment)
        {
            usage.live -= u64::from(RECORD_HEADER) + u64::from(location.length);
        }
    }
}

/// Whether a segment is what a checkpoint says it is; its size in bytes.
fn check(path: &Path, file: &dyn DiskFile, mark: SegmentMark) -> io::Result<u64> {
    let size = file.size_bytes()?;
    if size < u64::from(mark.size) {
        return Err(damaged(
            path,
            size,
            "the file ends before the checkpoint says it does",
        ));
    }
    let mut header = [0; HEADER as usize];
    file.read_exact_at(0, &mut header)?;
    if header == encode_header(mark.number) {
        Ok(size)
    } else {
        Err(damaged(path, 0, "not the header of this segment"))
    }
}

/// What is said of a segment that is not there.
pub(super) fn missing(number: u32) -> String {
    format!("value segment {number:08x} is missing")
}

fn encode_header(number: u32) -> [u8; HEADER as usize] {
    let mut header = [0; HEADER as usize];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&header[..16]);
    header[16..].copy_from_slice(&crc.to_le_bytes());
    header
}
