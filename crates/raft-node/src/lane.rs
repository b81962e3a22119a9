//! The thread that consensus runs on.
//!
//! One message of the log passes through a dozen tasks. On the caller's runtime each step may
//! wake another worker thread, which costs more than the step; and a worker that is busy with a
//! client's long answer holds up heartbeats. On a thread of its own the steps follow one
//! another.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::api::Result;
use crate::node::{RaftNode, storage};

/// Runs `start`, and everything it spawns, on a new thread. The thread ends with the node.
/// Dropping the future gives up the start.
pub(crate) async fn on_its_own(
    start: impl Future<Output = Result<Arc<RaftNode>>> + Send + 'static,
) -> Result<Arc<RaftNode>> {
    let (mut send, started) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(storage)?;
    std::thread::Builder::new()
        .name("raft".into())
        .spawn(move || {
            runtime.block_on(async move {
                let outcome = tokio::select! {
                    outcome = start => outcome,
                    () = send.closed() => return,
                };
                let tasks = outcome.as_ref().ok().map(|node| node.tracker.clone());
                // Nobody waits for a node any more: dropping it stops it.
                drop(send.send(outcome));
                if let Some(tasks) = tasks {
                    tasks.wait().await;
                }
            });
        })
        .map_err(storage)?;
    match started.await {
        Ok(outcome) => outcome,
        Err(_) => Err(storage("the thread of consensus panicked")),
    }
}
