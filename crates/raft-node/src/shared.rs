//! What the node's parts have in common.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use trivet_env::Env;

use crate::api::{Error, LeaderQuery, Peer, Result};
use crate::batch::{Batcher, Patience};
use crate::consensus::log::LogStore;
use crate::consensus::machine::{MachineAdapter, Progress};
use crate::consensus::{LogId, Raft, StoredMembership};
use crate::failure::Failure;
use crate::node::Leadership;
use crate::peers::{PeerAddress, PeerTransport, proto};

/// A reader waiting for its read point.
pub(crate) type ReadWaiter = oneshot::Sender<Result<()>>;

/// The inside of a node.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) dir: std::path::PathBuf,
    pub(crate) local: Peer,
    pub(crate) cluster_id: u64,
    pub(crate) election_timeout: Duration,
    pub(crate) patience: Patience,
    pub(crate) raft: Raft,
    pub(crate) machine: MachineAdapter,
    pub(crate) log: LogStore,
    pub(crate) transport: Arc<dyn PeerTransport>,
    pub(crate) query: Arc<dyn LeaderQuery>,
    pub(crate) failure: Arc<Failure>,
    pub(crate) leadership: watch::Sender<Leadership>,
    /// Wakes the task that keeps `leadership`.
    pub(crate) look_again: Notify,
    /// When the leader was last heard of, if ever.
    pub(crate) heard: Mutex<Option<Instant>>,
    /// The last leader known, 0 when there was none.
    pub(crate) last_leader: AtomicU64,
    /// To consensus on this member.
    pub(crate) proposals: Batcher,
    /// To the leader, elsewhere.
    pub(crate) forwards: Batcher,
    pub(crate) reads: mpsc::Sender<ReadWaiter>,
    /// Membership changes happen one at a time.
    pub(crate) changes: tokio::sync::Mutex<()>,
    /// Whether members may have `http://` addresses.
    pub(crate) plaintext_urls: bool,
    /// Since when each of the others has been in contact.
    pub(crate) contacts: Mutex<HashMap<u64, Instant>>,
    /// See [`crate::RaftNode::keep`].
    pub(crate) kept: Mutex<Vec<Box<dyn Any + Send>>>,
}

/// Where the leader is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Local,
    Remote(PeerAddress),
}

impl Shared {
    /// Drops what was to be kept while files are open.
    pub(crate) fn let_go(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clear();
    }

    /// Since when each of the others has been in contact without a break.
    pub(crate) fn contacts(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.contacts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn header(&self, to: u64) -> proto::Header {
        proto::Header {
            cluster_id: self.cluster_id,
            from: self.local.id,
            to,
        }
    }

    /// The membership in force here, committed or not.
    pub(crate) fn membership(&self) -> Arc<StoredMembership> {
        self.raft
            .metrics()
            .borrow_watched()
            .membership_config
            .clone()
    }

    pub(crate) fn committed_membership(&self) -> Arc<StoredMembership> {
        self.raft
            .metrics()
            .borrow_watched()
            .committed_membership_config
            .clone()
    }

    pub(crate) fn peer_address(&self, id: u64) -> Option<PeerAddress> {
        let membership = self.membership();
        membership.get_node(&id).map(|member| PeerAddress {
            id,
            url: member.peer_url.clone(),
        })
    }

    /// Notes that the leader is alive.
    pub(crate) fn heard_leader(&self) {
        let first = {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.replace(Instant::now()).is_none()
        };
        if first || self.leadership.borrow().leader.is_none() {
            self.look_again.notify_one();
        }
    }

    pub(crate) fn heard_age(&self) -> Option<Duration> {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.map(|at| at.elapsed())
    }

    pub(crate) fn no_leader(&self) -> Error {
        let last = self.last_leader.load(Ordering::Relaxed);
        Error::NoLeader {
            last_leader: (last != 0).then_some(last),
        }
    }

    /// Waits for a leader that can be reached, until `deadline`.
    pub(crate) async fn route(&self, deadline: Instant) -> Result<Route> {
        let mut leadership = self.leadership.subscribe();
        loop {
            self.failure.check()?;
            let now = *leadership.borrow_and_update();
            match now.leader {
                Some(id) if id == self.local.id && now.local => return Ok(Route::Local),
                Some(id) if id != self.local.id => {
                    if let Some(address) = self.peer_address(id) {
                        return Ok(Route::Remote(address));
                    }
                }
                _ => {}
            }
            tokio::select! {
                changed = tokio::time::timeout_at(deadline, leadership.changed()) => {
                    if changed.is_err() {
                        return Err(self.no_leader());
                    }
                }
                stop = self.failure.stopped() => return Err(stop.error()),
            }
        }
    }

    /// Waits a moment before another try: for news about the leader, or a few milliseconds.
    pub(crate) async fn pause(&self, deadline: Instant) -> Result<()> {
        const PAUSE: Duration = Duration::from_millis(20);
        if Instant::now() + PAUSE >= deadline {
            return Err(self.no_leader());
        }
        let mut leadership = self.leadership.subscribe();
        tokio::select! {
            _ = tokio::time::timeout(PAUSE, leadership.changed()) => Ok(()),
            stop = self.failure.stopped() => Err(stop.error()),
        }
    }

    /// Waits until everything up to `id` is applied here.
    pub(crate) async fn applied(&self, id: &LogId, deadline: Instant) -> Result<()> {
        let mut progress = self.machine.progress();
        let reached = async {
            let reached = |progress: &Progress| {
                progress
                    .applied
                    .is_some_and(|applied| applied.index >= id.index)
            };
            progress.wait_for(reached).await.map(|_| ())
        };
        tokio::select! {
            reached = tokio::time::timeout_at(deadline, reached) => match reached {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(Error::Stopped),
                // It is there, but this member cannot follow fast enough.
                Err(_) => Err(self.no_leader()),
            },
            stop = self.failure.stopped() => Err(stop.error()),
        }
    }
}

/// A failure as it goes over the wire.
pub(crate) fn failure(kind: proto::failure::Kind, message: impl Into<String>) -> proto::Failure {
    proto::Failure {
        kind: kind.into(),
        message: message.into(),
        leader: 0,
        membership: None,
    }
}

/// An error as it goes over the wire.
pub(crate) fn error_to_failure(error: &Error) -> proto::Failure {
    use proto::failure::Kind;
    let (kind, message) = match error {
        Error::NoLeader { .. } => (Kind::NotLeader, error.to_string()),
        Error::Unknown(reason) => (Kind::UnknownOutcome, reason.clone()),
        Error::Overloaded => (Kind::Overloaded, error.to_string()),
        Error::Stopped | Error::Storage(_) | Error::Damaged { .. } => {
            (Kind::Stopped, error.to_string())
        }
        Error::Refused(reason) => (Kind::Refused, reason.clone()),
    };
    failure(kind, message)
}

/// What a failure from the wire means for a caller here. `None`: another try may succeed.
pub(crate) fn failure_to_error(failure: &proto::Failure) -> Option<Error> {
    use proto::failure::Kind;
    match failure.kind() {
        Kind::NotLeader | Kind::Stopped => None,
        Kind::Overloaded => Some(Error::Overloaded),
        Kind::Refused | Kind::Removed => Some(Error::Refused(failure.message.clone())),
        Kind::UnknownOutcome | Kind::Unspecified => Some(Error::Unknown(failure.message.clone())),
    }
}
