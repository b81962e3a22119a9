//! The state and its changes.

use std::io;

use bytes::Bytes;
use trivet_datastore::{KeyValue, LeaseId, Revision};

use crate::lease::LeaseTable;
use crate::log::{Event, WatchLog, WatchLogLimits};
use crate::version::{Location, ReadValues, Values, Version};
use crate::view::select;
use crate::{DeleteRangeOp, Error, Index, Op, OpResult, PutOp, RangeOp, Txn, TxnResult, View};

/// A value that was kept apart from its version: fatal, and never seen by a client.
type Fatal<T> = io::Result<T>;

/// Everything that is replicated.
///
/// Methods that take [`Values`] fail with an `io::Error` only when values cannot be kept or
/// read; the state is of no use then. Refusals are inner errors and change nothing.
#[derive(Debug)]
pub struct Store {
    view: View,
    leases: LeaseTable,
    log: WatchLog,
    /// How far the removal of compacted versions has got; `None` when there is nothing to do.
    removal: Option<Removal>,
}

#[derive(Debug)]
struct Removal {
    revision: u64,
    cursor: Option<Vec<u8>>,
}

/// The parts of a state, for putting it together again.
#[derive(Debug)]
pub struct Parts {
    /// Index, newest revision, compaction.
    pub view: View,
    /// Leases; keys are attached by what the index says.
    pub leases: LeaseTable,
}

impl Store {
    /// An empty state: revision 1.
    #[must_use]
    pub fn new(limits: WatchLogLimits) -> Self {
        let view = View {
            index: Index::default(),
            revision: Revision(1),
            compacted: None,
        };
        Self::from_parts(
            Parts {
                view,
                leases: LeaseTable::default(),
            },
            limits,
        )
    }

    /// A state from its parts. Attaches every key to its lease, and takes up removing what was
    /// compacted from the start.
    #[must_use]
    pub fn from_parts(mut parts: Parts, limits: WatchLogLimits) -> Self {
        for entry in parts.view.index.entries() {
            if entry.head.lease != 0 {
                parts.leases.attach(entry.head.lease, entry.key);
            }
        }
        let log = WatchLog::new(parts.view.revision.0, limits);
        let removal = parts.view.compacted.map(|at| Removal {
            revision: at.0,
            cursor: None,
        });
        Self {
            view: parts.view,
            leases: parts.leases,
            log,
            removal,
        }
    }

