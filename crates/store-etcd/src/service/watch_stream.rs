//! One watch stream: its watches, the order of what is sent, and what progress may be told.
//!
//! Everything is sent by one task, so a `created` comes before the first event of its watch,
//! fragments stay together, and a stream-wide progress notification stands behind every event
//! up to its revision.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use prost::Message;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tonic::{Status, Streaming};
use trivet_datastore::{Revision, WatchBatch};
use trivet_etcd_auth::Need;
use trivet_mvcc::KeyRange;

use super::WATCH_WATCH;
use super::convert;
use super::front::oversized;
use super::status::Refusal;
use super::watch_group;
use crate::auth::Credentials;
use crate::engine::Engine;
use crate::limits::MAX_WATCHES_PER_STREAM;
use crate::meter::Held;
use crate::proto::etcdserverpb as pb;
use crate::proto::mvccpb;
use crate::state::{Next, WatchError, WatchOp, Watcher, span};

/// The id in responses that belong to no watch.
const NO_WATCH: i64 = -1;

/// Ends the stream: the client is gone, or with a status for it.
pub(super) type End = Option<Status>;

pub(super) struct WatchStream<'a> {
    engine: &'a Engine,
    credentials: Credentials,
    inbound: Streaming<pb::WatchRequest>,
    out: &'a mpsc::Sender<Result<pb::WatchResponse, Status>>,
    watches: BTreeMap<i64, Watch<'a>>,
    /// The first revision that the watches in step have not looked at.
    next: Revision,
    revisions: watch::Receiver<Revision>,
    /// Watches that a compaction ended. In etcd their ids stay taken, and can be cancelled, until
    /// the client does.
    ended: HashSet<i64>,
    /// One future for each watch that reads history; it owns the watcher and gives it back with
    /// what happened.
    waiting: FuturesUnordered<Pin<Box<dyn Future<Output = Turn> + Send>>>,
    next_id: i64,
    /// Whether the client has said that it asks for nothing more; its watches go on, as in etcd.
    half_closed: bool,
    _counted: Held<'a>,
}

/// What the stream knows about a watch.
pub(super) struct Watch<'a> {
    /// The watcher, if it is in step with the others; else its future has it.
    pub(super) synced: Option<Watcher>,
    /// Makes the watch's future return its watcher.
    poke: Arc<Notify>,
    progress_notify: bool,
    previous: bool,
    pub(super) fragment: bool,
    /// Whether something was sent since the last tick of the progress clock.
    pub(super) active: bool,
    _counted: Held<'a>,
}

impl Watch<'_> {
    pub(super) fn wants_previous(&self) -> bool {
        self.previous && self.synced.is_some()
    }
}

/// What a watch's future came back with.
struct Turn {
    id: i64,
    watcher: Watcher,
    poke: Arc<Notify>,
    /// `None`: it was poked, or there is nothing more right now.
    outcome: Option<Result<WatchBatch, WatchError>>,
}

