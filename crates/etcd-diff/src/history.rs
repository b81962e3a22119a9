//! What every watch must deliver, worked out from a watch over everything.

use bytes::Bytes;
use trivet_store_etcd::proto::{etcdserverpb as pb, mvccpb};

/// Every event so far, in order.
#[derive(Debug, Default)]
pub(crate) struct History(Vec<mvccpb::Event>);

/// A watch as the comparison knows it.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pub(crate) stream: usize,
    pub(crate) id: i64,
    key: Bytes,
    end: Bytes,
    /// First revision it must deliver.
    pub(crate) start: i64,
    no_put: bool,
    no_delete: bool,
    /// The last compaction when it was created.
    pub(crate) compacted: i64,
    /// Starts below the last compaction: it is created, then cancelled.
    pub(crate) doomed: bool,
    /// Events that were compared already.
    pub(crate) compared: usize,
}

impl Watched {
    /// The watch that a server says it created.
    pub(crate) fn new(
        stream: usize,
        request: &pb::WatchCreateRequest,
        created: &pb::WatchResponse,
        compacted: i64,
    ) -> Self {
        let revision = created.header.as_ref().map_or(0, |header| header.revision);
        let key = match request.key.is_empty() {
            true => Bytes::from_static(b"\0"),
            false => request.key.clone(),
        };
        Self {
            stream,
            id: created.watch_id,
            key,
            end: request.range_end.clone(),
            start: match request.start_revision {
                0 => revision + 1,
                start => start,
            },
            no_put: request.filters.contains(&0),
            no_delete: request.filters.contains(&1),
            compacted,
            doomed: request.start_revision != 0 && request.start_revision < compacted,
            compared: 0,
        }
    }

    fn covers(&self, key: &[u8]) -> bool {
        match &self.end[..] {
            b"" => key == &self.key[..],
            b"\0" => key >= &self.key[..],
            end => key >= &self.key[..] && key < end,
        }
    }
}

pub(crate) fn is_delete(event: &mvccpb::Event) -> bool {
    event.r#type == i32::from(mvccpb::event::EventType::Delete)
}

pub(crate) fn mod_revision(event: &mvccpb::Event) -> i64 {
    event.kv.as_ref().map_or(0, |pair| pair.mod_revision)
}

impl History {
    pub(crate) fn push(&mut self, event: mvccpb::Event) {
        self.0.push(event);
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> i64 {
        self.0.last().map_or(1, mod_revision)
    }

    /// How many events a watch must have delivered by now, at least.
    pub(crate) fn due(&self, watch: &Watched, keeps_tombstones: bool) -> usize {
        if watch.doomed {
            return 0;
        }
        let delivered = |(place, event): &(usize, &mvccpb::Event)| {
            let revision = mod_revision(event);
            let Some(pair) = &event.kv else {
                return false;
            };
            let deleted = is_delete(event);
            // Of the compacted revision itself only the last change of each key is left.
            let left = revision > watch.compacted
                || (revision == watch.compacted
                    && (keeps_tombstones || !deleted)
                    && !self.0[place + 1..]
                        .iter()
                        .take_while(|later| mod_revision(later) == revision)
                        .any(|later| later.kv.as_ref().is_some_and(|kv| kv.key == pair.key)));
            revision >= watch.start
                && left
                && watch.covers(&pair.key)
                && !(deleted && watch.no_delete)
                && (deleted || !watch.no_put)
        };
        self.0.iter().enumerate().filter(delivered).count()
    }
}
