//! Watches: a cursor into the ring of a resource, read at the client's pace.
//!
//! Nothing is buffered per watcher. One that falls behind the ring is told so by an ERROR
//! event and ends; it is never given a stream with a hole.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use trivet_kube_schema::{Status, from_storage};

use crate::body::Body;
use crate::cache::{Change, ChangeKind, Cursor, Entry, Slot};
use crate::list::{Freshness, ListOptions, scope};
use crate::negotiate::Shape;
use crate::pipeline::InFlight;
use crate::respond::Presentation;
use crate::select::Selection;
use crate::server::Core;

/// Changes written in one piece.
const BATCH: usize = 64;
/// Without `timeoutSeconds` a watch lasts this long and up to as long again (kube-apiserver:
/// 30 min).
const LIFETIME: Duration = Duration::from_secs(30 * 60);
/// Longest life a client can ask for.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

struct Watcher {
    core: Arc<Core>,
    slot: Arc<Slot>,
    scope: String,
    selection: Selection,
    presentation: Presentation,
    native: bool,
    /// Objects still to be sent as ADDED before changes.
    initial: VecDeque<Arc<Entry>>,
    /// Revision for the bookmark that ends the initial objects.
    initial_end: Option<u64>,
    cursor: Cursor,
    changed: watch::Receiver<u64>,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    /// Table column definitions are in the first event only.
    columns_sent: bool,
    last_sent: u64,
    ended: bool,
    _in_flight: InFlight,
}

/// Opens a watch; the body lives until the client leaves, the time is up or the server stops.
pub(crate) async fn open(
    core: &Arc<Core>,
    namespace: Option<&str>,
    options: &ListOptions,
    selection: Selection,
    presentation: Presentation,
    in_flight: InFlight,
) -> Result<Body, Status> {
    options.check_watch()?;
    let info = presentation.info;
    let slot = Arc::clone(core.slot(info)?);
    let scope = scope(info, namespace);
    let initial_events = match (options.send_initial_events, options.version) {
        (Some(wanted), _) => wanted,
        (None, version) => version.unwrap_or(0) == 0,
    };
    let fresh = match (options.version, options.send_initial_events) {
        (None, _) => Freshness::Newest,
        (Some(n), Some(_)) if n > 0 => Freshness::NotOlderThan(n),
        _ => Freshness::Any,
    };
    // Subscribed before the cursor is taken, so that no change falls between.
    let changed = slot.subscribe();
    let published = core.fresh_cache(fresh).await?;
    let (mut initial, mut initial_end) = (VecDeque::new(), None);
    let cursor = if initial_events {
        let (snapshot, cursor) = slot.snapshot_and_follow(&scope, published);
        initial.extend(
            snapshot
                .entries
                .into_iter()
                .filter(|entry| selection.matches(entry)),
        );
        initial_end = options
            .send_initial_events
            .filter(|_| options.bookmarks)
            .map(|_| snapshot.revision);
        cursor
    } else {
        let from = options.version.filter(|v| *v > 0).unwrap_or(published);
        match slot.follow(from) {
            Ok(cursor) => cursor,
            Err(lost) => {
                let text = format!("too old resource version: {from} ({})", lost.base);
                return Ok(Body::full(error_event(&Status::expired(text))));
            }
        }
    };
    let now = Instant::now();
    let lifetime = match options.timeout_seconds.filter(|s| *s > 0) {
        Some(seconds) => Duration::from_secs(seconds).min(LIFETIME_MAX),
        None => LIFETIME + jitter(core, LIFETIME),
    };
    let mut watcher = Watcher {
        native: presentation.is_native(&slot),
        core: Arc::clone(core),
        slot,
        scope,
        selection,
        presentation,
        initial,
        initial_end,
        cursor,
        changed,
        bookmarks: options.bookmarks,
        next_bookmark: now,
        deadline: now + lifetime,
        columns_sent: false,
        last_sent: 0,
        ended: false,
        _in_flight: in_flight,
    };
    watcher.plan_bookmark();
    let stream = futures_util::stream::unfold(watcher, |mut watcher| async move {
        let bytes = watcher.next().await?;
        Some((bytes, watcher))
    });
    Ok(Body::stream(stream))
}

fn jitter(core: &Core, max: Duration) -> Duration {
    let millis = u64::try_from(max.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(core.config.env.rng.next_u64() % millis)
}

/// One line of a watch.
fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + 32);
    write_event(&mut out, kind, object);
    out
}

fn write_event(out: &mut Vec<u8>, kind: &str, object: &[u8]) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}

