//! The watches of a stream that have seen everything so far: they take each step together.
//!
//! One look at the newest revisions serves them all, and an event is put together once. Watches
//! that still read history, or fell behind what is in memory, go their own way and come back.

use std::collections::BTreeMap;
use std::io;

use tokio::sync::mpsc;
use tonic::Status;
use trivet_datastore::{KeyValue, Revision};

use super::convert;
use super::watch_stream::{End, Watch, end, send_events};
use crate::engine::Engine;
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;
use crate::state::{Recent, WatchError, delivered, read_previous};

/// Replaced values read where the step is taken; more are read on a thread of their own.
const INLINE_VALUES: usize = 64;

/// The events of a step, put together when the first watch wants them.
struct Events {
    recent: Recent,
    plain: Vec<Option<mvccpb::Event>>,
    /// The replaced pairs, where any watch wants them.
    previous: Vec<Option<KeyValue>>,
}

impl Events {
    async fn new<'w>(
        engine: &Engine,
        recent: Recent,
        watches: impl Iterator<Item = &'w Watch<'w>> + Clone,
    ) -> Result<Self, WatchError> {
        let previous = if watches.clone().any(|watch| watch.wants_previous()) {
            previous(engine, &recent, watches).await?
        } else {
            Vec::new()
        };
        Ok(Self {
            plain: vec![None; recent.len()],
            previous,
            recent,
        })
    }

    /// What of the step a watch wants, in order.
    fn of(&mut self, watch: &Watch<'_>) -> Vec<mvccpb::Event> {
        let Some(watcher) = &watch.synced else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (number, change) in self.recent.changes().enumerate() {
            if !watcher.wants(change) {
                continue;
            }
            let plain = self.plain[number].get_or_insert_with(|| convert::event(delivered(change)));
            let mut event = plain.clone();
            if watch.wants_previous() {
                let previous = self.previous.get(number).cloned().flatten();
                event.prev_kv = previous.map(convert::key_value);
            }
            found.push(event);
        }
        found
    }
}

/// The replaced pairs of the changes that any watch wants together with them.
async fn previous<'w>(
    engine: &Engine,
    recent: &Recent,
    watches: impl Iterator<Item = &'w Watch<'w>> + Clone,
) -> Result<Vec<Option<KeyValue>>, WatchError> {
    let wanted: Vec<bool> = recent
        .changes()
        .map(|change| {
            let wants = |watch: &Watch<'_>| {
                watch.wants_previous() && watch.synced.as_ref().is_some_and(|one| one.wants(change))
            };
            change.previous.is_some() && watches.clone().any(wants)
        })
        .collect();
    let count = wanted.iter().filter(|wanted| **wanted).count();
    let (shared, recent) = (engine.shared.clone(), recent.clone());
    let read = move || -> io::Result<Vec<Option<KeyValue>>> {
        let pairs = recent.changes().zip(wanted).map(|(change, wanted)| {
            if wanted {
                read_previous(&shared, &recent, change)
            } else {
                Ok(None)
            }
        });
        pairs.collect()
    };
    if count <= INLINE_VALUES {
        return Ok(read()?);
    }
    match tokio::task::spawn_blocking(read).await {
        Ok(pairs) => Ok(pairs?),
        Err(error) => Err(WatchError::Damaged(format!("reading stopped: {error}"))),
    }
}

/// Delivers one step to every watch that is with the group; answers the revision after it.
pub(super) async fn step(
    engine: &Engine,
    out: &mpsc::Sender<Result<pb::WatchResponse, Status>>,
    watches: &mut BTreeMap<i64, Watch<'_>>,
    recent: Recent,
) -> Result<Revision, End> {
    let last = recent.last();
    let events = Events::new(engine, recent, watches.values()).await;
    let mut events = events.map_err(|error| end(&error))?;
    let header = engine.header_at(last);
    for (id, watch) in watches {
        let found = events.of(watch);
        if let Some(watcher) = &mut watch.synced {
            watcher.skip_to(last.next());
        }
        if !found.is_empty() {
            watch.active = true;
            engine.metrics.events.add(found.len() as u64);
            let response = pb::WatchResponse {
                header: Some(header),
                watch_id: *id,
                events: found,
                ..Default::default()
            };
            let limit = watch.fragment.then(|| engine.bounds.fragment_bytes());
            send_events(out, response, limit).await?;
        }
    }
    Ok(last.next())
}
