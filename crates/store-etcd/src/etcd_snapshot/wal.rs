//! The log of a genuine etcd: files of a stopped member, and what they hold beyond its database.
//!
//! `<sequence>-<index>.wal`: frames of 8 bytes (length in the lower 56 bits; with the highest bit
//! set, 3 bits of padding) and a record: type (1 metadata, 2 entry, 3 hard state, 4 checksum of
//! the files before, 5 snapshot), CRC-32C over all data so far, data.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use super::entry::{self, Change};
use crate::import::ImportError;

/// No record is longer; etcd's limit for a request is a megabyte and a half.
const MAX_RECORD_BYTES: usize = 64 << 20;
/// Entries beyond the database that are kept in memory at a time. A running etcd writes its
/// database ten times a second.
const MAX_PENDING_BYTES: usize = 512 << 20;
/// No file of a log is longer: etcd begins another one at 64 MiB, after the write that got there.
const MAX_FILE_BYTES: u64 = 1 << 30;

const ENTRY: i64 = 2;
const STATE: i64 = 3;
const CHECKSUM: i64 = 4;

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(uint32, tag = "2")]
    sum: u32,
    #[prost(bytes = "bytes", tag = "3")]
    data: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct HardState {
    #[prost(uint64, tag = "3")]
    commit: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
    #[prost(bytes = "bytes", tag = "4")]
    data: Bytes,
}

/// What a log holds beyond a database.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// From the first entry that the database does not have.
    entries: Vec<Entry>,
    commit: u64,
    bytes: usize,
}

impl Tail {
    /// Reads the log in a directory, for a database that has everything up to entry `applied`.
    pub(crate) fn read(dir: &Path, applied: u64) -> Result<Self, ImportError> {
        let mut tail = Self::default();
        let mut sum = 0;
        let files = files(dir)?;
        let last = files.len().saturating_sub(1);
        for (number, path) in files.iter().enumerate() {
            let bytes = read_file(path)?;
            tail.read_records(path, bytes, applied, &mut sum, number == last)?;
        }
        // What was never committed may not have happened anywhere.
        tail.entries.retain(|entry| entry.index <= tail.commit);
        let expected = applied.saturating_add(1)..;
        let found = tail.entries.iter().map(|entry| entry.index);
        if let Some((expected, found)) = expected.zip(found).find(|(a, b)| a != b) {
            let what = format!(
                "the database is at entry {applied} and the log goes on at entry {found} where {expected} should be"
            );
            return Err(ImportError::damaged(dir, &what));
        }
        Ok(tail)
    }

    /// The changes that the database does not have, in order. `None`: an entry that changes
    /// nothing that is taken over.
    pub(crate) fn changes(
        &self,
    ) -> impl Iterator<Item = Result<Option<Change>, entry::Unknown>> + '_ {
        self.entries.iter().map(|entry| match entry.kind {
            // Membership: the new cluster has its own.
            1 | 2 => Ok(None),
            0 => entry::decode(entry.data.clone()),
            _ => Err(entry::Unknown),
        })
    }

    /// Number of entries beyond the database.
    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    fn read_records(
        &mut self,
        path: &Path,
        mut bytes: Bytes,
        applied: u64,
        sum: &mut u32,
        last: bool,
    ) -> Result<(), ImportError> {
        let whole = bytes.len();
        let mut first = true;
        loop {
            let offset = whole - bytes.len();
            let damaged = |what: &str| {
                ImportError::damaged(
                    path,
                    &format!("the log is damaged at byte {offset}: {what}"),
                )
            };
            let frame = match take_frame(&mut bytes) {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                // What a crash left of the last write was never acknowledged.
                Err(_) if last => return Ok(()),
                Err(what) => return Err(damaged(what)),
            };
            let record = match Record::decode(frame.clone()) {
                Ok(record) => record,
                Err(_) if last && is_torn(&frame, offset) => return Ok(()),
                Err(_) => return Err(damaged("a record cannot be read")),
            };
            if record.kind == CHECKSUM {
                // The first file of what is left may follow one that was removed.
                if *sum != 0 && record.sum != *sum {
                    return Err(damaged("it does not follow the file before it"));
                }
                *sum = record.sum;
                first = false;
                continue;
            }
            if first {
                return Err(damaged("it does not begin with a checksum"));
            }
            let next = crc32c::crc32c_append(*sum, &record.data);
            if next != record.sum {
                if last && is_torn(&frame, offset) {
                    return Ok(());
                }
                return Err(damaged("the checksum of a record is wrong"));
            }
            *sum = next;
            match record.kind {
                ENTRY => {
                    let entry = Entry::decode(record.data)
                        .map_err(|_| damaged("an entry cannot be read"))?;
                    self.push(path, entry, applied)?;
                }
                STATE => {
                    let state = HardState::decode(record.data)
                        .map_err(|_| damaged("a hard state cannot be read"))?;
                    self.commit = state.commit;
                }
                _ => {}
            }
        }
    }

    fn push(&mut self, path: &Path, entry: Entry, applied: u64) -> Result<(), ImportError> {
        // A new leader's entries take the place of others with the same index.
        while let Some(other) = self.entries.pop_if(|other| other.index >= entry.index) {
            self.bytes -= other.data.len();
        }
        if entry.index <= applied {
            return Ok(());
        }
        self.bytes += entry.data.len();
        if self.bytes > MAX_PENDING_BYTES {
            let what = "the log holds more beyond the database than is taken over from a log; start this etcd once and stop it, or take `etcdctl snapshot save`";
            return Err(ImportError::damaged(path, &what));
        }
        self.entries.push(entry);
        Ok(())
    }
}

