//! What the store knows: pure data, told the time, never waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::{
    DeleteRequest, Effect, Error, EventKind, Expect, ExportItem, Key, KeyRange, KeyValue, Lease,
    LeaseId, MAX_REQUEST_BYTES, PutRequest, RangePage, RangeRequest, Result, Revision, WatchBatch,
    WatchEvent, WriteOutcome,
};

/// Shortest time to live; shorter requests are raised to it.
const MIN_LEASE_TTL: Duration = Duration::from_millis(100);

/// Longest time to live that is granted (etcd's limit).
const MAX_LEASE_TTL: Duration = Duration::from_secs(9_000_000_000);

/// Events per watch batch, unless one revision alone has more (etcd's catch-up size).
const MAX_BATCH_EVENTS: usize = 1000;

/// A key's pair from a revision on; `None` is a deletion.
#[derive(Debug)]
struct Version {
    revision: Revision,
    pair: Option<KeyValue>,
}

#[derive(Debug)]
struct LeaseState {
    ttl: Duration,
    deadline: Instant,
    keys: BTreeSet<Key>,
}

/// What a watch finds when it looks.
#[derive(Debug)]
pub(super) enum Found {
    /// Changes, and the revision to go on from.
    Changes(WatchBatch),
    /// Nothing for this watch up to and including this revision.
    Nothing(Revision),
}

/// All revisions from the compaction on, twice: by key for ranges, by revision for watches.
#[derive(Debug)]
pub(super) struct State {
    revision: Revision,
    /// Everything superseded up to here is forgotten; 0 before the first compaction.
    compacted: Revision,
    keys: BTreeMap<Key, Vec<Version>>,
    log: BTreeMap<Revision, Vec<WatchEvent>>,
    leases: BTreeMap<LeaseId, LeaseState>,
    last_lease: i64,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            revision: Revision::EMPTY_STORE,
            compacted: Revision(0),
            keys: BTreeMap::new(),
            log: BTreeMap::new(),
            leases: BTreeMap::new(),
            last_lease: 0,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(super) fn range(&self, request: &RangeRequest) -> Result<RangePage> {
        if matches!(&request.range, KeyRange::Key(key) if key.is_empty()) {
            return Err(empty_key());
        }
        let at = request.at.unwrap_or(self.revision);
        self.check_readable(at)?;
        let mut page = RangePage {
            revision: self.revision,
            items: Vec::new(),
            count: 0,
            more: false,
        };
        let Some(bounds) = request.range.bounds(request.after.as_ref()) else {
            return Ok(page);
        };
        for pair in self
            .keys
            .range(bounds)
            .filter_map(|(_, versions)| pair_at(versions, at))
        {
            page.count += 1;
            if request.count_only {
                continue;
            }
            if request.limit == 0 || page.items.len() < request.limit {
                page.items.push(pair.clone());
            } else {
                page.more = true;
            }
        }
        Ok(page)
    }

    pub(super) fn put(&mut self, request: PutRequest) -> Result<WriteOutcome> {
        check_size(&request.key, request.value.len())?;
        let current = self.current(&request.key);
        if !holds(request.expect, current.as_ref()) {
            return Ok(WriteOutcome::Conflict {
                revision: self.revision,
                current,
            });
        }
        if request
            .lease
            .is_some_and(|lease| !self.leases.contains_key(&lease))
        {
            return Err(Error::LeaseNotFound);
        }
        let revision = self.revision.next();
        let pair = KeyValue {
            key: request.key,
            value: request.value,
            create_revision: current
                .as_ref()
                .map_or(revision, |pair| pair.create_revision),
            mod_revision: revision,
            version: current.as_ref().map_or(1, |pair| pair.version + 1),
            lease: request.lease,
        };
        self.commit(revision, vec![(pair.key.clone(), Some(pair))]);
        Ok(WriteOutcome::Committed {
            revision,
            previous: current,
        })
    }

