//! One running member: node, state and the rules every service shares (deadlines, headers,
//! waiting for a leader).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trivet_datastore::{LeaseId, Revision};
use trivet_env::Env;
use trivet_etcd_auth::{AuthError, Caller};
use trivet_mvcc::TxnResult;
use trivet_raft_node::{self as raft, Leadership, PeerRole, RaftNode};

use crate::auth::Proofs;
use crate::config::StrictReconfig;
use crate::failure::Failure;
use crate::limits::{Bounds, DRAIN_TIMEOUT, MAX_APPLY_GAP, Timing};
use crate::metrics::Metrics;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::quota::Room;
use crate::service::wire;
use crate::state::{Alarms, Command, CommandError, Outcome, Response, Shared};

/// Pause before another attempt when a leader is known but does not answer yet.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How long an answer waits for this member to apply what the leader has applied.
const APPLY_WAIT: Duration = Duration::from_secs(1);

pub(crate) struct Engine {
    pub(crate) env: Env,
    pub(crate) node: Arc<RaftNode>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) timing: Timing,
    pub(crate) bounds: Bounds,
    /// Passwords and tokens.
    pub(crate) proofs: Proofs,
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    /// Announces the end.
    pub(crate) stop: CancellationToken,
    /// Proves it.
    pub(crate) tasks: TaskTracker,
    pub(crate) room: Room,
    /// Rules for changes of members.
    pub(crate) rules: MemberRules,
    pub(crate) metrics: Arc<Metrics>,
    leadership: watch::Receiver<Leadership>,
    /// Once a voter, always a voter, until removed: saves asking for every request.
    voter: AtomicBool,
}

/// Rules for changes of members that etcd clients ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemberRules {
    /// What is checked before a change, if anything.
    pub(crate) strict: Option<StrictReconfig>,
    /// Whether peer URLs may begin with `http://`.
    pub(crate) plaintext_urls: bool,
}

/// What a member is built from.
pub(crate) struct Parts {
    pub(crate) env: Env,
    pub(crate) node: Arc<RaftNode>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) timing: Timing,
    pub(crate) rules: MemberRules,
    pub(crate) bounds: Bounds,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) proofs: Proofs,
}

