//! A genuine etcd's database, read into a new state.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message as _;
use ring::digest;
use trivet_bbolt::{Bucket, Database, Entry, Limits, ReadAt};
use trivet_datastore::{LeaseId, Revision};
use trivet_mvcc::LeaseInfo;

use super::auth::AuthReader;
use super::schema::{self, AlarmRecord, LeaseRecord, RevisionKey};
use crate::import::{ImportError, Progress};
use crate::proto::mvccpb;
use crate::state::{Builder, Put, Record};

/// Longest value that is taken over: what fits into a frame of a checkpoint's snapshot stream,
/// and far beyond what etcd takes from a client.
const MAX_VALUE_BYTES: u32 = 48 << 20;
/// Length of the checksum behind a snapshot.
const SUM_BYTES: u64 = 32;
/// A snapshot without a checksum is a whole number of these.
const SECTOR_BYTES: u64 = 512;
/// The file is summed up in pieces of this size.
const SUM_BLOCK: usize = 1 << 20;
/// Progress is told after so many records.
const TELL_EVERY: u64 = 4096;

/// A file that is only looked at.
#[derive(Debug)]
pub(crate) struct SourceFile {
    file: File,
    path: PathBuf,
    size_bytes: u64,
}

impl SourceFile {
    pub(crate) fn open(path: &Path) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a regular file",
            )));
        }
        Ok(Self {
            size_bytes: metadata.len(),
            path: path.to_owned(),
            file,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps an etcd from using the file while it is read; an etcd that has it open holds a lock.
    pub(crate) fn lock(&self) -> Result<(), ImportError> {
        use std::fs::TryLockError;
        match self.file.try_lock_shared() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(ImportError::InUse(self.path.clone())),
            Err(TryLockError::Error(source)) => Err(ImportError::Io {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// Checks the checksum behind a snapshot, if there is one; the length of the database in
    /// front of it.
    pub(crate) fn verify(
        &self,
        skip: bool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<u64, ImportError> {
        if self.size_bytes % SECTOR_BYTES != SUM_BYTES {
            return if skip {
                Ok(self.size_bytes)
            } else {
                Err(ImportError::NoChecksum(self.path.clone()))
            };
        }
        let length = self.size_bytes - SUM_BYTES;
        if skip {
            return Ok(length);
        }
        let mut sum = digest::Context::new(&digest::SHA256);
        let mut block = vec![0; SUM_BLOCK];
        let mut offset = 0;
        while offset < length {
            let take = SUM_BLOCK.min(usize::try_from(length - offset).unwrap_or(SUM_BLOCK));
            self.read(offset, &mut block[..take])?;
            sum.update(&block[..take]);
            offset += take as u64;
            progress(Progress::Checking {
                done_bytes: offset,
                total_bytes: length,
            });
        }
        let mut expected = [0; SUM_BYTES as usize];
        self.read(length, &mut expected)?;
        if sum.finish().as_ref() == expected {
            Ok(length)
        } else {
            Err(ImportError::ChecksumDiffers(self.path.clone()))
        }
    }

    /// The whole file is a database.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImportError> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|source| ImportError::Io {
                path: self.path.clone(),
                source,
            })
    }
}

impl ReadAt for SourceFile {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.size_bytes)
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// What a database says beside its records.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Head {
    /// The log entry up to which the database is.
    pub(crate) index: u64,
    pub(crate) compaction: Option<Revision>,
    pub(crate) alarms: Vec<AlarmRecord>,
    pub(crate) auth_enabled: bool,
}

/// A database with its buckets.
pub(crate) struct Etcd<'a> {
    path: &'a Path,
    database: Database<&'a SourceFile>,
    buckets: Vec<Bucket>,
}

impl<'a> Etcd<'a> {
    /// Opens a database that is the first `length` bytes of a file.
    pub(crate) fn open(file: &'a SourceFile, length: u64) -> Result<Self, ImportError> {
        let limits = Limits {
            value_bytes: MAX_VALUE_BYTES,
        };
        let path = file.path();
        let damaged = |error: trivet_bbolt::Error| ImportError::damaged(path, &error);
        let database = Database::open(file, length, limits).map_err(damaged)?;
        let buckets = database.buckets().map_err(damaged)?;
        let etcd = Self {
            path,
            database,
            buckets,
        };
        if etcd.bucket(schema::KEY).is_none() {
            let what = "it has no bucket \"key\": it is not a database of etcd 3";
            return Err(ImportError::damaged(path, &what));
        }
        Ok(etcd)
    }

    fn bucket(&self, name: &[u8]) -> Option<&Bucket> {
        self.buckets.iter().find(|bucket| bucket.name() == name)
    }

    fn each(
        &self,
        name: &[u8],
        mut take: impl FnMut(Entry) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let Some(bucket) = self.bucket(name) else {
            return Ok(());
        };
        let mut cursor = self.database.entries(bucket);
        while let Some(entry) = cursor
            .next()
            .map_err(|error| ImportError::damaged(self.path, &error))?
        {
            take(entry)?;
        }
        Ok(())
    }

