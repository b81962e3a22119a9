//! The watch cache: every object of every resource, kept current by one store watch.

mod entry;
mod feed;
mod slot;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use trivet_datastore::{KeyValue, WatchBatch, WatchEvent};
use trivet_kube_schema::{RESOURCES, ResourceInfo};

pub(crate) use entry::Entry;
pub(crate) use feed::feed;
pub(crate) use slot::{Change, ChangeKind, Cursor, Slot};

use crate::config::Limits;

/// Store prefix under which live servers register; not a resource, but watched the same way.
pub(crate) const SERVERS_PREFIX: &str = "/registry/masterleases/";

/// Everything in the store that the API serves.
pub(crate) struct Cache {
    slots: Vec<Arc<Slot>>,
    /// By [`ResourceInfo::storage_prefix`].
    by_prefix: HashMap<&'static str, usize>,
    /// Live servers: key to raw value.
    servers: watch::Sender<Arc<HashMap<String, Vec<u8>>>>,
    /// The cache holds everything up to this revision.
    revision: watch::Sender<u64>,
    ready: AtomicBool,
}

impl Cache {
    pub(crate) fn new(limits: &Limits) -> Self {
        let mut slots = Vec::new();
        let mut by_prefix = HashMap::new();
        for info in RESOURCES {
            let (Some(prefix), Some(whole)) = (info.storage_prefix, info.collection_prefix(None))
            else {
                continue;
            };
            // Two resources over one prefix are two views of the same objects; the first one in
            // the table is the stored form.
            by_prefix.entry(prefix).or_insert_with(|| {
                let (events, bytes) = (limits.ring_events_max, limits.ring_bytes_max);
                slots.push(Arc::new(Slot::new(info, whole, events, bytes)));
                slots.len() - 1
            });
        }
        Self {
            slots,
            by_prefix,
            servers: watch::Sender::default(),
            revision: watch::Sender::new(0),
            ready: AtomicBool::new(false),
        }
    }

    /// The slot behind a resource; `None` for request-only kinds.
    pub(crate) fn slot(&self, info: &ResourceInfo) -> Option<&Arc<Slot>> {
        self.by_prefix
            .get(info.storage_prefix?)
            .map(|index| &self.slots[*index])
    }

    /// The slot of a resource that is known to be stored, by group and plural.
    pub(crate) fn named(&self, group: &str, plural: &str) -> Option<&Arc<Slot>> {
        self.slots
            .iter()
            .find(|s| s.info.group == group && s.info.plural == plural)
    }

    pub(crate) fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    /// Whether the first full read of the store is done.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The revision up to which the cache is complete.
    pub(crate) fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Waits until the cache has seen `revision`; false when that takes too long.
    pub(crate) async fn wait_for(&self, revision: u64, limit: Duration) -> bool {
        let mut seen = self.revision.subscribe();
        tokio::time::timeout(limit, seen.wait_for(|r| *r >= revision))
            .await
            .is_ok_and(|r| r.is_ok())
    }

    /// Live servers, by store key.
    pub(crate) fn servers(&self) -> watch::Receiver<Arc<HashMap<String, Vec<u8>>>> {
        self.servers.subscribe()
    }

    fn slot_index(&self, key: &[u8]) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| key.starts_with(slot.prefix.as_bytes()))
    }

    /// Replaces everything by a full read of the store at one revision. Open watches end.
    fn reset(&self, pairs: Vec<KeyValue>, revision: u64) {
        let mut parts: Vec<Vec<KeyValue>> = self.slots.iter().map(|_| Vec::new()).collect();
        let mut servers = HashMap::new();
        for pair in pairs {
            if pair.key.starts_with(SERVERS_PREFIX.as_bytes()) {
                servers.insert(
                    String::from_utf8_lossy(&pair.key).into_owned(),
                    pair.value.to_vec(),
                );
            } else if let Some(index) = self.slot_index(&pair.key) {
                parts[index].push(pair);
            }
        }
        for (slot, pairs) in self.slots.iter().zip(&parts) {
            slot.reset(pairs, revision);
        }
        self.servers.send_replace(Arc::new(servers));
        self.revision.send_replace(revision);
        self.ready.store(true, Ordering::Release);
    }

    /// Applies a batch of the store's watch, then publishes its revision.
    fn apply(&self, batch: &WatchBatch) {
        let mut touched: Vec<usize> = Vec::new();
        let mut servers_changed = false;
        for event in &batch.events {
            if event.current.key.starts_with(SERVERS_PREFIX.as_bytes()) {
                servers_changed = true;
            } else if let Some(index) = self.slot_index(&event.current.key)
                && !touched.contains(&index)
            {
                touched.push(index);
            }
        }
        // All changes of one resource go in under one lock, so that a reader never sees half of
        // a revision.
        for index in touched {
            let own = |e: &&WatchEvent| self.slot_index(&e.current.key) == Some(index);
            self.slots[index].apply(batch.events.iter().filter(own));
        }
        if servers_changed {
            self.servers.send_modify(|servers| {
                let servers = Arc::make_mut(servers);
                for event in &batch.events {
                    if !event.current.key.starts_with(SERVERS_PREFIX.as_bytes()) {
                        continue;
                    }
                    let key = String::from_utf8_lossy(&event.current.key).into_owned();
                    match event.kind {
                        trivet_datastore::EventKind::Put => {
                            servers.insert(key, event.current.value.to_vec());
                        }
                        trivet_datastore::EventKind::Delete => {
                            servers.remove(&key);
                        }
                    }
                }
            });
        }
        self.revision.send_if_modified(|revision| {
            let newer = batch.revision.0 > *revision;
            *revision = (*revision).max(batch.revision.0);
            newer
        });
    }
}