fn error_event(status: &Status) -> Vec<u8> {
    event("ERROR", status.to_value().to_string().as_bytes())
}

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            if !self.initial.is_empty() {
                let count = self.initial.len().min(BATCH);
                let batch: Vec<_> = self.initial.drain(..count).collect();
                let mut out = Vec::new();
                for entry in batch {
                    self.write(&mut out, "ADDED", &entry);
                }
                return Some(out.into());
            }
            if let Some(revision) = self.initial_end.take() {
                return Some(self.bookmark(revision, true).into());
            }
            // Read before the ring: everything up to here is in the ring by now.
            let published = self.core.cache.revision();
            self.changed.borrow_and_update();
            match self.slot.advance(&mut self.cursor, BATCH) {
                Err(lost) => {
                    self.ended = true;
                    let text = format!(
                        "too old resource version: the watcher fell behind and was closed ({})",
                        lost.base
                    );
                    return Some(error_event(&Status::expired(text)).into());
                }
                Ok((changes, more)) => {
                    let mut out = Vec::new();
                    for change in &changes {
                        self.write_change(&mut out, change);
                    }
                    if !out.is_empty() {
                        return Some(out.into());
                    }
                    if more {
                        continue;
                    }
                }
            }
            let now = Instant::now();
            let over = now >= self.deadline || self.core.stop.is_cancelled();
            if over {
                self.ended = true;
            }
            if self.bookmarks && (over || now >= self.next_bookmark) {
                self.plan_bookmark();
                let revision = published.max(self.last_sent);
                return Some(self.bookmark(revision, false).into());
            }
            if over {
                return None;
            }
            self.pause().await;
        }
    }

    /// Waits for something to do.
    async fn pause(&mut self) {
        let wake = if self.bookmarks {
            self.deadline.min(self.next_bookmark)
        } else {
            self.deadline
        };
        tokio::select! {
            changed = self.changed.changed() => {
                // The cache lives as long as the server that this watcher holds.
                if changed.is_err() {
                    self.ended = true;
                }
            }
            () = tokio::time::sleep_until(wake) => {}
            () = self.core.stop.cancelled() => {}
        }
    }

    /// Bookmarks of many watchers should not come all at once.
    fn plan_bookmark(&mut self) {
        let period = self.core.config.timings.bookmark_period;
        self.next_bookmark = Instant::now() + period * 3 / 4 + jitter(&self.core, period / 2);
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Vec<u8> {
        let info = self.presentation.info;
        let mut metadata =
            json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let mut object =
            json!({"kind": info.kind, "apiVersion": info.api_version(), "metadata": metadata});
        match self.presentation.form.shape {
            Shape::Table(version) => {
                let meta = json!({"resourceVersion": revision.to_string()});
                let mut table = self.presentation.table(&[], meta, false, version);
                // The annotation has no other place in a Table than a row's object.
                table["rows"] = json!([{"cells": [], "object": object}]);
                object = table;
            }
            Shape::Partial(version) => {
                object["kind"] = "PartialObjectMetadata".into();
                object["apiVersion"] = format!("meta.k8s.io/{version}").into();
            }
            Shape::Object | Shape::Discovery(_) => {}
        }
        self.last_sent = self.last_sent.max(revision);
        event("BOOKMARK", object.to_string().as_bytes())
    }

    /// Writes what a change means to this watcher: with a selector, an object can appear and
    /// disappear by being modified.
    fn write_change(&mut self, out: &mut Vec<u8>, change: &Change) {
        if !change.current.identity().starts_with(&self.scope) {
            return;
        }
        let now = self.selection.matches(&change.current);
        let before = |this: &Self| {
            change
                .previous
                .as_ref()
                .is_some_and(|p| this.selection.matches(p))
        };
        let kind = match change.kind {
            ChangeKind::Added | ChangeKind::Modified if now => {
                if self.selection.is_everything() && change.kind == ChangeKind::Modified
                    || before(self)
                {
                    "MODIFIED"
                } else {
                    "ADDED"
                }
            }
            ChangeKind::Modified if before(self) => {
                if let Some(previous) = &change.previous {
                    let last = previous.deleted(&self.slot.header, change.revision);
                    self.write(out, "DELETED", &last);
                }
                return;
            }
            ChangeKind::Deleted if now => "DELETED",
            _ => return,
        };
        self.write(out, kind, &change.current);
    }

    fn write(&mut self, out: &mut Vec<u8>, kind: &str, entry: &Entry) {
        self.last_sent = self.last_sent.max(entry.revision);
        if self.native && self.presentation.form.shape == Shape::Object {
            return write_event(out, kind, &entry.body);
        }
        let mut presentation = self.presentation;
        presentation.now_seconds = self.core.now_seconds();
        let object: Value = from_storage(presentation.info, entry.value());
        let shaped = presentation.shape(object, !self.columns_sent);
        self.columns_sent = true;
        write_event(out, kind, shaped.to_string().as_bytes());
    }
}
