//! The node: one member of a replicated group.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::api::{Error, LeaderQuery, NodeConfig, NodeStatus, Peer, Result, StateMachine};

/// Who leads, as this member sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The leader, when known and recently heard of.
    pub leader: Option<u64>,
    /// Current term.
    pub term: u64,
    /// Whether this member leads and has lately been confirmed by a quorum.
    pub local: bool,
}

/// One running member.
pub struct RaftNode {
    leadership: watch::Sender<Leadership>,
}

impl RaftNode {
    /// Starts the member. Founding and joining return when this member is a voter that can
    /// be used; resuming returns once the local state is recovered, without waiting for a quorum.
    pub async fn start(
        _config: NodeConfig,
        _machine: Box<dyn StateMachine>,
        _query: Arc<dyn LeaderQuery>,
    ) -> Result<Arc<Self>> {
        Err(Error::Stopped)
    }

    /// Replicates one command and returns the state machine's answer to it.
    pub async fn propose(&self, _command: Bytes) -> Result<Bytes> {
        Err(Error::Stopped)
    }

    /// Returns once everything acknowledged anywhere before the call is applied here.
    pub async fn read_index(&self) -> Result<()> {
        Err(Error::Stopped)
    }

    /// Asks the leader's [`LeaderQuery`], wherever the leader is.
    pub async fn ask_leader(&self, _question: Bytes) -> Result<Bytes> {
        Err(Error::Stopped)
    }

    /// The node as it sees itself. Never waits for others.
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            cluster_id: 0,
            local: 0,
            leader: None,
            term: 0,
            last_index: 0,
            committed_index: 0,
            applied_index: 0,
            log_size_bytes: 0,
            peers: Vec::new(),
            failed: None,
        }
    }

    /// Who leads; changes wake the receiver.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// Adds a member that receives the log without counting towards the quorum.
    pub async fn add_learner(&self, _peer: Peer) -> Result<()> {
        Err(Error::Stopped)
    }

    /// Makes a learner that has caught up a voter.
    pub async fn promote(&self, _id: u64) -> Result<()> {
        Err(Error::Stopped)
    }

    /// Removes a member.
    pub async fn remove(&self, _id: u64) -> Result<()> {
        Err(Error::Stopped)
    }

    /// Changes the addresses of a member.
    pub async fn update_peer(&self, _peer: Peer) -> Result<()> {
        Err(Error::Stopped)
    }

    /// Hands leadership to the given voter, or to the one that is furthest.
    pub async fn transfer_leadership(&self, _to: Option<u64>) -> Result<()> {
        Err(Error::Stopped)
    }

    /// Why this member stopped serving: a storage failure, or its removal from the group.
    /// Resolves when that happens, or at [`RaftNode::shutdown`].
    pub async fn stopped(&self) -> Option<String> {
        None
    }

    /// Hands leadership over (for a bounded time), flushes, and stops every task. Idempotent.
    pub async fn shutdown(&self) {}
}
