//! What a node does all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::Instant as _;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::REMOVED;
use crate::consensus::LogId;
use crate::failure::{Failure, Stop};
use crate::node::Leadership;
use crate::shared::Shared;

/// When the log is purged, and what is kept for members that are a little behind.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Entries kept behind the last checkpoint.
    pub keep_entries: u64,
    /// Entries purged at once, at least.
    pub step_entries: u64,
    /// Beyond this size of the log next to nothing is kept behind the checkpoint.
    pub log_bytes: u64,
    /// Beyond this many entries since the last checkpoint the state machine is told to write one.
    pub checkpoint_entries: u64,
    /// How often to look when nothing calls for it earlier.
    pub interval: Duration,
    /// Sizes of the log's first and of its full-grown segments, where they are not to be those
    /// of [`trivet_wal::WalOptions::new`].
    pub segment_bytes: Option<(u32, u32)>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            keep_entries: 5_000,
            step_entries: 500,
            log_bytes: 192 << 20,
            checkpoint_entries: 50_000,
            interval: Duration::from_secs(5),
            segment_bytes: None,
        }
    }
}

/// Marks the node as failed when a task ends that should not, by return or by panic.
struct DeathWatch {
    name: &'static str,
    failure: Arc<Failure>,
    stop: CancellationToken,
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            self.failure
                .set(&format_args!("the task \"{}\" ended", self.name));
        }
    }
}

/// Runs `task` until the node stops.
pub(crate) fn spawn(
    tracker: &TaskTracker,
    stop: &CancellationToken,
    failure: &Arc<Failure>,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let watch = DeathWatch {
        name,
        failure: failure.clone(),
        stop: stop.clone(),
    };
    let stop = stop.clone();
    tracker.spawn(async move {
        let _watch = watch;
        stop.run_until_cancelled(task).await;
    });
}