impl<'a> WatchStream<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        credentials: Credentials,
        inbound: Streaming<pb::WatchRequest>,
        out: &'a mpsc::Sender<Result<pb::WatchResponse, Status>>,
    ) -> Self {
        Self {
            engine,
            credentials,
            inbound,
            out,
            watches: BTreeMap::new(),
            next: engine.shared.revision().next(),
            revisions: engine.shared.revisions(),
            ended: HashSet::new(),
            waiting: FuturesUnordered::new(),
            next_id: 0,
            half_closed: false,
            _counted: engine.metrics.watch_streams.hold(),
        }
    }

    /// Serves until the client goes away.
    pub(super) async fn run(mut self) -> Result<(), Status> {
        let period = self.engine.timing.watch_progress;
        let mut progress = interval_at(Instant::now() + period, period);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let step = tokio::select! {
                request = self.inbound.message(), if !self.half_closed => match request {
                    Ok(Some(request)) => self.request(request).await,
                    Ok(None) => {
                        self.half_closed = true;
                        Ok(())
                    }
                    Err(status) => return Err(oversized(&status, self.engine.bounds).unwrap_or(status)),
                },
                Some(turn) = self.waiting.next() => self.turn(turn).await,
                // The end of the store is announced there too.
                changed = self.revisions.changed() => match changed {
                    Ok(()) => self.advance().await,
                    Err(_) => Err(end(&WatchError::Closed)),
                },
                _ = progress.tick() => self.tick().await,
            };
            match step {
                Ok(()) => {}
                Err(Some(status)) => return Err(status),
                Err(None) => return Ok(()),
            }
        }
    }

    async fn request(&mut self, request: pb::WatchRequest) -> Result<(), End> {
        self.engine.metrics.rpc(WATCH_WATCH).received.increment();
        use pb::watch_request::RequestUnion;
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id).await,
            Some(RequestUnion::ProgressRequest(_)) => self.progress().await,
            None => Ok(()),
        }
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) -> Result<(), End> {
        use pb::watch_create_request::FilterType;
        // An empty key means the first of all keys.
        let key = if request.key.is_empty() {
            bytes::Bytes::from_static(b"\0")
        } else {
            request.key
        };
        let range = KeyRange::from_wire(key, request.range_end);
        if let Err(reason) = permitted(self.engine, &self.credentials, &range).await {
            return self.refuse(&reason).await;
        }
        if matches!(&range, KeyRange::Between { start, end } if start >= end) {
            return self.refuse("mvcc: watcher range is empty").await;
        }
        if request.start_revision < 0 {
            return self.refuse(Refusal::Compacted.text()).await;
        }
        if self.watches.len() + self.ended.len() >= MAX_WATCHES_PER_STREAM {
            return self.refuse(Refusal::TooManyRequests.text()).await;
        }
        if request.watch_id != 0 && self.is_taken(request.watch_id) {
            return self
                .refuse("mvcc: duplicate watch ID provided on the WatchStream")
                .await;
        }
        let id = if request.watch_id == 0 {
            self.free_id()
        } else {
            request.watch_id
        };
        let filtered = |kind: FilterType| request.filters.contains(&kind.into());
        let watcher = self.engine.shared.watch(WatchOp {
            range,
            start: (request.start_revision > 0)
                .then_some(Revision(request.start_revision.unsigned_abs())),
            no_put: filtered(FilterType::Noput),
            no_delete: filtered(FilterType::Nodelete),
            previous: request.prev_kv,
        });
        let created = pb::WatchResponse {
            header: Some(self.engine.header_at(watcher.opened_at())),
            watch_id: id,
            created: true,
            ..Default::default()
        };
        let poke = Arc::new(Notify::new());
        self.watches.insert(
            id,
            Watch {
                synced: None,
                poke: poke.clone(),
                progress_notify: request.progress_notify,
                previous: request.prev_kv,
                fragment: request.fragment,
                active: true,
                _counted: self.engine.metrics.watchers.hold(),
            },
        );
        self.send(created).await?;
        self.place(id, watcher, poke);
        Ok(())
    }

    fn is_taken(&self, id: i64) -> bool {
        self.watches.contains_key(&id) || self.ended.contains(&id)
    }

    /// The next id counting from 0 that no watch of the stream has.
    fn free_id(&mut self) -> i64 {
        while self.is_taken(self.next_id) {
            self.next_id += 1;
        }
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Answers a create request that makes no watch.
    async fn refuse(&mut self, reason: &str) -> Result<(), End> {
        self.send(pb::WatchResponse {
            header: Some(self.engine.header()),
            watch_id: NO_WATCH,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..Default::default()
        })
        .await
    }

    async fn cancel(&mut self, id: i64) -> Result<(), End> {
        // An unknown id is not answered.
        match self.watches.remove(&id) {
            Some(watch) => watch.poke.notify_one(),
            None if self.ended.remove(&id) => {}
            None => return Ok(()),
        }
        self.send(pb::WatchResponse {
            header: Some(self.engine.header()),
            watch_id: id,
            canceled: true,
            ..Default::default()
        })
        .await
    }

    /// Puts a watcher in step with the others if it has come that far; else it reads on alone.
    fn place(&mut self, id: i64, mut watcher: Watcher, poke: Arc<Notify>) {
        if watcher.is_recent() && watcher.position().next() >= self.next {
            if let Some(watch) = self.watches.get_mut(&id) {
                watch.synced = Some(watcher);
            }
            return;
        }
        self.waiting.push(Box::pin(async move {
            let outcome = tokio::select! {
                biased;
                () = poke.notified() => None,
                outcome = watcher.ready() => outcome.transpose(),
            };
            Turn {
                id,
                watcher,
                poke,
                outcome,
            }
        }));
    }

    /// Takes the watches in step to the newest revision.
    async fn advance(&mut self) -> Result<(), End> {
        // Marked before looking: what comes after wakes the stream again.
        self.revisions.borrow_and_update();
        loop {
            let next = self.engine.shared.recent(self.next);
            match next.map_err(|error| end(&error))? {
                Next::Nothing => return Ok(()),
                Next::Recent(recent) => {
                    self.next =
                        watch_group::step(self.engine, self.out, &mut self.watches, recent).await?;
                }
                Next::Behind => {
                    // The client reads too slowly: from here on each watch looks things up.
                    self.next = self.engine.shared.revision().next();
                    let fallen: Vec<_> = self
                        .watches
                        .iter_mut()
                        .filter_map(|(id, watch)| {
                            Some((*id, watch.synced.take()?, watch.poke.clone()))
                        })
                        .collect();
                    for (id, watcher, poke) in fallen {
                        self.place(id, watcher, poke);
                    }
                }
            }
        }
    }

    async fn turn(&mut self, turn: Turn) -> Result<(), End> {
        let read_all = turn.outcome.is_none();
        if let Some((id, watcher, poke)) = self.settle(turn).await? {
            if read_all {
                self.catch_up(id, watcher, poke).await?;
            } else {
                self.place(id, watcher, poke);
            }
        }
        Ok(())
    }

    /// Delivers what is left and puts the watcher in step with the others.
    async fn catch_up(
        &mut self,
        id: i64,
        mut watcher: Watcher,
        poke: Arc<Notify>,
    ) -> Result<(), End> {
        loop {
            let outcome = match watcher.ready().await {
                Ok(None) => break,
                Ok(Some(batch)) => Ok(batch),
                Err(error) => Err(error),
            };
            if !self.deliver(id, outcome).await? {
                return Ok(());
            }
        }
        self.place(id, watcher, poke);
        Ok(())
    }

    /// Sends what a watch came back with; gives the watcher back if the watch goes on.
    async fn settle(&mut self, turn: Turn) -> Result<Option<(i64, Watcher, Arc<Notify>)>, End> {
        let Turn {
            id,
            watcher,
            poke,
            outcome,
        } = turn;
        // Cancelled meanwhile, and perhaps the id is in use again.
        if !self
            .watches
            .get(&id)
            .is_some_and(|watch| Arc::ptr_eq(&watch.poke, &poke))
        {
            return Ok(None);
        }
        let goes_on = match outcome {
            None => true,
            Some(outcome) => self.deliver(id, outcome).await?,
        };
        Ok(goes_on.then_some((id, watcher, poke)))
    }

    /// Sends one batch, or the end of the watch; says whether it goes on.
    async fn deliver(
        &mut self,
        id: i64,
        outcome: Result<WatchBatch, WatchError>,
    ) -> Result<bool, End> {
        match outcome {
            Ok(batch) => {
                let Some(watch) = self.watches.get_mut(&id) else {
                    return Ok(false);
                };
                watch.active = true;
                let fragment = watch.fragment;
                self.events(id, batch, fragment).await?;
                Ok(true)
            }
            Err(WatchError::Compacted { compact_revision }) => {
                self.watches.remove(&id);
                self.ended.insert(id);
                self.send(pb::WatchResponse {
                    header: Some(self.engine.header_without_revision()),
                    watch_id: id,
                    canceled: true,
                    compact_revision: convert::wire(compact_revision),
                    ..Default::default()
                })
                .await?;
                Ok(false)
            }
            Err(error) => Err(end(&error)),
        }
    }

    async fn events(&mut self, id: i64, batch: WatchBatch, fragment: bool) -> Result<(), End> {
        self.engine.metrics.events.add(batch.events.len() as u64);
        let response = pb::WatchResponse {
            header: Some(self.engine.header_at(batch.revision)),
            watch_id: id,
            events: batch.events.into_iter().map(convert::event).collect(),
            ..Default::default()
        };
        let limit = fragment.then(|| self.engine.bounds.fragment_bytes());
        send_events(self.out, response, limit).await
    }

    /// Delivers everything up to the newest revision to every watch; answers that revision.
    async fn gather(&mut self) -> Result<Revision, End> {
        for watch in self.watches.values() {
            watch.poke.notify_one();
        }
        while let Some(turn) = self.waiting.next().await {
            if let Some((id, watcher, poke)) = self.settle(turn).await? {
                self.catch_up(id, watcher, poke).await?;
            }
        }
        self.advance().await?;
        Ok(Revision(self.next.0.saturating_sub(1)))
    }

    /// Answers a progress request: one notification for the whole stream, or nothing.
    async fn progress(&mut self) -> Result<(), End> {
        if self.watches.is_empty() {
            return Ok(());
        }
        let revision = self.gather().await?;
        if !self.watches.is_empty() && self.watches.values().all(|one| reached(one, revision)) {
            self.notify(NO_WATCH, revision).await?;
        }
        Ok(())
    }

    /// Tells idle watches that asked for it how far they are.
    async fn tick(&mut self) -> Result<(), End> {
        let idle = |watch: &Watch<'_>| watch.progress_notify && !watch.active;
        let due: Vec<i64> = self
            .watches
            .iter()
            .filter(|(_, watch)| idle(watch))
            .map(|(id, _)| *id)
            .collect();
        for watch in self.watches.values_mut() {
            watch.active = false;
        }
        if due.is_empty() {
            return Ok(());
        }
        let revision = self.gather().await?;
        for id in due {
            // One that was idle until now may have had something to deliver just then.
            let told = |watch: &Watch<'_>| !watch.active && reached(watch, revision);
            if self.watches.get(&id).is_some_and(told) {
                self.notify(id, revision).await?;
            }
        }
        Ok(())
    }

    async fn notify(&mut self, id: i64, revision: Revision) -> Result<(), End> {
        self.send(pb::WatchResponse {
            header: Some(self.engine.header_at(revision)),
            watch_id: id,
            ..Default::default()
        })
        .await
    }

    async fn send(&mut self, response: pb::WatchResponse) -> Result<(), End> {
        self.out.send(Ok(response)).await.map_err(|_| None)
    }
}

