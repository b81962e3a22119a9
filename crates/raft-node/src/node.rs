//! The node: one member of a replicated group.

use std::sync::Arc;

use bytes::Bytes;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::api::{
    Error, LeaderQuery, NodeConfig, NodeStatus, Peer, PeerStatus, Result, StateMachine,
};
use crate::change::{change, peer_to_proto};
use crate::discover::role;
use crate::failure::Stop;
use crate::forget;
use crate::join;
use crate::lane;
use crate::peers::PeerTransport;
use crate::peers::client::GrpcTransport;
use crate::peers::proto::change::Kind;
use crate::shared::Shared;
use crate::start;
use crate::tasks::Retention;

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

/// One running member. Dropping it stops it without ceremony; see [`RaftNode::shutdown`].
pub struct RaftNode {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tracker: TaskTracker,
}

impl RaftNode {
    /// Starts the member. Founding (alone or with others) and joining return when this member is
    /// a voter that can be used, [`crate::StartMode::Added`] when the member knows that it is one;
    /// resuming returns once the local state is recovered, without waiting for a quorum.
    ///
    /// Joining waits for as long as no listed member can be reached. Before the cluster has
    /// agreed to take this member in, nothing is written.
    ///
    /// Consensus runs on a thread of its own that ends with the node.
    ///
    /// # Errors
    /// [`Error::Refused`] when the start mode does not fit the data, or the cluster does not take
    /// this member; [`Error::Storage`] when the log cannot be opened.
    pub async fn start(
        config: NodeConfig,
        machine: Box<dyn StateMachine>,
        query: Arc<dyn LeaderQuery>,
    ) -> Result<Arc<Self>> {
        let transport = GrpcTransport::new(config.security.clone(), config.listen.clone());
        let parts = start::Parts {
            env: config.env,
            dir: config.dir,
            local: config.local,
            cluster_id: config.cluster_id,
            heartbeat: config.heartbeat,
            election_timeout: config.election_timeout,
            start: config.start,
            retention: Retention::default(),
            plaintext_urls: config.security.plaintext_urls(),
        };
        lane::on_its_own(Self::start_on(parts, machine, query, Arc::new(transport))).await
    }

    /// Waits until the cluster would replace member `old` by `config.local`
    /// ([`StartMode::Replace`](crate::StartMode::Replace)), that is until a leader has a quorum
    /// without it. Changes nothing anywhere.
    ///
    /// # Errors
    /// [`Error::Refused`] when it never will: another cluster answers, or the old member is alive
    /// elsewhere.
    pub async fn replaceable(config: &NodeConfig, old: u64, peer_urls: &[String]) -> Result<()> {
        let transport = GrpcTransport::new(config.security.clone(), Vec::new());
        join::replaceable(&transport, config.cluster_id, &config.local, old, peer_urls).await
    }

    /// What the log in `dir` ([`NodeConfig::dir`]) says, `None` without one. Nobody else may use
    /// it meanwhile.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is, [`Error::Storage`] when it cannot be read.
    pub async fn inspect(
        env: &trivet_env::Env,
        dir: &std::path::Path,
    ) -> Result<Option<crate::LogFacts>> {
        start::inspect(env, dir).await
    }

    /// [`RaftNode::start`] on another network.
    pub(crate) async fn start_on(
        parts: start::Parts,
        machine: Box<dyn StateMachine>,
        query: Arc<dyn LeaderQuery>,
        transport: Arc<dyn PeerTransport>,
    ) -> Result<Arc<Self>> {
        // The future is large; callers should not have to carry it.
        Box::pin(start::start(parts, machine, query, transport)).await
    }

