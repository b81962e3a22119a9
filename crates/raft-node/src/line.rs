//! A leader whose process has ended is not waited for.
//!
//! An election normally begins when nothing was heard for a while, because silence is all that
//! a follower has. But a process that ends takes its connections with it, and its machine then
//! refuses new ones: that is certain, and known at once. Each follower finds it out by itself;
//! one that does stops protecting the leader from elections, and the first of them in the order
//! of identities stands. The votes still have to come from a majority that has found the same.

use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use tokio::time::Instant;

use crate::peers::PeerAddress;
use crate::shared::Shared;

/// How long each follower leaves the election to those before it.
const TURN: Duration = Duration::from_millis(60);

/// When to ask whether the process has ended, counted from the end of its line: while it ends,
/// its machine may still take connections for it.
const PROBES: [Duration; 5] = [
    Duration::from_millis(10),
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
];

/// Attempts before the election is left to the timeout that runs anyway.
const ATTEMPTS: u32 = 5;

/// The connection on which a leader sends its log. Dropping it is its end.
pub(crate) struct Line {
    node: Weak<Shared>,
    /// Who is at the other end; 0 before the first message.
    pub(crate) leader: u64,
}

impl Line {
    pub(crate) fn new(node: &Arc<Shared>) -> Self {
        Self {
            node: Arc::downgrade(node),
            leader: 0,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.leader != 0
            && let Some(node) = self.node.upgrade()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(replace(node, self.leader));
        }
    }
}

/// Whether this member still takes `leader` for the leader.
fn follows(node: &Shared, leader: u64) -> bool {
    node.failure.current().is_none()
        && node.raft.metrics().borrow_watched().current_leader == Some(leader)
}

/// Whether the leader's process turns out to have ended; not if the leader is heard again first.
async fn has_ended(node: &Shared, leader: u64, address: &PeerAddress) -> bool {
    let lost = Instant::now();
    for pause in PROBES {
        tokio::time::sleep(pause).await;
        let heard = node.heard_age().is_some_and(|age| age < lost.elapsed());
        if heard || !follows(node, leader) {
            return false;
        }
        if node.transport.is_gone(address).await {
            return true;
        }
    }
    false
}

/// Replaces the leader if its process has ended.
async fn replace(node: Arc<Shared>, leader: u64) {
    if leader == node.local.id || !follows(&node, leader) {
        return;
    }
    let Some(address) = node.peer_address(leader) else {
        return;
    };
    if !has_ended(&node, leader, &address).await {
        return;
    }
    let place = {
        let membership = node.membership();
        let mut others = membership.voter_ids().filter(|id| *id != leader);
        others.position(|id| id == node.local.id)
    };
    let vote = node.raft.metrics().borrow_watched().vote;
    if !follows(&node, leader) {
        return;
    }
    // Naming nobody to succeed, this only ends the protection of the leader here.
    let end = TransferLeaderRequest::new(vote, leader, None);
    if node.raft.handle_transfer_leader(end).await.is_err() {
        return;
    }
    // A learner has nothing more to do with it.
    let Some(place) = place.and_then(|place| u32::try_from(place).ok()) else {
        return;
    };
    // The first one, too, gives the others the time to find out.
    tokio::time::sleep(TURN / 3 + TURN * place).await;
    for _ in 0..ATTEMPTS {
        if !follows(&node, leader) || !node.transport.is_gone(&address).await {
            return;
        }
        tracing::info!(
            leader = format_args!("{leader:x}"),
            "the leader's process has ended; standing for election"
        );
        if node.raft.trigger().elect(true).await.is_err() {
            return;
        }
        tokio::time::sleep(TURN * 2).await;
    }
}