/// Whether a caller may watch a range now; a later change does not end the watch. The error is
/// what grpc-go makes of the refusal, which clients search for its parts.
async fn permitted(
    engine: &Engine,
    credentials: &Credentials,
    range: &KeyRange,
) -> Result<(), String> {
    if !engine.shared.auth_enabled() {
        return Ok(());
    }
    let allowed = match engine.identify(credentials).await {
        Ok(caller) => engine.check(&caller, Need::Read(span(range))),
        Err(failure) => Err(failure),
    };
    allowed.map_err(|failure| {
        let (code, text) = Refusal::from(&failure).parts();
        format!("rpc error: code = {code:?} desc = {text}")
    })
}

/// Whether a watch has begun and was told everything up to a revision.
fn reached(watch: &Watch<'_>, revision: Revision) -> bool {
    watch
        .synced
        .as_ref()
        .is_some_and(|watcher| watcher.start() <= revision && watcher.position() >= revision)
}

/// How a stream ends that met this.
pub(super) fn end(error: &WatchError) -> End {
    Some(match error {
        WatchError::Closed => Refusal::Stopped.into(),
        WatchError::Damaged(what) => {
            tracing::error!(what, "a watch met damaged data");
            Refusal::Corrupt.into()
        }
        WatchError::Compacted { .. } => Refusal::Compacted.into(),
    })
}

