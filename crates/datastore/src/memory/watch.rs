//! A watch is a cursor into the log of changes.

use std::sync::Weak;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::state::Found;
use super::{Head, Shared};
use crate::{Error, KeyRange, Result, Revision, WatchBatch, WatchRequest, WatchStream};

/// One open watch. It takes from the log when its reader asks, so a slow reader costs nothing
/// but falls behind; one that is too far behind is cut.
struct Cursor {
    store: Weak<Shared>,
    head: watch::Receiver<Head>,
    range: KeyRange,
    previous: bool,
    /// Everything before this revision is delivered (or does not concern this watch).
    next: Revision,
    /// The newest revision the reader was told of.
    reported: Revision,
    /// How far `next` may be behind once it has caught up; before that, history is patient.
    window: u64,
    caught_up: bool,
    /// Shortest time between two batches of which the second is empty; `None` sends no empty
    /// ones.
    progress: Option<Duration>,
    last_batch: Option<Instant>,
    ended: bool,
}

pub(super) fn open(
    store: Weak<Shared>,
    head: watch::Receiver<Head>,
    request: WatchRequest,
    window: u64,
    progress_interval: Duration,
) -> WatchStream {
    let newest = head.borrow().revision;
    let next = request.start.unwrap_or_else(|| newest.next());
    let cursor = Cursor {
        store,
        head,
        range: request.range,
        previous: request.previous,
        next,
        reported: Revision(next.0.saturating_sub(1)),
        window,
        caught_up: next > newest,
        progress: request.progress.then_some(progress_interval),
        last_batch: None,
        ended: false,
    };
    Box::pin(stream::unfold(cursor, |mut cursor| async {
        let item = cursor.next_item().await?;
        cursor.ended = item.is_err();
        Some((item, cursor))
    }))
}

impl Cursor {
    async fn next_item(&mut self) -> Option<Result<WatchBatch>> {
        if self.ended {
            return None;
        }
        loop {
            let head = *self.head.borrow_and_update();
            if head.revision >= self.next {
                match self.take(head.revision) {
                    Some(Ok(Found::Changes(batch))) => return Some(Ok(self.deliver(batch))),
                    Some(Ok(Found::Nothing(up_to))) => self.next = up_to.next(),
                    Some(Err(error)) => return Some(Err(error)),
                    None => return None,
                }
            }
            if head.closed {
                return None;
            }
            // Everything up to `next - 1` is accounted for, whether or not it is reported yet.
            let seen = Revision(self.next.0.saturating_sub(1));
            let Some(interval) = self.progress.filter(|_| seen > self.reported) else {
                self.head.changed().await.ok()?;
                continue;
            };
            let due = self
                .last_batch
                .map_or_else(Instant::now, |last| last + interval);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due) => {
                    return Some(Ok(self.deliver(WatchBatch { revision: seen, events: Vec::new() })));
                }
                changed = self.head.changed() => changed.ok()?,
            }
        }
    }

    /// Looks for changes; `None` when the store is gone.
    fn take(&mut self, newest: Revision) -> Option<Result<Found>> {
        let store = self.store.upgrade()?;
        let behind = newest.0.saturating_sub(self.next.0);
        if self.caught_up && behind > self.window {
            return Some(Err(Error::WatchLagged {
                last: Revision(self.next.0.saturating_sub(1)),
            }));
        }
        self.caught_up |= behind == 0;
        Some(store.state().changes(&self.range, self.next, self.previous))
    }

    fn deliver(&mut self, batch: WatchBatch) -> WatchBatch {
        self.next = batch.revision.next();
        self.reported = batch.revision;
        self.caught_up |= self.head.borrow().revision == batch.revision;
        self.last_batch = Some(Instant::now());
        batch
    }
}