    pub(super) fn delete(&mut self, request: DeleteRequest) -> Result<WriteOutcome> {
        check_size(&request.key, 0)?;
        if request.expect == Expect::Absent {
            return Err(Error::Invalid(
                "a delete cannot expect the key to be absent".into(),
            ));
        }
        let current = self.current(&request.key);
        if !holds(request.expect, current.as_ref()) {
            return Ok(WriteOutcome::Conflict {
                revision: self.revision,
                current,
            });
        }
        if current.is_some() {
            self.commit(self.revision.next(), vec![(request.key, None)]);
        }
        Ok(WriteOutcome::Committed {
            revision: self.revision,
            previous: current,
        })
    }

    /// What happened to `range` from `next` on.
    pub(super) fn changes(
        &self,
        range: &KeyRange,
        next: Revision,
        previous: bool,
    ) -> Result<Found> {
        if next < self.compacted {
            return Err(Error::Compacted {
                compact_revision: self.compacted,
            });
        }
        let mut batch = WatchBatch {
            revision: self.revision,
            events: Vec::new(),
        };
        for (revision, events) in self.log.range(next..) {
            let matching = events
                .iter()
                .filter(|event| range.contains(&event.current.key));
            let before = batch.events.len();
            batch.events.extend(matching.cloned());
            if before > 0 && batch.events.len() > MAX_BATCH_EVENTS {
                batch.events.truncate(before);
                batch.revision = Revision(revision.0 - 1);
                break;
            }
        }
        if batch.events.is_empty() {
            return Ok(Found::Nothing(self.revision));
        }
        if !previous {
            batch
                .events
                .iter_mut()
                .for_each(|event| event.previous = None);
        }
        Ok(Found::Changes(batch))
    }

    pub(super) fn grant_lease(&mut self, ttl: Duration, now: Instant) -> Result<Lease> {
        let ttl = ttl.max(MIN_LEASE_TTL);
        let deadline = now.checked_add(ttl).filter(|_| ttl <= MAX_LEASE_TTL);
        let Some(deadline) = deadline else {
            return Err(Error::Invalid(
                "the time to live of the lease is too long".into(),
            ));
        };
        self.last_lease += 1;
        let id = LeaseId(self.last_lease);
        self.leases.insert(
            id,
            LeaseState {
                ttl,
                deadline,
                keys: BTreeSet::new(),
            },
        );
        Ok(Lease { id, ttl })
    }

    pub(super) fn keep_lease_alive(&mut self, id: LeaseId, now: Instant) -> Result<Lease> {
        let lease = self.leases.get_mut(&id).ok_or(Error::LeaseNotFound)?;
        lease.deadline = now.checked_add(lease.ttl).unwrap_or(lease.deadline);
        Ok(Lease { id, ttl: lease.ttl })
    }

    pub(super) fn revoke_lease(&mut self, id: LeaseId) -> Result<()> {
        let lease = self.leases.remove(&id).ok_or(Error::LeaseNotFound)?;
        if !lease.keys.is_empty() {
            let deletions = lease.keys.into_iter().map(|key| (key, None)).collect();
            self.commit(self.revision.next(), deletions);
        }
        Ok(())
    }

    /// Ends every lease whose time is over, the one that was due first first.
    pub(super) fn expire_leases(&mut self, now: Instant) {
        let mut due: Vec<_> = self
            .leases
            .iter()
            .map(|(id, lease)| (lease.deadline, *id))
            .collect();
        due.retain(|(deadline, _)| *deadline <= now);
        due.sort_unstable();
        for (_, id) in due {
            self.revoke_lease(id)
                .expect("the id was just taken from the table");
        }
    }