/// Sends events, in fragments where the watch takes them and they are larger than `limit`.
pub(super) async fn send_events(
    out: &mpsc::Sender<Result<pb::WatchResponse, Status>>,
    mut response: pb::WatchResponse,
    limit: Option<usize>,
) -> Result<(), End> {
    let Some(limit) =
        limit.filter(|limit| response.events.len() > 1 && response.encoded_len() >= *limit)
    else {
        return out.send(Ok(response)).await.map_err(|_| None);
    };
    let mut pieces = cut(std::mem::take(&mut response.events), limit)
        .into_iter()
        .peekable();
    while let Some(events) = pieces.next() {
        let piece = pb::WatchResponse {
            events,
            fragment: pieces.peek().is_some(),
            ..response.clone()
        };
        out.send(Ok(piece)).await.map_err(|_| None)?;
    }
    Ok(())
}

/// Cuts events into pieces below the limit, each with one event at least.
fn cut(events: Vec<mvccpb::Event>, limit: usize) -> Vec<Vec<mvccpb::Event>> {
    let mut pieces = vec![Vec::new()];
    let mut size = 0;
    for event in events {
        // Tag and length take at most 6 bytes for events of a size that fits in a message.
        let event_size = event.encoded_len() + 6;
        let last = pieces.len() - 1;
        if size + event_size > limit && !pieces[last].is_empty() {
            pieces.push(vec![event]);
            size = event_size;
        } else {
            pieces[last].push(event);
            size += event_size;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_keep_order_and_stay_below_the_limit() {
        let event = |n: u8| mvccpb::Event {
            kv: Some(mvccpb::KeyValue {
                value: vec![n; 600_000].into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let pieces = cut((0..10).map(event).collect(), 2 << 20);
        assert_eq!(
            pieces.iter().map(Vec::len).collect::<Vec<_>>(),
            [3, 3, 3, 1]
        );
        let order: Vec<u8> = pieces
            .iter()
            .flatten()
            .filter_map(|event| event.kv.as_ref()?.value.first().copied())
            .collect();
        assert_eq!(order, (0..10).collect::<Vec<u8>>());
    }
}