    /// The state as readers see it.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.view.revision
    }

    /// Leases.
    #[must_use]
    pub fn leases(&self) -> &LeaseTable {
        &self.leases
    }

    /// Recent events.
    #[must_use]
    pub fn log(&self) -> &WatchLog {
        &self.log
    }

    /// Runs a transaction. [`Txn::validate`] is the caller's business: it comes before
    /// consensus.
    pub fn txn(&mut self, txn: &Txn, values: &mut dyn Values) -> Fatal<Result<TxnResult, Error>> {
        let path = Path::choose(&self.view, txn, values)?;
        let checked = self
            .check_puts(txn, &path)
            .and_then(|()| self.check_ranges(txn, &path));
        if let Err(error) = checked {
            return Ok(Err(error));
        }
        let mut changes = Changes::default();
        let result = self.run(txn, &path, &mut changes, values)?;
        self.finish(changes);
        Ok(Ok(result))
    }

    /// Creates a lease.
    pub fn lease_grant(&mut self, id: LeaseId, ttl_s: u64) -> Result<(), Error> {
        self.leases.grant(id, ttl_s)
    }

    /// Ends a lease and deletes its keys, all in one revision; the number of keys.
    pub fn lease_revoke(&mut self, id: LeaseId) -> Result<u64, Error> {
        let keys = self.leases.remove(id).ok_or(Error::LeaseNotFound)?;
        let mut changes = Changes::default();
        for key in &keys {
            self.delete(key, &mut changes);
        }
        let deleted = changes.events.len() as u64;
        self.finish(changes);
        Ok(deleted)
    }

    /// Notes how much time a lease has left ([`LeaseTable::set_remaining`]).
    pub fn lease_checkpoint(&mut self, id: LeaseId, remaining_s: u64) -> bool {
        self.leases.set_remaining(id, remaining_s)
    }

    /// Forgets superseded versions up to `revision`, at once for readers; memory comes back by
    /// [`Store::compact_step`].
    pub fn compact(&mut self, revision: Revision) -> Result<(), Error> {
        match self.view.compacted {
            Some(compacted) if revision <= compacted => {
                return Err(Error::Compacted {
                    compact_revision: compacted,
                });
            }
            _ if revision > self.view.revision => {
                let current = self.view.revision;
                return Err(Error::FutureRevision {
                    requested: revision,
                    current,
                });
            }
            _ => {}
        }
        self.view.compacted = Some(revision);
        self.removal = Some(Removal {
            revision: revision.0,
            cursor: None,
        });
        Ok(())
    }

    /// Removes what was compacted among about `max_keys` keys. `false` when there is nothing
    /// left to remove.
    pub fn compact_step(&mut self, max_keys: usize, values: &mut dyn Values) -> bool {
        let Some(removal) = &mut self.removal else {
            return false;
        };
        let done = self.view.index.compact_step(
            &mut removal.cursor,
            removal.revision,
            max_keys,
            &mut |version| values.release(version.location),
        );
        if done {
            self.removal = None;
        }
        !done
    }

    /// Whether [`Store::compact_step`] has work to do.
    #[must_use]
    pub fn has_removals(&self) -> bool {
        self.removal.is_some()
    }

    /// One step of moving values elsewhere ([`Index::relocate_step`]).
    pub fn relocate_step(
        &mut self,
        cursor: &mut Option<Vec<u8>>,
        max_keys: usize,
        wanted: &dyn Fn(Location) -> bool,
        moved: &mut dyn FnMut(Location) -> io::Result<Location>,
    ) -> io::Result<bool> {
        self.view
            .index
            .relocate_step(cursor, max_keys, wanted, moved)
    }

    /// Kept values and leases must exist before the transaction, else nothing runs; as in etcd
    /// all puts are looked at before the first range is.
    fn check_puts(&self, txn: &Txn, path: &Path) -> Result<(), Error> {
        let mut nested = path.nested.iter();
        for op in path.branch(txn) {
            match op {
                Op::Put(op) => {
                    let keeps = op.ignore_value || op.ignore_lease;
                    if keeps && self.view.index.get(&op.key, u64::MAX).is_none() {
                        return Err(Error::KeyNotFound);
                    }
                    if let Some(lease) = op.lease
                        && !self.leases.contains(lease)
                    {
                        return Err(Error::LeaseNotFound);
                    }
                }
                Op::Range(_) | Op::DeleteRange(_) => {}
                Op::Txn(inner) => {
                    if let Some(path) = nested.next() {
                        self.check_puts(inner, path)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Every range must be readable on the state before the transaction, else nothing runs.
    fn check_ranges(&self, txn: &Txn, path: &Path) -> Result<(), Error> {
        let mut nested = path.nested.iter();
        for op in path.branch(txn) {
            match op {
                Op::Range(op) => drop(self.view.check(op.revision)?),
                Op::Put(_) | Op::DeleteRange(_) => {}
                Op::Txn(inner) => {
                    if let Some(path) = nested.next() {
                        self.check_ranges(inner, path)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        txn: &Txn,
        path: &Path,
        changes: &mut Changes,
        values: &mut dyn Values,
    ) -> Fatal<TxnResult> {
        let branch = path.branch(txn);
        let mut results = Vec::with_capacity(branch.len());
        let mut nested = path.nested.iter();
        for op in branch {
            results.push(match op {
                Op::Range(op) => self.run_range(op, changes, values)?,
                Op::Put(op) => self.run_put(op, changes, values)?,
                Op::DeleteRange(op) => self.run_delete(op, changes, values)?,
                Op::Txn(inner) => {
                    let path = nested
                        .next()
                        .expect("every nested transaction has its path");
                    OpResult::Txn(self.run(inner, path, changes, values)?)
                }
            });
        }
        Ok(TxnResult {
            revision: self.current(changes),
            succeeded: path.succeeded,
            results,
        })
    }

    /// The newest revision as of this step of a transaction.
    fn current(&self, changes: &Changes) -> Revision {
        if changes.events.is_empty() {
            self.view.revision
        } else {
            self.view.revision.next()
        }
    }

    fn run_range(&self, op: &RangeOp, changes: &Changes, values: &dyn Values) -> Fatal<OpResult> {
        let at = op.revision.map_or(u64::MAX, |revision| revision.0);
        let selection = select(&self.view.index, op, at, self.current(changes));
        selection.read(as_reader(values)).map(OpResult::Range)
    }

    fn run_put(
        &mut self,
        op: &PutOp,
        changes: &mut Changes,
        values: &mut dyn Values,
    ) -> Fatal<OpResult> {
        let main = self.view.revision.0 + 1;
        let place = self.view.index.find(&op.key);
        let previous = self.view.index.newest(place).copied();
        let needs_value = op.prev_kv || op.ignore_value;
        let previous_value = match previous {
            Some(previous) if needs_value => values.read_any(previous.location)?,
            _ => Bytes::new(),
        };
        let value = if op.ignore_value {
            &previous_value
        } else {
            &op.value
        };
        let lease = match previous {
            Some(previous) if op.ignore_lease => previous.lease,
            _ => op.lease.map_or(0, |lease| lease.0),
        };
        let version = Version {
            main,
            create: previous.map_or(main, |previous| previous.create),
            version: previous.map_or(1, |previous| previous.version + 1),
            lease,
            sub: changes.events.len() as u32,
            location: if value.is_empty() {
                Location::EMPTY
            } else {
                values.append(value)?
            },
        };
        let before = self.before(&op.key, previous);
        self.view.index.put(place, &op.key, version);
        if let Some(previous) = previous
            && previous.lease != lease
        {
            self.leases.detach(previous.lease, &op.key);
        }
        if lease != 0 && previous.is_none_or(|previous| previous.lease != lease) {
            self.leases.attach(lease, &op.key);
        }
        changes
            .events
            .push(Event::new(&op.key, value, version, before));
        Ok(OpResult::Put {
            revision: Revision(main),
            previous: previous
                .filter(|_| op.prev_kv)
                .map(|previous| previous.pair(op.key.clone(), previous_value)),
        })
    }

    fn run_delete(
        &mut self,
        op: &DeleteRangeOp,
        changes: &mut Changes,
        values: &dyn Values,
    ) -> Fatal<OpResult> {
        let mut found = Vec::new();
        self.view.index.scan(&op.range, u64::MAX, |key, version| {
            found.push((Bytes::copy_from_slice(key), *version));
            true
        });
        let mut previous: Vec<KeyValue> = Vec::new();
        for (key, version) in &found {
            if op.prev_kv {
                previous.push(version.pair(key.clone(), values.read_any(version.location)?));
            }
            self.leases.detach(version.lease, key);
            self.delete(key, changes);
        }
        let deleted = found.len() as u64;
        Ok(OpResult::DeleteRange {
            revision: self.current(changes),
            deleted,
            previous,
        })
    }

    fn delete(&mut self, key: &[u8], changes: &mut Changes) {
        let place = self.view.index.find(key);
        let Some(previous) = self.view.index.newest(place).copied() else {
            return;
        };
        let sub = changes.events.len() as u32;
        let tombstone = Version::tombstone(self.view.revision.0 + 1, sub);
        let before = self.before(key, Some(previous));
        self.view.index.put(place, key, tombstone);
        changes.events.push(Event::new(key, &[], tombstone, before));
    }

    /// What watchers are told was there before: the version of an earlier revision, even where
    /// an earlier step of this one has superseded it already.
    fn before(&self, key: &[u8], newest: Option<Version>) -> Option<Version> {
        newest.and_then(|version| match version.main > self.view.revision.0 {
            true => self.view.index.get(key, self.view.revision.0).copied(),
            false => Some(version),
        })
    }

    fn finish(&mut self, changes: Changes) {
        if !changes.events.is_empty() {
            self.view.revision = self.view.revision.next();
            self.log.push(self.view.revision.0, changes.events);
        }
    }
}

/// What one command has changed so far.
#[derive(Default)]
struct Changes {
    events: Vec<Event>,
}

/// Which branches a transaction takes: every condition, nested ones too, looks at the state
/// before it.
struct Path {
    succeeded: bool,
    /// Of the nested transactions in the branch taken, in order.
    nested: Vec<Self>,
}

impl Path {
    fn choose(view: &View, txn: &Txn, values: &dyn Values) -> Fatal<Self> {
        let succeeded = view.all_hold(&txn.compare, as_reader(values))?;
        let mut path = Self {
            succeeded,
            nested: Vec::new(),
        };
        let mut nested = Vec::new();
        for op in path.branch(txn) {
            if let Op::Txn(inner) = op {
                nested.push(Self::choose(view, inner, values)?);
            }
        }
        path.nested = nested;
        Ok(path)
    }

    fn branch<'a>(&self, txn: &'a Txn) -> &'a [Op] {
        if self.succeeded {
            &txn.success
        } else {
            &txn.failure
        }
    }
}

fn as_reader(values: &dyn Values) -> &dyn ReadValues {
    values
}