/// The files of a log in order.
fn files(dir: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let failed = |source| ImportError::Io {
        path: dir.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(sequence) = name.to_str().and_then(parse_name) else {
            continue;
        };
        found.push((sequence, dir.join(name)));
    }
    found.sort();
    let gap = found.windows(2).any(|two| two[1].0 != two[0].0 + 1);
    if found.is_empty() || gap {
        let what = "files of the log are missing";
        return Err(ImportError::damaged(dir, &what));
    }
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The sequence number in a file's name.
fn parse_name(name: &str) -> Option<u64> {
    let (sequence, index) = name.strip_suffix(".wal")?.split_once('-')?;
    let number =
        |digits: &str| (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?;
    number(index)?;
    number(sequence)
}

fn read_file(path: &Path) -> Result<Bytes, ImportError> {
    let failed = |source| ImportError::Io {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
        let error = io::Error::new(io::ErrorKind::FileTooLarge, "no log file is that large");
        return Err(failed(error));
    }
    Ok(Bytes::from(std::fs::read(path).map_err(failed)?))
}

/// The next record's bytes; `None` at the end, be it that of the file or of what was written
/// into the space laid out for it.
fn take_frame(bytes: &mut Bytes) -> Result<Option<Bytes>, &'static str> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let Some(head) = bytes.first_chunk::<8>() else {
        return Err("it ends in the middle of a length");
    };
    let head = u64::from_le_bytes(*head);
    if head == 0 {
        return Ok(None);
    }
    let length = usize::try_from(head & ((1 << 56) - 1)).unwrap_or(usize::MAX);
    let padding = if head >> 63 == 1 {
        (head >> 56 & 0x7) as usize
    } else {
        0
    };
    if length > MAX_RECORD_BYTES {
        return Err("a record is too long");
    }
    if bytes.len() < 8 + length + padding {
        return Err("it ends in the middle of a record");
    }
    drop(bytes.split_to(8));
    let frame = bytes.split_to(length);
    drop(bytes.split_to(padding));
    Ok(Some(frame))
}