    /// When the next lease ends unless it is renewed.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.deadline).min()
    }

    pub(super) fn compact(&mut self, revision: Revision) -> Result<()> {
        if revision <= self.compacted {
            return Err(Error::Compacted {
                compact_revision: self.compacted,
            });
        }
        self.check_readable(revision)?;
        self.compacted = revision;
        self.keys.retain(|_, versions| {
            let newer = versions.partition_point(|version| version.revision <= revision);
            // What still holds at the compaction stays; a deletion needs no keeping.
            let kept = newer.saturating_sub(1);
            let gone = versions
                .get(kept)
                .is_some_and(|v| kept < newer && v.pair.is_none());
            versions.drain(..kept + usize::from(gone));
            !versions.is_empty()
        });
        self.log = self.log.split_off(&revision);
        Ok(())
    }

    pub(super) fn export(&self) -> Vec<ExportItem> {
        let mut items = vec![ExportItem::Head {
            revision: self.revision,
        }];
        for (id, lease) in &self.leases {
            items.push(ExportItem::Lease(Lease {
                id: *id,
                ttl: lease.ttl,
            }));
        }
        let (mut pairs, mut checksum) = (0, 0);
        for pair in self
            .keys
            .values()
            .filter_map(|versions| pair_at(versions, self.revision))
        {
            pairs += 1;
            checksum = pair.checksum(checksum);
            items.push(ExportItem::Pair(pair.clone()));
        }
        items.push(ExportItem::Trailer { pairs, checksum });
        items
    }

    fn current(&self, key: &Key) -> Option<KeyValue> {
        self.keys
            .get(key)
            .and_then(|versions| pair_at(versions, self.revision))
            .cloned()
    }

    /// The only place where anything changes: sets or deletes keys, all at one new revision.
    fn commit(&mut self, revision: Revision, changes: Vec<(Key, Option<KeyValue>)>) {
        let mut events = Vec::with_capacity(changes.len());
        for (key, pair) in changes {
            let previous = self.current(&key);
            if let Some(lease) = previous.as_ref().and_then(|pair| pair.lease)
                && let Some(lease) = self.leases.get_mut(&lease)
            {
                lease.keys.remove(&key);
            }
            if let Some(lease) = pair.as_ref().and_then(|pair| pair.lease)
                && let Some(lease) = self.leases.get_mut(&lease)
            {
                lease.keys.insert(key.clone());
            }
            events.push(match &pair {
                Some(pair) => WatchEvent {
                    kind: EventKind::Put,
                    current: pair.clone(),
                    previous,
                },
                None => WatchEvent {
                    kind: EventKind::Delete,
                    current: KeyValue::tombstone(key.clone(), revision),
                    previous,
                },
            });
            self.keys
                .entry(key)
                .or_default()
                .push(Version { revision, pair });
        }
        self.log.insert(revision, events);
        self.revision = revision;
    }

    fn check_readable(&self, revision: Revision) -> Result<()> {
        if revision < self.compacted {
            return Err(Error::Compacted {
                compact_revision: self.compacted,
            });
        }
        if revision > self.revision {
            return Err(Error::FutureRevision {
                requested: revision,
                current: self.revision,
            });
        }
        Ok(())
    }
}

/// The store is shut down: the answer to everything.
pub(super) fn closed() -> Error {
    Error::Unavailable {
        reason: "the store is shut down".into(),
        retry_after: None,
        effect: Effect::None,
    }
}

fn pair_at(versions: &[Version], at: Revision) -> Option<&KeyValue> {
    let newer = versions.partition_point(|version| version.revision <= at);
    versions[..newer].last()?.pair.as_ref()
}

fn holds(expect: Expect, current: Option<&KeyValue>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::ModRevision(revision) => current.is_some_and(|pair| pair.mod_revision == revision),
    }
}

fn check_size(key: &Key, value_bytes: usize) -> Result<()> {
    if key.is_empty() {
        return Err(empty_key());
    }
    let size_bytes = key.len() as u64 + value_bytes as u64;
    if size_bytes > MAX_REQUEST_BYTES {
        return Err(Error::TooLarge {
            size_bytes,
            limit_bytes: MAX_REQUEST_BYTES,
        });
    }
    Ok(())
}

fn empty_key() -> Error {
    Error::Invalid("the key is empty".into())
}
