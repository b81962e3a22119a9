//! A state from records that did not come through the log: an import.
//!
//! Records come in order of revision, as etcd keeps them. Values go to segments at once; what
//! stays in memory is the index, as in a running member.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use trivet_mvcc::{
    Index, LeaseId, LeaseInfo, LeaseTable, Location, Parts, Revision, Store, Values as _, Version,
    View,
};

use super::codec::DecodeError;
use super::command::{Command, CommandError, Response};
use super::frame::KIND_AUTH;
use super::machine::Machine;
use super::open::{Limits, OpenError, StateConfig, open};
use super::shared::Shared;
use super::side::SideReader;

/// Values are written to their file once there is so much of them.
const FLUSH_BYTES: usize = 1 << 20;

/// One version of a key; without a value it is a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Bytes,
    pub(crate) main: u64,
    pub(crate) sub: u32,
    pub(crate) put: Option<Put>,
}

/// What a write left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Put {
    pub(crate) create: u64,
    pub(crate) version: u64,
    pub(crate) lease: i64,
    pub(crate) value: Bytes,
}

/// Why a record has no place in the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    #[error("its revision is not greater than the one before it")]
    Order,
    #[error("its revisions contradict each other")]
    Revisions,
    #[error("it has no key")]
    NoKey,
    #[error("the lease is there twice, or its identity or time is 0")]
    Lease,
}

/// Takes the records of a new state.
pub(crate) struct Builder {
    dir: PathBuf,
    seed: Seed,
    limits: Limits,
    index: Index,
    leases: LeaseTable,
    last: (u64, u32),
    unflushed: usize,
}

/// A new state that has its records, and may still be changed by commands.
pub(crate) struct Seed {
    shared: Arc<Shared>,
    /// Ends the work on files when it is dropped.
    _machine: Machine,
}

impl Builder {
    /// A state in a directory that holds none.
    pub(crate) fn create(mut config: StateConfig) -> Result<Self, OpenError> {
        // Nothing is to be removed or written behind our back.
        config.background = false;
        let (dir, limits) = (config.dir.clone(), config.limits);
        let (machine, shared) = open(config)?;
        Ok(Self {
            dir,
            seed: Seed {
                shared,
                _machine: machine,
            },
            limits,
            index: Index::default(),
            leases: LeaseTable::default(),
            last: (0, 0),
            unflushed: 0,
        })
    }

    /// Where the state is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The greatest revision so far, 0 before the first.
    pub(crate) fn revision(&self) -> Revision {
        Revision(self.last.0)
    }

    /// Adds a version.
    pub(crate) fn add(&mut self, record: Record) -> io::Result<Result<(), Misfit>> {
        let Record {
            key,
            main,
            sub,
            put,
        } = record;
        if key.is_empty() {
            return Ok(Err(Misfit::NoKey));
        }
        if main == 0 || (main, sub) <= self.last {
            return Ok(Err(Misfit::Order));
        }
        let version = match put {
            None => Version::tombstone(main, sub),
            Some(put) => {
                let sane = put.create >= 1 && put.create <= main && put.version >= 1;
                if !sane {
                    return Ok(Err(Misfit::Revisions));
                }
                Version {
                    main,
                    create: put.create,
                    version: put.version,
                    lease: put.lease,
                    sub,
                    location: self.keep(&put.value)?,
                }
            }
        };
        self.last = (main, sub);
        // A key has one version per place in the order of writing, which only grows.
        Ok(if self.index.append(&key, version) {
            Ok(())
        } else {
            Err(Misfit::Order)
        })
    }

    fn keep(&mut self, value: &[u8]) -> io::Result<Location> {
        if value.is_empty() {
            return Ok(Location::EMPTY);
        }
        let mut inner = self.seed.shared.write();
        let location = inner.segments.append(value)?;
        self.unflushed += value.len();
        if self.unflushed >= FLUSH_BYTES {
            inner.segments.flush()?;
            self.unflushed = 0;
        }
        Ok(location)
    }