    /// Replicates one command and returns the state machine's answer to it. Works on every
    /// member. Waits a bounded time for a leader, as long as nothing was proposed.
    ///
    /// # Errors
    /// [`Error::NoLeader`], [`Error::Overloaded`], [`Error::Refused`] and [`Error::Stopped`]
    /// mean that nothing was proposed; [`Error::Unknown`] that it may have been.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes> {
        self.shared.propose(command).await
    }

    /// Returns once everything acknowledged anywhere before the call is applied here.
    ///
    /// # Errors
    /// [`Error::NoLeader`] when no quorum confirms a leader in time, or this member cannot catch
    /// up in time.
    pub async fn read_index(&self) -> Result<()> {
        self.shared.read_index().await
    }

    /// Asks the leader's [`LeaderQuery`], wherever the leader is.
    ///
    /// # Errors
    /// [`Error::Refused`] carries the leader's own error; [`Error::Unknown`] means that the
    /// question may have been answered.
    pub async fn ask_leader(&self, question: Bytes) -> Result<Bytes> {
        self.shared.ask_leader(question).await
    }

    /// Asks one member's [`LeaderQuery::answer_here`], this one's own too. Waits for the answer as
    /// long as for a proposal.
    ///
    /// # Errors
    /// [`Error::Refused`] carries the member's own error; [`Error::Unknown`] when it does not
    /// answer.
    pub async fn ask_member(&self, id: u64, question: Bytes) -> Result<Bytes> {
        self.shared.ask_member(id, question).await
    }

    /// Puts a copy of the state of one of the members in `from` (of any, if that is empty) in the
    /// place of this member's; log and vote stay. Hands leadership over first. Waits for as long
    /// as no member answers, and applies nothing meanwhile; reads go on.
    ///
    /// # Errors
    /// [`Error::Storage`] when there is no other member, or the copy cannot be installed.
    pub async fn resync(&self, from: &[u64]) -> Result<()> {
        let node = &self.shared;
        if node.leadership.borrow().local
            && let Err(error) = node.hand_over(None).await
        {
            tracing::warn!(%error, "leadership was not handed over before fetching the state");
        }
        let resync = node
            .machine
            .resync(crate::LogPosition::default(), from.to_vec());
        tokio::select! {
            done = resync => done.map(|_| ()).map_err(storage),
            stop = node.failure.stopped() => Err(stop.error()),
        }
    }

    /// The node as it sees itself. Never waits for others.
    pub fn status(&self) -> NodeStatus {
        let node = &self.shared;
        let leadership = *node.leadership.borrow();
        let metrics = node.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.clone();
        let leads = leadership.local;
        let contacts = node.contacts();
        let peers = membership
            .nodes()
            .map(|(id, member)| {
                let matched = if *id == node.local.id {
                    metrics.last_log_index
                } else {
                    let known = metrics.replication.as_ref().and_then(|known| known.get(id));
                    known.and_then(|id| id.as_ref()).map(|id| id.index)
                };
                let contact = metrics.heartbeat.as_ref().and_then(|known| known.get(id));
                let contact = contact.and_then(|at| at.as_ref()).map(|at| at.elapsed());
                PeerStatus {
                    peer: member.to_peer(*id),
                    role: role(&membership, *id),
                    matched_index: matched.filter(|_| leads),
                    last_contact: if *id == node.local.id {
                        leads.then_some(std::time::Duration::ZERO)
                    } else {
                        contact.filter(|_| leads)
                    },
                    connected_for: contacts.get(id).map(tokio::time::Instant::elapsed),
                }
            })
            .collect();
        let index = |id: &Option<crate::consensus::LogId>| id.map_or(0, |id| id.index);
        NodeStatus {
            cluster_id: node.cluster_id,
            local: node.local.id,
            leader: leadership.leader,
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or(0),
            committed_index: index(&metrics.cluster_committed).max(index(&metrics.local_committed)),
            applied_index: index(&metrics.last_applied),
            log_size_bytes: node.log.size_bytes(),
            peers,
            failed: node.failure.current().and_then(|stop| stop.message()),
        }
    }

    /// The members as applied here, once they are others than `known`.
    pub async fn members_other_than(&self, known: &[Peer]) -> Vec<Peer> {
        let mut membership = self.shared.machine.watch_membership();
        loop {
            let members: Vec<Peer> = membership
                .borrow_and_update()
                .nodes()
                .map(|(id, member)| member.to_peer(*id))
                .collect();
            if members != known {
                return members;
            }
            if membership.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// How many entries this member knows to be committed and has not applied yet. Cheap.
    pub fn apply_backlog(&self) -> u64 {
        let metrics = self.shared.raft.metrics();
        let metrics = metrics.borrow_watched();
        let index = |id: &Option<crate::consensus::LogId>| id.map_or(0, |id| id.index);
        let committed = index(&metrics.cluster_committed).max(index(&metrics.local_committed));
        committed.saturating_sub(index(&metrics.last_applied))
    }

    /// Who leads; changes wake the receiver.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    /// Adds a member that receives the log without counting towards the quorum. Works on every
    /// member, like all changes; they are carried out one at a time.
    ///
    /// # Errors
    /// [`Error::Refused`] when the name or address belongs to another member.
    pub async fn add_learner(&self, peer: Peer) -> Result<()> {
        self.shared
            .change(change(Kind::AddLearner(peer_to_proto(&peer))))
            .await
    }

    /// Adds a member that is to vote. It need not run yet: it counts towards the quorum from the
    /// moment it runs and has caught up, so that the cluster goes on meanwhile, and the leader
    /// makes it a voter then by itself.
    ///
    /// # Errors
    /// [`Error::Refused`] when the name or address belongs to another member.
    pub async fn add_voter(&self, peer: Peer) -> Result<()> {
        self.shared
            .change(change(Kind::AddVoter(peer_to_proto(&peer))))
            .await
    }

    /// Makes a learner that has caught up a voter.
    ///
    /// # Errors
    /// [`Error::Refused`] when it is not in sync with the leader yet.
    pub async fn promote(&self, id: u64) -> Result<()> {
        self.shared.change(change(Kind::Promote(id))).await
    }

    /// Removes a member. It stops by itself once it learns of it.
    ///
    /// # Errors
    /// [`Error::Refused`] when the remaining members that run would be no quorum, and for the
    /// last voter.
    pub async fn remove(&self, id: u64) -> Result<()> {
        self.shared.change(change(Kind::Remove(id))).await
    }

    /// Changes the name and addresses of a member.
    ///
    /// # Errors
    /// [`Error::Refused`] when the address belongs to another member.
    pub async fn update_peer(&self, peer: Peer) -> Result<()> {
        self.shared
            .change(change(Kind::Update(peer_to_proto(&peer))))
            .await
    }

    /// Hands leadership to the given voter, or to the one that is furthest. Returns once another
    /// member leads.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such running voter.
    pub async fn transfer_leadership(&self, to: Option<u64>) -> Result<()> {
        self.shared
            .change(change(Kind::Transfer(to.unwrap_or(0))))
            .await
    }

    /// Resolves when this member stops serving, with the reason: a failure, or its removal from
    /// the cluster. `None` after [`RaftNode::shutdown`].
    pub async fn stopped(&self) -> Option<String> {
        self.shared.failure.stopped().await.message()
    }

    /// Makes the state durable and drops the log up to it: a member that joins later gets the
    /// state as a snapshot, never the log from its beginning. For a state that did not come from
    /// the log. Durable on return.
    ///
    /// # Errors
    /// [`Error::Storage`] when the state or the log cannot be written, [`Error::NoLeader`] when
    /// nothing is committed in time.
    pub async fn forget_log(&self) -> Result<()> {
        forget::forget_log(&self.shared).await
    }

    /// Keeps something until the last file of this member is closed, however it comes to stop:
    /// the lock on its directory.
    pub fn keep(&self, guard: impl std::any::Any + Send) {
        let kept = &self.shared.kept;
        kept.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(Box::new(guard));
    }

    /// Hands leadership over (for a bounded time), flushes, and stops every task. Idempotent.
    pub async fn shutdown(&self) {
        if self.shared.failure.current().is_none() {
            if self.shared.leadership.borrow().local
                && let Err(error) = self.shared.hand_over(None).await
            {
                tracing::debug!(%error, "leadership was not handed over");
            }
            let checkpoint = self.shared.machine.checkpoint(true);
            // The log has everything a checkpoint would have; it only makes the next start short.
            let _ = tokio::time::timeout(start::CHECKPOINT_ON_STOP, checkpoint).await;
            self.shared.failure.stop(&Stop::Shutdown);
        }
        self.tracker.wait().await;
    }
}

impl RaftNode {
    /// See [`crate::testing::abort`].
    pub(crate) async fn abort(&self) {
        self.shared.failure.stop(&Stop::Shutdown);
        self.tracker.wait().await;
    }
}

impl Drop for RaftNode {
    fn drop(&mut self) {
        self.shared.failure.stop(&Stop::Shutdown);
    }
}

impl std::fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftNode")
            .field("local", &self.shared.local)
            .finish_non_exhaustive()
    }
}

/// Turns an I/O error of the log into the node's.
pub(crate) fn storage(error: impl std::fmt::Display) -> Error {
    Error::Storage(error.to_string())
}
