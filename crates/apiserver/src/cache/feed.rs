//! The one store watch that keeps the cache current.
//!
//! It covers the whole key space, not only `/registry/`: every revision then shows up as an
//! event, so a consistent read never has to wait for a progress notification because the last
//! write happened elsewhere. What lies outside is ignored, and is little.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;
use trivet_datastore::{
    Datastore, Error, KeyRange, KeyValue, RangeRequest, Revision, WatchRequest,
};

use super::Cache;

const PAGE: usize = 500;
const RETRY: Duration = Duration::from_secs(1);

/// Fills the cache and follows the store until `stop`. Errors are waited out.
pub(crate) async fn feed(cache: Arc<Cache>, store: Arc<dyn Datastore>, stop: CancellationToken) {
    let work = async {
        let mut from: Option<Revision> = None;
        loop {
            let before = from;
            match step(&cache, store.as_ref(), &mut from).await {
                // The next step reads everything anew; what the watch would have said is gone.
                Err(Error::Compacted { .. }) => from = None,
                Err(error) => tracing::debug!(%error, "the store watch was interrupted"),
                Ok(()) => tracing::debug!("the store watch ended"),
            }
            // A watch that got on is resumed at once: readers wait for it.
            if from.is_none() || from == before {
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Fills the cache where that is needed, then follows the store until the watch ends.
async fn step(
    cache: &Cache,
    store: &dyn Datastore,
    from: &mut Option<Revision>,
) -> Result<(), Error> {
    let mut seen = match *from {
        Some(seen) => seen,
        None => fill(cache, store).await?,
    };
    let result = follow(cache, store, &mut seen).await;
    *from = Some(seen);
    result
}

/// Reads everything at one revision.
async fn fill(cache: &Cache, store: &dyn Datastore) -> Result<Revision, Error> {
    let mut pairs: Vec<KeyValue> = Vec::new();
    let mut at = None;
    let mut after = None;
    loop {
        let page = store
            .range(RangeRequest {
                range: KeyRange::Prefix(Bytes::from_static(b"/registry/")),
                after: after.take(),
                limit: PAGE,
                at,
                serializable: false,
                count_only: false,
            })
            .await?;
        let revision = *at.get_or_insert(page.revision);
        after = page.items.last().map(|pair| pair.key.clone());
        pairs.extend(page.items);
        if !page.more || after.is_none() {
            cache.reset(pairs, revision.0);
            return Ok(revision);
        }
    }
}

/// Applies changes after `seen` until the watch ends, moving `seen` along.
async fn follow(cache: &Cache, store: &dyn Datastore, seen: &mut Revision) -> Result<(), Error> {
    let mut watch = store
        .watch(WatchRequest {
            range: KeyRange::Prefix(Bytes::new()),
            start: Some(seen.next()),
            previous: false,
            progress: true,
        })
        .await?;
    while let Some(batch) = watch.next().await {
        let batch = batch?;
        cache.apply(&batch);
        *seen = (*seen).max(batch.revision);
    }
    Ok(())
}