    fn bad(&self, entry: &Entry, what: &dyn std::fmt::Display) -> ImportError {
        let what = format!("an entry in page {} makes no sense: {what}", entry.page);
        ImportError::damaged(self.path, &what)
    }

    /// What there is beside the records.
    pub(crate) fn head(&self) -> Result<Head, ImportError> {
        let mut head = Head::default();
        self.each(schema::META, |entry| {
            match &entry.key[..] {
                schema::META_INDEX => {
                    let bytes = <[u8; 8]>::try_from(&entry.value[..]);
                    let bytes = bytes.map_err(|_| self.bad(&entry, &"not a log index"))?;
                    head.index = u64::from_be_bytes(bytes);
                }
                // A compaction that was begun counts, whether it was finished or not.
                schema::META_COMPACTED | schema::META_COMPACTION => {
                    let revision = RevisionKey::decode(&entry.value)
                        .ok_or_else(|| self.bad(&entry, &"not a revision"))?;
                    head.compaction = head.compaction.max(Some(Revision(revision.main)));
                }
                _ => {}
            }
            Ok(())
        })?;
        self.each(schema::ALARM, |entry| {
            let alarm = AlarmRecord::decode(&entry.key[..]);
            head.alarms
                .push(alarm.map_err(|_| self.bad(&entry, &"not an alarm"))?);
            Ok(())
        })?;
        self.each(schema::AUTH, |entry| {
            head.auth_enabled |= entry.key == schema::AUTH_ENABLED && entry.value == [1];
            Ok(())
        })?;
        Ok(head)
    }

    /// Users and roles as the state keeps them, and how many there are.
    pub(crate) fn auth(&self, enabled: bool) -> Result<(Bytes, u64), ImportError> {
        let (mut reader, mut records) = (AuthReader::default(), 0);
        self.each(schema::AUTH_ROLES, |entry| {
            records += 1;
            reader
                .role(&entry.value)
                .map_err(|misfit| self.bad(&entry, &misfit))
        })?;
        self.each(schema::AUTH_USERS, |entry| {
            records += 1;
            reader
                .user(&entry.value)
                .map_err(|misfit| self.bad(&entry, &misfit))
        })?;
        let table = reader.finish(enabled);
        let table = table.map_err(|misfit| ImportError::damaged(self.path, &misfit))?;
        Ok((table, records))
    }

    /// Hands every lease and version to a builder.
    pub(crate) fn load(
        &self,
        builder: &mut Builder,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ImportError> {
        self.each(schema::LEASE, |entry| {
            let lease = LeaseRecord::decode(&entry.value[..])
                .map_err(|_| self.bad(&entry, &"not a lease"))?;
            if entry.key != schema::lease_key(LeaseId(lease.id)) {
                return Err(self.bad(&entry, &"a lease under another's identity"));
            }
            let lease = LeaseInfo {
                id: LeaseId(lease.id),
                ttl_s: u64::try_from(lease.ttl).unwrap_or(0),
                remaining_s: u64::try_from(lease.remaining_ttl).unwrap_or(0),
            };
            builder
                .lease(lease)
                .map_err(|misfit| self.bad(&entry, &misfit))
        })?;
        let (mut versions, mut bytes) = (0, 0);
        self.each(schema::KEY, |mut entry| {
            versions += 1;
            bytes += entry.value.len() as u64;
            let value = Bytes::from(std::mem::take(&mut entry.value));
            let record = record(&entry.key, value).map_err(|what| self.bad(&entry, &what))?;
            builder
                .add(record)
                .map_err(|source| ImportError::Io {
                    path: builder.dir().to_owned(),
                    source,
                })?
                .map_err(|misfit| self.bad(&entry, &misfit))?;
            if versions % TELL_EVERY == 0 {
                progress(Progress::Reading { versions, bytes });
            }
            Ok(())
        })?;
        progress(Progress::Reading { versions, bytes });
        Ok(())
    }
}

/// Reads one entry of the bucket of keys.
fn record(place: &[u8], value: Bytes) -> Result<Record, &'static str> {
    let place = RevisionKey::decode(place).ok_or("its key is not a revision")?;
    let pair = mvccpb::KeyValue::decode(value).map_err(|_| "its value is not a pair")?;
    let number = |number: i64| u64::try_from(number).map_err(|_| "a number is negative");
    let put = if place.tombstone {
        None
    } else {
        if number(pair.mod_revision)? != place.main {
            return Err("the pair is of another revision");
        }
        Some(Put {
            create: number(pair.create_revision)?,
            version: number(pair.version)?,
            lease: pair.lease,
            value: pair.value,
        })
    };
    Ok(Record {
        key: pair.key,
        main: place.main,
        sub: u32::try_from(place.sub).map_err(|_| "its revision is out of bounds")?,
        put,
    })
}