    /// Adds a lease.
    pub(crate) fn lease(&mut self, lease: LeaseInfo) -> Result<(), Misfit> {
        if lease.id == LeaseId(0) || lease.ttl_s == 0 {
            return Err(Misfit::Lease);
        }
        self.leases
            .grant(lease.id, lease.ttl_s)
            .map_err(|_| Misfit::Lease)?;
        self.leases.set_remaining(lease.id, lease.remaining_s);
        Ok(())
    }

    /// Ends the records. `revision` is not less than that of any of them, nor is `compacted`
    /// greater than it.
    pub(crate) fn seal(self, revision: Revision, compacted: Option<Revision>) -> io::Result<Seed> {
        assert!(revision >= self.revision() && compacted.is_none_or(|at| at <= revision));
        let view = View {
            index: self.index,
            revision,
            compacted,
        };
        let parts = Parts {
            view,
            leases: self.leases,
        };
        {
            let mut inner = self.seed.shared.write();
            inner.segments.flush()?;
            inner.store = Store::from_parts(parts, self.limits.watch_log);
        }
        Ok(self.seed)
    }
}

impl Seed {
    /// Changes the state as a command from the log would.
    pub(crate) fn execute(&self, command: Command) -> io::Result<Result<Response, CommandError>> {
        let mut inner = self.shared.write();
        let result = inner.execute(command, 0)?;
        inner.segments.flush()?;
        Ok(result)
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> Revision {
        self.shared.read().store.revision()
    }

    /// The last compaction, 0 for none.
    pub(crate) fn compact_revision(&self) -> Revision {
        self.shared.read().store.view().compact_revision()
    }

    /// Skips revisions, and makes all before the last one unreadable: whoever remembers a
    /// revision from elsewhere is told to start over.
    pub(crate) fn skip_revisions(&self, count: u64) -> io::Result<()> {
        let mut inner = self.shared.write();
        let old = inner.store.view().clone();
        let revision = old.revision.0.checked_add(count).filter(|revision| {
            // The wire has them signed.
            *revision <= i64::MAX as u64
        });
        let revision = Revision(revision.ok_or(io::ErrorKind::InvalidInput)?);
        let mut leases = LeaseTable::default();
        for lease in inner.store.leases().iter() {
            // They were distinct before.
            let granted = leases.grant(lease.id, lease.ttl_s);
            debug_assert!(granted.is_ok());
            leases.set_remaining(lease.id, lease.remaining_s);
        }
        let view = View {
            revision,
            compacted: Some(revision),
            ..old
        };
        let log = self.shared.limits.watch_log;
        inner.store = Store::from_parts(Parts { view, leases }, log);
        Ok(())
    }

    /// How many keys there are, and how many versions that are not compacted.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let view = self.shared.read().store.view().clone();
        let compacted = view.compact_revision().0;
        let keys = view.index.count(&trivet_mvcc::KeyRange::all(), u64::MAX);
        let versions = view.index.entries();
        let versions = versions.map(|entry| entry.uncompacted(compacted).len() as u64);
        (keys, versions.sum())
    }

    /// How many leases there are.
    pub(crate) fn leases(&self) -> u64 {
        self.shared.read().store.leases().iter().count() as u64
    }

    /// Sets users and roles, as the state keeps them.
    pub(crate) fn set_auth(&self, table: Bytes) -> io::Result<()> {
        let malformed = |error: DecodeError| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut reader = SideReader::default();
        reader
            .read(KIND_AUTH, table, &mut LeaseTable::default())
            .map_err(malformed)?;
        let side = reader.finish().map_err(malformed)?;
        self.shared.write().side.auth = side.auth;
        Ok(())
    }

    /// Ends every alarm; how many there were.
    pub(crate) fn drop_alarms(&self) -> u64 {
        let mut inner = self.shared.write();
        std::mem::take(&mut inner.side.alarms).iter().count() as u64
    }

    /// The keys that begin with this, without deleted ones; no more than `max`.
    pub(crate) fn keys(&self, prefix: &'static [u8], max: usize) -> Vec<Bytes> {
        let view = self.shared.read().store.view().clone();
        let range = trivet_mvcc::KeyRange::prefix(Bytes::from_static(prefix));
        let mut found = Vec::new();
        view.index.scan(&range, u64::MAX, |key, _| {
            found.push(Bytes::copy_from_slice(key));
            found.len() < max
        });
        found
    }

