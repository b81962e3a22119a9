//! Letting go of the log's beginning: see [`crate::RaftNode::forget_log`].

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;

use crate::api::{Error, Result};
use crate::consensus::{LogId, TypeConfig};
use crate::node::storage;
use crate::shared::Shared;

/// How often the state machine, which may work on a thread of its own, is asked.
const ASKING: Duration = Duration::from_millis(20);
/// Longest wait for it all.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) async fn forget_log(node: &Shared) -> Result<()> {
    match tokio::time::timeout(PATIENCE, forget(node)).await {
        Ok(done) => done,
        Err(_) => Err(Error::Storage(
            "the log was not taken over into the state in time".to_owned(),
        )),
    }
}

async fn forget(node: &Shared) -> Result<()> {
    // The first entry of a leader is what the state is pinned to.
    node.read_index().await?;
    let progress = node.machine.progress();
    let target = progress.borrow().applied.map_or(0, |id| id.index);
    loop {
        node.machine.checkpoint(true).await.map_err(storage)?;
        if progress.borrow().durable.index >= target {
            break;
        }
        tokio::time::sleep(ASKING).await;
    }
    let trigger = node.raft.trigger();
    trigger.snapshot().await.map_err(storage)?;
    reached(node, |metrics| metrics.snapshot, target).await?;
    trigger.purge_log(target).await.map_err(storage)?;
    reached(node, |metrics| metrics.purged, target).await
}

/// Waits until a mark in the library's metrics has come up to `index`.
async fn reached(
    node: &Shared,
    mark: impl Fn(&openraft::RaftMetrics<TypeConfig>) -> Option<LogId>,
    index: u64,
) -> Result<()> {
    let mut metrics = node.raft.metrics();
    loop {
        node.failure.check()?;
        if mark(&metrics.borrow_watched()).is_some_and(|id| id.index >= index) {
            return Ok(());
        }
        if metrics.changed().await.is_err() {
            return Err(Error::Stopped);
        }
    }
}