impl Engine {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            env,
            node,
            shared,
            timing,
            rules,
            bounds,
            metrics,
            proofs,
        } = parts;
        let status = node.status();
        // The end of the log is applied once more after a restart; the tokens in it are void.
        shared.tokens().forget_through(status.last_index);
        Arc::new(Self {
            leadership: node.leadership(),
            cluster_id: status.cluster_id,
            member_id: status.local,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            room: Room::default(),
            voter: AtomicBool::new(false),
            env,
            node,
            shared,
            timing,
            rules,
            bounds,
            metrics,
            proofs,
        })
    }

    /// Replicates a command in the store's own name and reads its outcome.
    pub(crate) async fn execute(&self, command: &Command) -> Result<(Revision, Response), Failure> {
        self.execute_as(&Caller::Root, command).await
    }

    /// Replicates a command in a caller's name and reads its outcome.
    pub(crate) async fn execute_as(
        &self,
        caller: &Caller,
        command: &Command,
    ) -> Result<(Revision, Response), Failure> {
        // Names are left out as long as nobody looks at them.
        if !self.shared.auth_enabled() || *caller == Caller::Anonymous {
            match self.propose(command, command.encode()).await {
                // Somebody does, since a moment ago, and nothing has happened yet.
                Err(Failure::Auth(AuthError::UserEmpty)) if *caller != Caller::Anonymous => {}
                outcome => return outcome,
            }
        }
        self.propose(command, command.encode_as(caller)).await
    }

    async fn propose(
        &self,
        command: &Command,
        encoded: Bytes,
    ) -> Result<(Revision, Response), Failure> {
        // 0 says "no lease" and has no place in a command (etcd: revoking it finds nothing).
        if matches!(command.inner(), Command::LeaseRevoke { id } if id.0 == 0) {
            return Err(Failure::Refused(trivet_mvcc::Error::LeaseNotFound));
        }
        if self.node.apply_backlog() > MAX_APPLY_GAP {
            return Err(Failure::Behind);
        }
        self.check_quota(command.inner()).await?;
        if encoded.len() > self.bounds.request_bytes {
            return Err(Failure::TooLarge {
                size_bytes: encoded.len(),
                limit_bytes: self.bounds.request_bytes,
            });
        }
        let pending = self.metrics.proposals_pending.hold();
        let answer = self
            .until_deadline(true, || self.node.propose(encoded.clone()))
            .await
            .inspect_err(|_| self.metrics.proposals_failed.increment())?;
        drop(pending);
        let outcome =
            Outcome::decode(answer).map_err(|error| Failure::Damaged(error.to_string()))?;
        match outcome.result {
            Ok(response) => {
                self.applied_here(command, outcome.revision, &response)
                    .await;
                Ok((outcome.revision, response))
            }
            Err(CommandError::Refused(refused)) => Err(Failure::Refused(refused)),
            Err(CommandError::Alarm(alarm)) => Err(Failure::Alarm(alarm)),
            Err(CommandError::Auth(error)) => Err(Failure::Auth(error)),
            Err(CommandError::Malformed) => Err(Failure::Damaged(
                "the command arrived malformed at the state machine".to_owned(),
            )),
        }
    }

    /// Waits until this member, too, has applied what it answers: its clients read their own
    /// writes, even serializably. On the leader that is so already.
    async fn applied_here(&self, command: &Command, revision: Revision, response: &Response) {
        let caught_up = async {
            if self.shared.revision() < revision {
                // An error means that the state is gone; then nothing is read from it either.
                let _ = self
                    .shared
                    .revisions()
                    .wait_for(|here| *here >= revision)
                    .await;
            }
            if let Command::Compact { revision } = command.inner() {
                let mut applied = self.shared.revisions();
                while self.shared.compact_revision() < *revision && applied.changed().await.is_ok()
                {
                }
            }
            if let Response::LeaseGranted { id, .. } = response {
                let mut changes = self.shared.lease_notify();
                while self.shared.lease(*id).is_none() && changes.changed().await.is_ok() {}
            }
            // These have no revision of their own to wait for.
            if matches!(
                response,
                Response::Compacted | Response::Alarmed(_) | Response::Auth { .. }
            ) {
                let _ = self.node.read_index().await;
            }
        };
        // The write is done, whatever becomes of this member: no error, only a bound.
        let _ = tokio::time::timeout(APPLY_WAIT, caught_up).await;
    }

    /// Replicates a transaction in the store's own name.
    pub(crate) async fn transact(&self, txn: trivet_mvcc::Txn) -> Result<TxnResult, Failure> {
        self.transact_as(&Caller::Root, txn).await
    }

    /// Replicates a transaction in a caller's name.
    pub(crate) async fn transact_as(
        &self,
        caller: &Caller,
        txn: trivet_mvcc::Txn,
    ) -> Result<TxnResult, Failure> {
        match self.execute_as(caller, &Command::Txn(txn)).await? {
            (_, Response::Txn(result)) => Ok(result),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Creates a lease of at least the shortest length; the id is chosen here unless given.
    pub(crate) async fn grant_lease(
        &self,
        caller: &Caller,
        id: Option<LeaseId>,
        ttl_seconds: i64,
    ) -> Result<(Revision, LeaseId, i64), Failure> {
        let ttl_s = ttl_seconds
            .max(self.timing.min_lease_seconds)
            .unsigned_abs();
        loop {
            let chosen = id.unwrap_or_else(|| self.random_lease_id());
            match self
                .execute_as(caller, &Command::LeaseGrant { id: chosen, ttl_s })
                .await
            {
                Ok((revision, Response::LeaseGranted { id, ttl_s })) => {
                    return Ok((revision, id, i64::try_from(ttl_s).unwrap_or(i64::MAX)));
                }
                Ok((_, other)) => return Err(unexpected(&other)),
                // Chosen at random and taken: once in 2^63 attempts.
                Err(Failure::Refused(trivet_mvcc::Error::LeaseExists)) if id.is_none() => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// A positive number that is as good as unique.
    fn random_lease_id(&self) -> LeaseId {
        LeaseId(((self.env.rng.next_u64() >> 1) as i64).max(1))
    }

    /// Gives back the space on disk that nothing of this member's state refers to.
    pub(crate) async fn defragment(&self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        match tokio::task::spawn_blocking(move || shared.defragment()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure::Damaged(error.to_string())),
            Err(error) => Err(Failure::Damaged(format!("defragmenting stopped: {error}"))),
        }
    }

    /// Waits until everything acknowledged anywhere before the call is applied here.
    pub(crate) async fn barrier(&self) -> Result<(), Failure> {
        self.until_deadline(false, || self.node.read_index())
            .await
            .inspect_err(|_| self.metrics.read_indexes_failed.increment())
    }

    /// Asks the leader.
    pub(crate) async fn ask_leader(&self, question: Bytes) -> Result<Bytes, Failure> {
        self.until_deadline(false, || async {
            match self.node.ask_leader(question.clone()).await {
                // A leader that is not ready yet, or no longer leads: worth asking again.
                Err(raft::Error::Refused(why)) => Err(raft::Error::Unknown(why)),
                answer => answer,
            }
        })
        .await
    }

    /// Runs an operation of the node until it gets through or the request's time is over.
    /// Attempts for want of a leader are repeated: they had no effect. `writes` says whether an
    /// attempt that is cut short may have one.
    async fn until_deadline<T, F>(
        &self,
        writes: bool,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = raft::Result<T>>,
    {
        let deadline = Instant::now() + self.timing.request;
        // Whether the last attempt is over, and is known to have had no effect.
        let mut nothing_happened = false;
        let outcome = timeout_at(deadline, async {
            loop {
                nothing_happened = !writes;
                match attempt().await {
                    Err(raft::Error::NoLeader { .. }) => {
                        nothing_happened = true;
                        self.some_leader().await;
                    }
                    Err(raft::Error::Unknown(_)) if !writes => {
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    outcome => return outcome,
                }
            }
        })
        .await;
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Failure::Raft(error)),
            Err(_) if nothing_happened && !self.has_leader() => {
                Err(Failure::Raft(raft::Error::NoLeader { last_leader: None }))
            }
            Err(_) => Err(Failure::TimedOut {
                may_have_happened: writes && !nothing_happened,
            }),
        }
    }

    /// Waits a little, and then until a leader is known.
    async fn some_leader(&self) {
        tokio::time::sleep(RETRY_PAUSE).await;
        let mut leadership = self.leadership.clone();
        // An error means that the node is gone; the next attempt says so.
        let _ = leadership.wait_for(|now| now.leader.is_some()).await;
    }

    /// Returns when there was no leader for as long as a `hasleader` stream may go without.
    pub(crate) async fn leaderless(&self) {
        let mut leadership = self.leadership.clone();
        loop {
            if leadership
                .wait_for(|now| now.leader.is_none())
                .await
                .is_err()
            {
                return;
            }
            let returned = leadership.wait_for(|now| now.leader.is_some());
            if tokio::time::timeout(self.timing.no_leader, returned)
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// The header of a response built now.
    pub(crate) fn header(&self) -> ResponseHeader {
        self.header_at(self.shared.revision())
    }

    /// The header of a response that shows this revision.
    pub(crate) fn header_at(&self, revision: Revision) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision: wire(revision),
            raft_term: self.leadership.borrow().term,
        }
    }

    /// The header of membership responses, which carry no revision.
    pub(crate) fn header_without_revision(&self) -> ResponseHeader {
        self.header_at(Revision(0))
    }

    /// What is wrong with the data, as far as this member knows.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = self.shared.damage();
        let differing = self.alarms();
        let differing = differing
            .iter()
            .filter(|raised| raised.alarm == crate::state::Alarm::Corrupt)
            .map(|raised| match raised.member {
                0 => "the members' data differ, and no majority agrees".to_owned(),
                id => format!("the data of member {id:x} differ from the others'"),
            });
        problems.extend(differing);
        problems
    }

    /// The alarms that are raised, as applied here.
    pub(crate) fn alarms(&self) -> Arc<Alarms> {
        self.shared.alarms()
    }

    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    pub(crate) fn has_leader(&self) -> bool {
        self.leadership.borrow().leader.is_some()
    }

    /// Whether this member does not vote (yet).
    pub(crate) fn is_learner(&self) -> bool {
        if self.voter.load(Ordering::Relaxed) {
            return false;
        }
        let status = self.node.status();
        let voter = status
            .peers
            .iter()
            .any(|peer| peer.peer.id == self.member_id && peer.role == PeerRole::Voter);
        self.voter.store(voter, Ordering::Relaxed);
        !voter
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Ends listeners, streams and background work, then the node. Idempotent.
    pub(crate) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("client connections are still open; they are cut off");
        }
        // Who waits for space waits no longer.
        self.shared.close();
        self.node.shutdown().await;
    }
}

/// The state machine answered something that does not belong to the question.
pub(crate) fn unexpected(response: &Response) -> Failure {
    Failure::Damaged(format!(
        "unexpected answer of the state machine: {response:?}"
    ))
}