/// Keeps [`Shared::leadership`] true: a leader counts only while it is heard of, and this member
/// leads only while a quorum confirms it.
pub(crate) async fn keep_leadership(node: Arc<Shared>) {
    /// How often an election that was just won is checked for its first confirmation.
    const CONFIRMING: Duration = Duration::from_millis(5);
    let mut changes = node.raft.server_metrics();
    loop {
        let (now, confirming) = look(&node);
        let old = *node.leadership.borrow();
        if let Some(leader) = now.leader {
            node.last_leader.store(leader, Ordering::Relaxed);
        }
        if old != now {
            match now.leader {
                Some(leader) if old.leader != now.leader => tracing::info!(
                    leader = format_args!("{leader:x}"),
                    term = now.term,
                    local = now.local,
                    "leader"
                ),
                None if old.leader.is_some() => tracing::warn!(term = now.term, "no leader"),
                _ => {}
            }
            node.leadership.send_replace(now);
        }
        let pause = if confirming {
            CONFIRMING
        } else {
            node.election_timeout / 2
        };
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = node.look_again.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What there is to say about the leader, and whether this member waits to be confirmed as it.
fn look(node: &Shared) -> (Leadership, bool) {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    let silence = node.election_timeout * 2;
    let term = metrics.current_term;
    if metrics.state == ServerState::Leader {
        let alone = metrics.membership_config.voter_ids().eq([node.local.id]);
        let acked = metrics.last_quorum_acked.as_ref().map(|at| at.elapsed());
        let local = alone || acked.is_some_and(|age| age < silence);
        let leader = local.then_some(node.local.id);
        return (
            Leadership {
                leader,
                term,
                local,
            },
            !local && acked.is_none(),
        );
    }
    let leader = metrics
        .current_leader
        .filter(|id| *id != node.local.id && node.heard_age().is_some_and(|age| age < silence));
    (
        Leadership {
            leader,
            term,
            local: false,
        },
        false,
    )
}

/// Offers checkpoints and purges what the state machine no longer needs.
pub(crate) async fn maintain(node: Arc<Shared>, retention: Retention) {
    let mut progress = node.machine.progress();
    let mut marked = 0;
    loop {
        let due = async {
            let due = progress.wait_for(|now| now.durable.index >= marked + retention.step_entries);
            due.await.map(|_| ())
        };
        // Either there is something to do, or it is time to look.
        let _ = tokio::time::timeout(retention.interval, due).await;
        node.finish_change().await;
        let now = *progress.borrow();
        let applied = now.applied.map_or(0, |id| id.index);
        let behind = applied.saturating_sub(now.durable.index);
        if behind > 0 {
            let oversized = node.log.size_bytes() > retention.log_bytes;
            let force = behind > retention.checkpoint_entries
                || (oversized && behind > retention.step_entries);
            // A failure is the node's failure and has been noted.
            if node.machine.checkpoint(force).await.is_err() {
                return std::future::pending().await;
            }
        }
        let durable = progress.borrow().durable.index;
        if durable < marked + retention.step_entries {
            continue;
        }
        marked = durable;
        purge(&node, durable, retention).await;
    }
}

async fn purge(node: &Shared, durable: u64, retention: Retention) {
    // The library purges only what it knows to be in a snapshot; here that is the state on disk.
    if node.raft.trigger().snapshot().await.is_err() {
        return;
    }
    let mut metrics = node.raft.metrics();
    let known = async {
        loop {
            let snapshot = metrics.borrow_watched().snapshot;
            if snapshot.is_some_and(|id| id.index >= durable) || metrics.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(Duration::from_secs(10), known)
        .await
        .is_err()
    {
        return;
    }
    let oversized = node.log.size_bytes() > retention.log_bytes;
    let keep = if oversized {
        retention.step_entries
    } else {
        retention.keep_entries
    };
    let purged = node
        .raft
        .metrics()
        .borrow_watched()
        .purged
        .map_or(0, |id| id.index);
    let target = durable.saturating_sub(keep);
    if target >= purged + retention.step_entries {
        // Fails only when the library has stopped, which has its own consequences.
        let _ = node.raft.trigger().purge_log(target).await;
    }
}

/// Makes voters of members that were added as such, as soon as they have caught up.
pub(crate) async fn promote_added(node: Arc<Shared>) {
    const PAUSE: Duration = Duration::from_millis(100);
    let mut leadership = node.leadership.subscribe();
    let mut membership = node.machine.watch_membership();
    loop {
        leadership.borrow_and_update();
        membership.borrow_and_update();
        if node.leadership.borrow().local && !node.voters_to_be().is_empty() {
            node.promote_added().await;
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let ended = tokio::select! {
            changed = leadership.changed() => changed.is_err(),
            changed = membership.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
    }
}

/// Stops the node once the cluster has removed it.
pub(crate) async fn notice_removal(
    node: Arc<Shared>,
    mut told: watch::Receiver<Option<LogId>>,
    joined: Arc<AtomicBool>,
) {
    let mut membership = node.machine.watch_membership();
    loop {
        let by_peer = {
            let told = *told.borrow_and_update();
            told.is_some() && told > *node.membership().log_id()
        };
        let by_log = {
            let membership = membership.borrow_and_update();
            let listed = membership.get_node(&node.local.id).is_some();
            if listed && membership.voter_ids().any(|id| id == node.local.id) {
                joined.store(true, Ordering::Release);
            }
            !listed && membership.log_id().is_some()
        };
        if joined.load(Ordering::Acquire) && (by_peer || by_log) {
            // A leader that removed itself still has to spread the news.
            tokio::time::sleep(node.election_timeout).await;
            note_removed(&node).await;
            node.failure.stop(&Stop::Removed(format!(
                "{REMOVED}: member {:x} was removed, its data is of no more use",
                node.local.id
            )));
            return std::future::pending().await;
        }
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            changed = membership.changed() => if changed.is_err() { return },
        }
    }
}

/// Sees to it that this member does not start again: another member may have told it what its own
/// log does not say.
async fn note_removed(node: &Shared) {
    let noted = async {
        let mut identity = node.log.identity()?.unwrap_or_default();
        identity.removed = true;
        node.log.save_identity(&identity).await
    };
    if let Err(error) = noted.await {
        tracing::warn!(%error, "the removal could not be noted; the member would ask again");
    }
}

/// Notes when the library itself stops.
pub(crate) async fn watch_library(node: Arc<Shared>) {
    let mut metrics = node.raft.metrics();
    loop {
        let state = metrics.borrow_watched().running_state.clone();
        if let Err(error) = state {
            node.failure.set(&error);
            return std::future::pending().await;
        }
        // Only the end of the library matters here, and metrics change all the time.
        let next = Instant::now() + Duration::from_millis(200);
        if metrics.changed().await.is_err() {
            node.failure.set(&"consensus has stopped");
            return std::future::pending().await;
        }
        tokio::time::sleep_until(next).await;
    }
}