    /// Makes the state durable, as of before the first log entry.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.shared.checkpoint(true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use trivet_env::Env;
    use trivet_sim::SimDisk;

    use super::*;

    fn config(disk: &SimDisk) -> StateConfig {
        let env = Env {
            disk: Arc::new(disk.clone()),
            ..Env::real()
        };
        StateConfig::new(env, PathBuf::from("/state"))
    }

    fn record(key: &'static str, main: u64, sub: u32, create: u64, version: u64) -> Record {
        Record {
            key: Bytes::from_static(key.as_bytes()),
            main,
            sub,
            put: Some(Put {
                create,
                version,
                lease: 7,
                value: Bytes::from(format!("{key}@{main}")),
            }),
        }
    }

    #[test]
    fn what_was_built_is_there_after_a_start() {
        let disk = SimDisk::new();
        let mut builder = Builder::create(config(&disk)).unwrap();
        builder.add(record("b", 5, 0, 2, 3)).unwrap().unwrap();
        builder.add(record("a", 5, 1, 5, 1)).unwrap().unwrap();
        let deletion = Record {
            put: None,
            ..record("b", 6, 0, 0, 0)
        };
        builder.add(deletion).unwrap().unwrap();
        let lease = LeaseInfo {
            id: LeaseId(7),
            ttl_s: 60,
            remaining_s: 20,
        };
        builder.lease(lease).unwrap();
        assert_eq!(builder.lease(lease), Err(Misfit::Lease));
        let seed = builder.seal(Revision(9), Some(Revision(5))).unwrap();
        assert_eq!(seed.counts(), (1, 3));
        seed.finish().unwrap();

        let (machine, shared) = open(config(&disk)).unwrap();
        let image = shared.image().unwrap();
        assert_eq!(image.applied, Default::default());
        assert_eq!(image.view.revision, Revision(9));
        assert_eq!(image.view.compacted, Some(Revision(5)));
        assert_eq!(image.leases, [lease]);
        assert_eq!(shared.lease_keys(LeaseId(7)).unwrap(), ["a"]);
        let version = *image.view.index.get(b"b", 5).unwrap();
        assert_eq!((version.create, version.version), (2, 3));
        assert_eq!(image.values(&[version.location]).unwrap(), ["b@5"]);
        assert!(image.view.index.get(b"b", 6).is_none());
        drop(machine);
    }

    #[test]
    fn records_that_cannot_be_are_refused() {
        let disk = SimDisk::new();
        let mut builder = Builder::create(config(&disk)).unwrap();
        builder.add(record("a", 5, 1, 5, 1)).unwrap().unwrap();
        let mut refused = |record| builder.add(record).unwrap().unwrap_err();
        assert_eq!(refused(record("b", 5, 1, 5, 1)), Misfit::Order);
        assert_eq!(refused(record("b", 4, 9, 4, 1)), Misfit::Order);
        assert_eq!(refused(record("b", 6, 0, 7, 1)), Misfit::Revisions);
        assert_eq!(refused(record("b", 6, 0, 0, 1)), Misfit::Revisions);
        assert_eq!(refused(record("b", 6, 0, 6, 0)), Misfit::Revisions);
        assert_eq!(refused(record("", 6, 0, 6, 1)), Misfit::NoKey);
    }

    #[test]
    fn skipped_revisions_leave_nothing_older_to_read() {
        let disk = SimDisk::new();
        let mut builder = Builder::create(config(&disk)).unwrap();
        builder.add(record("a", 5, 0, 5, 1)).unwrap().unwrap();
        builder.add(record("a", 6, 0, 5, 2)).unwrap().unwrap();
        let seed = builder.seal(Revision(6), None).unwrap();
        assert!(seed.skip_revisions(u64::MAX).is_err());
        assert!(seed.skip_revisions(i64::MAX as u64).is_err());
        seed.skip_revisions(1000).unwrap();
        assert_eq!(seed.revision(), Revision(1006));
        assert_eq!(seed.compact_revision(), Revision(1006));
        assert_eq!(seed.counts(), (1, 1));
    }
}