/// Whether a record may be the rest of a write that a crash interrupted: then a whole sector of
/// it is still as it was laid out, all zeros.
fn is_torn(frame: &[u8], offset: usize) -> bool {
    const SECTOR: usize = 512;
    let start = offset + 8;
    let mut rest = frame;
    let mut at = start;
    while !rest.is_empty() {
        let take = (SECTOR - at % SECTOR).min(rest.len());
        let (sector, after) = rest.split_at(take);
        if sector.iter().all(|&byte| byte == 0) {
            return true;
        }
        (rest, at) = (after, at + take);
    }
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::Command;

    /// Writes a log as etcd does.
    #[derive(Default)]
    struct Log {
        sum: u32,
        bytes: Vec<u8>,
    }

    impl Log {
        /// The next file of the log that came to `sum`.
        fn after(sum: u32) -> Self {
            let mut log = Self::default();
            log.frame(&Record {
                kind: CHECKSUM,
                sum,
                data: Bytes::new(),
            });
            log.sum = sum;
            log
        }

        fn frame(&mut self, record: &Record) {
            let body = record.encode_to_vec();
            let padding = (8 - body.len() % 8) % 8;
            let mut head = body.len() as u64;
            if padding > 0 {
                head |= (0x80 | padding as u64) << 56;
            }
            self.bytes.extend(head.to_le_bytes());
            self.bytes.extend(&body);
            self.bytes.resize(self.bytes.len() + padding, 0);
        }

        fn record(mut self, kind: i64, data: Vec<u8>) -> Self {
            self.sum = crc32c::crc32c_append(self.sum, &data);
            let record = Record {
                kind,
                sum: self.sum,
                data: data.into(),
            };
            self.frame(&record);
            self
        }

        /// An entry that revokes the lease of this identity.
        fn entry(self, term: u64, index: u64, lease: u8) -> Self {
            let entry = Entry {
                kind: 0,
                term,
                index,
                data: vec![0x4a, 2, 8, lease].into(),
            };
            self.record(ENTRY, entry.encode_to_vec())
        }

        fn commit(self, commit: u64) -> Self {
            self.record(STATE, HardState { commit }.encode_to_vec())
        }

        /// The room that etcd lays out before it writes.
        fn laid_out(mut self) -> Vec<u8> {
            self.bytes.resize(self.bytes.len() + 4096, 0);
            self.bytes
        }
    }

    fn read(files: &[(&str, Vec<u8>)], applied: u64) -> Result<Tail, ImportError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        Tail::read(dir.path(), applied)
    }

    const FIRST: &str = "0000000000000000-0000000000000000.wal";
    const SECOND: &str = "0000000000000001-0000000000000003.wal";

    fn leases(tail: &Tail) -> Vec<i64> {
        tail.changes()
            .map(|change| match change.unwrap().unwrap() {
                Change::Command(Command::LeaseRevoke { id }) => id.0,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn sample() -> Log {
        Log::after(0)
            .record(1, b"metadata".to_vec())
            .entry(1, 1, 11)
            .entry(1, 2, 12)
            .commit(2)
    }

    #[test]
    fn what_the_database_lacks_is_read_across_files() {
        let first = sample();
        let second = Log::after(first.sum)
            .entry(1, 3, 13)
            .entry(1, 4, 14)
            .commit(3);
        let files = [(FIRST, first.bytes), (SECOND, second.laid_out())];
        assert_eq!(leases(&read(&files, 0).unwrap()), [11, 12, 13]);
        assert_eq!(leases(&read(&files, 2).unwrap()), [13]);
        assert_eq!(read(&files, 9).unwrap().len(), 0);
        // A first file that is gone is a gap only where its entries are missed.
        assert_eq!(leases(&read(&files[1..], 2).unwrap()), [13]);
        let error = read(&files[1..], 1).unwrap_err().to_string();
        assert!(error.contains("entry 3 where 2 should be"), "{error}");
        let gap = [
            files[0].clone(),
            ("0000000000000002-0000000000000003.wal", files[1].1.clone()),
        ];
        assert!(read(&gap, 0).is_err());
        assert!(read(&[], 0).is_err());
    }

    #[test]
    fn entries_of_a_later_leader_replace_others() {
        let log = sample().entry(2, 2, 22).entry(2, 3, 23).commit(3);
        assert_eq!(
            leases(&read(&[(FIRST, log.bytes)], 0).unwrap()),
            [11, 22, 23]
        );
    }

    #[test]
    fn the_rest_of_an_interrupted_write_is_no_damage_and_other_damage_is() {
        let whole = sample().commit(2).entry(1, 3, 13).commit(3);
        let good = read(&[(FIRST, whole.bytes.clone())], 0).unwrap();
        assert_eq!(leases(&good), [11, 12, 13]);
        let commit = whole.bytes.len();
        for length in commit - 20..commit {
            let cut = whole.bytes[..length].to_vec();
            assert_eq!(read(&[(FIRST, cut)], 0).unwrap().len(), 2, "{length}");
        }
        // In a file that another one follows, nothing may be missing.
        let second = Log::after(whole.sum).commit(3).bytes;
        let cut = whole.bytes[..commit - 3].to_vec();
        let error = read(&[(FIRST, cut), (SECOND, second.clone())], 0).unwrap_err();
        assert!(error.to_string().contains("damaged at byte"), "{error}");
        // Nor may a byte be another one, wherever it is.
        let mut flipped = whole.bytes.clone();
        flipped[60] ^= 1;
        assert!(read(&[(FIRST, flipped)], 0).is_err());
        let other = Log::after(whole.sum ^ 1).commit(3).bytes;
        assert!(read(&[(FIRST, whole.bytes), (SECOND, other)], 0).is_err());
    }

    #[test]
    fn a_sector_that_was_not_written_is_no_damage() {
        let sectors = sample().commit(3);
        let written = sectors.bytes.len();
        let entry = Entry {
            kind: 0,
            term: 1,
            index: 3,
            data: vec![7; 3000].into(),
        };
        let mut bytes = sectors.record(ENTRY, entry.encode_to_vec()).laid_out();
        assert_eq!(read(&[(FIRST, bytes.clone())], 0).unwrap().len(), 3);
        let start = (written + 8).next_multiple_of(512);
        bytes[start..start + 512].fill(0);
        assert_eq!(read(&[(FIRST, bytes.clone())], 0).unwrap().len(), 2);
        // Half a sector is damage.
        bytes[start] = 7;
        assert!(read(&[(FIRST, bytes)], 0).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(128)
        })]

        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
            places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            drop(read(&[(FIRST, bytes.clone())], 0));
            drop(entry::decode(bytes.into()));
            let mut log = sample().entry(1, 3, 13).commit(3).laid_out();
            for (place, byte) in places {
                let at = place.index(log.len());
                log[at] = byte;
            }
            if let Ok(tail) = read(&[(FIRST, log)], 0) {
                tail.changes().for_each(drop);
            }
        }
    }
}
