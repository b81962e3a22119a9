//! Leases end in time: the leader keeps the clock, the log ends them.
//!
//! Renewing is not replicated. The leader answers renewals from its clock; when another member
//! takes over, every lease starts again with its full time (and one election timeout on top),
//! so a lease may live longer than promised and never shorter.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use trivet_datastore::LeaseId;
use trivet_env::Env;
use trivet_mvcc::{LeaseClock, Renewal};
use trivet_raft_node::{LeaderQuery, RaftNode};

use crate::engine::Engine;
use crate::limits::Timing;
use crate::state::{Command, LeaseChange, Shared};

/// Shortest sleep of the expiry task.
const EXPIRY_PAUSE: Duration = Duration::from_millis(100);
/// Revocations that wait for the log at a time.
const EXPIRY_IN_FLIGHT: usize = 16;
/// Longest sleep of the expiry task; bounds what a missed wake-up could cost.
const EXPIRY_IDLE: Duration = Duration::from_secs(1);

/// A question only the leader can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// Renew a lease.
    Renew(LeaseId),
    /// How long has a lease still to live?
    Remaining(LeaseId),
    /// How far is a member? See [`Progress`].
    Progress(u64),
}

/// How far a member is, in the leader's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) last_index: u64,
    pub(crate) matched_index: u64,
}

impl Question {
    pub(crate) fn encode(self) -> Bytes {
        let (kind, number) = match self {
            Self::Renew(id) => (1, id.0 as u64),
            Self::Remaining(id) => (2, id.0 as u64),
            Self::Progress(id) => (3, id),
        };
        let mut bytes = BytesMut::with_capacity(9);
        bytes.put_u8(kind);
        bytes.put_u64(number);
        bytes.freeze()
    }

    fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.len() != 9 {
            return None;
        }
        let kind = bytes.get_u8();
        let number = bytes.get_u64();
        match kind {
            1 => Some(Self::Renew(LeaseId(number as i64))),
            2 => Some(Self::Remaining(LeaseId(number as i64))),
            3 => Some(Self::Progress(number)),
            _ => None,
        }
    }
}

/// The leader's answer to [`Question::Renew`] and [`Question::Remaining`]: milliseconds, or
/// nothing when there is no such lease.
pub(crate) fn decode_time(mut bytes: Bytes) -> Option<Duration> {
    (bytes.len() == 8).then(|| Duration::from_millis(bytes.get_u64()))
}

fn encode_time(time: Option<Duration>) -> Bytes {
    match time {
        Some(time) => {
            let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            Bytes::copy_from_slice(&ms.to_be_bytes())
        }
        None => Bytes::new(),
    }
}

pub(crate) fn decode_progress(mut bytes: Bytes) -> Option<Progress> {
    (bytes.len() == 16).then(|| Progress {
        last_index: bytes.get_u64(),
        matched_index: bytes.get_u64(),
    })
}

/// The clock of the leases, and what answers other members' questions about them.
pub(crate) struct LeaseKeeper {
    env: Env,
    shared: Arc<Shared>,
    timing: Timing,
    /// Set once the node runs; weak, because the node holds the keeper.
    node: OnceLock<Weak<RaftNode>>,
    inner: Mutex<Inner>,
}

struct Inner {
    clock: LeaseClock,
    /// Place in the sequence of granted and revoked leases up to which the clock knows them.
    cursor: u64,
    /// Whether this member leads and the clock runs.
    running: bool,
}

impl LeaseKeeper {
    pub(crate) fn new(env: Env, shared: Arc<Shared>, timing: Timing) -> Arc<Self> {
        let inner = Inner {
            clock: LeaseClock::default(),
            cursor: 0,
            running: false,
        };
        Arc::new(Self {
            env,
            shared,
            timing,
            node: OnceLock::new(),
            inner: Mutex::new(inner),
        })
    }

    pub(crate) fn attach(&self, node: &Arc<RaftNode>) {
        // A second node would be a bug of the caller; the first one stays.
        let _ = self.node.set(Arc::downgrade(node));
    }

    /// A short critical section without waiting in it: a blocking lock is right in async code.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over: every lease starts again.
    fn promote(&self) {
        let mut inner = self.lock();
        self.restart(&mut inner);
        inner.running = true;
    }

    fn restart(&self, inner: &mut Inner) {
        inner.cursor = self.shared.lease_cursor();
        let leases = self.shared.leases();
        let leases = leases
            .iter()
            .map(|lease| (lease.id, Duration::from_secs(lease.ttl_s)));
        inner
            .clock
            .promote(leases, self.timing.election, self.env.clock.monotonic());
    }

    fn demote(&self) {
        let mut inner = self.lock();
        inner.running = false;
        inner.clock.demote();
    }

    /// Tells the clock what was granted and revoked since it was last told.
    fn catch_up(&self, inner: &mut Inner) {
        let changes = self.shared.lease_changes(inner.cursor);
        let Ok(list) = changes.changes else {
            return self.restart(inner);
        };
        inner.cursor = changes.next;
        let now = self.env.clock.monotonic();
        for change in list {
            match change {
                LeaseChange::Granted(lease) => {
                    inner
                        .clock
                        .grant(lease.id, Duration::from_secs(lease.ttl_s), now);
                }
                LeaseChange::Revoked(id) => inner.clock.revoked(id),
            }
        }
    }

    /// Runs `f` on a clock that knows every lease this member has applied.
    fn with_clock<T>(&self, f: impl FnOnce(&mut LeaseClock, Duration) -> T) -> Result<T, String> {
        let mut inner = self.lock();
        if !inner.running {
            return Err("not the leader, or not yet ready to lead".to_owned());
        }
        self.catch_up(&mut inner);
        Ok(f(&mut inner.clock, self.env.clock.monotonic()))
    }

    async fn renew(&self, id: LeaseId) -> Result<Option<Duration>, String> {
        let mut outcome = self.with_clock(|clock, now| clock.renew(id, now))?;
        if matches!(outcome, Renewal::Unknown) {
            // It may have been granted through another member and not be applied here yet.
            let node = self
                .node
                .get()
                .and_then(Weak::upgrade)
                .ok_or("the node has stopped")?;
            node.read_index().await.map_err(|error| error.to_string())?;
            outcome = self.with_clock(|clock, now| clock.renew(id, now))?;
        }
        match outcome {
            Renewal::Renewed(ttl) => Ok(Some(ttl)),
            Renewal::Unknown => Ok(None),
            Renewal::Expired => {
                // Its end is decided but not yet in the log; the answer waits for that.
                let mut changes = self.shared.lease_notify();
                let gone = async {
                    while self.shared.lease(id).is_some() && changes.changed().await.is_ok() {}
                };
                match tokio::time::timeout(self.timing.request, gone).await {
                    Ok(()) => Ok(None),
                    Err(_) => Err("the lease has expired but could not be revoked yet".to_owned()),
                }
            }
        }
    }

    fn progress(&self, id: u64) -> Result<Bytes, String> {
        let node = self
            .node
            .get()
            .and_then(Weak::upgrade)
            .ok_or("the node has stopped")?;
        let status = node.status();
        let peer = status
            .peers
            .iter()
            .find(|peer| peer.peer.id == id)
            .ok_or("no such member")?;
        let mut bytes = BytesMut::with_capacity(16);
        bytes.put_u64(status.last_index);
        bytes.put_u64(peer.matched_index.unwrap_or(0));
        Ok(bytes.freeze())
    }
}

#[async_trait]
impl LeaderQuery for LeaseKeeper {
    async fn answer(&self, question: Bytes) -> Result<Bytes, String> {
        match Question::decode(question).ok_or("malformed question")? {
            Question::Renew(id) => self.renew(id).await.map(encode_time),
            Question::Remaining(id) => self
                .with_clock(|clock, now| clock.remaining(id, now))
                .map(encode_time),
            Question::Progress(id) => self.progress(id),
        }
    }
}

/// Follows leadership, and while this member leads, ends leases whose time is over. Ends with
/// the engine.
pub(crate) async fn expire(engine: Arc<Engine>, keeper: Arc<LeaseKeeper>) {
    let mut leadership = engine.leadership();
    let mut last_leader = None;
    loop {
        let now = *leadership.borrow_and_update();
        if now.leader.is_some() && now.leader != last_leader {
            engine
                .leader_changes
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            last_leader = now.leader;
        }
        tokio::select! {
            () = engine.stop.cancelled() => break,
            changed = leadership.changed() => if changed.is_err() { break },
            () = lead(&engine, &keeper), if now.local => {}
        }
        // Whatever changed: the clock must not run on while somebody else's does. A member
        // that merely confirmed its term starts it again at full time, which is always safe.
        if !leadership.borrow().local || leadership.borrow().term != now.term {
            keeper.demote();
        }
    }
    keeper.demote();
}

/// Ends leases until it is dropped.
async fn lead(engine: &Engine, keeper: &LeaseKeeper) {
    if !keeper.lock().running {
        // Leases granted in earlier terms must be known before the clock starts.
        while engine.node.read_index().await.is_err() {
            tokio::time::sleep(EXPIRY_PAUSE).await;
        }
        keeper.promote();
    }
    let mut notify = engine.shared.lease_notify();
    let mut in_flight = FuturesUnordered::new();
    loop {
        notify.mark_unchanged();
        let now = engine.env.clock.monotonic();
        let free = EXPIRY_IN_FLIGHT.saturating_sub(in_flight.len());
        let Ok((expired, next)) = keeper.with_clock(|clock, now| {
            let expired = if free == 0 {
                Vec::new()
            } else {
                clock.expired(now, free)
            };
            (expired, clock.next_deadline())
        }) else {
            return;
        };
        for id in expired {
            // An error is no loss: the clock hands the lease out again until it is gone.
            in_flight.push(async move {
                let revoke = Command::LeaseRevoke { id };
                if let Err(error) = engine.node.propose(revoke.encode()).await {
                    tracing::debug!(lease = id.0, %error, "revoking an expired lease failed for now");
                }
            });
        }
        let sleep = match next {
            Some(deadline) => deadline
                .saturating_sub(now)
                .clamp(EXPIRY_PAUSE, EXPIRY_IDLE),
            None => EXPIRY_IDLE,
        };
        tokio::select! {
            Some(()) = in_flight.next() => {}
            () = tokio::time::sleep(sleep) => {}
            changed = notify.changed(), if in_flight.is_empty() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_survive_the_way_to_the_leader() {
        for question in [
            Question::Renew(LeaseId(-5)),
            Question::Remaining(LeaseId(7)),
            Question::Progress(u64::MAX),
        ] {
            assert_eq!(Question::decode(question.encode()), Some(question));
        }
        for garbage in [&b""[..], b"\x01", b"\x09abcdefgh", b"\x01abcdefghi"] {
            assert_eq!(Question::decode(Bytes::from_static(garbage)), None);
        }
    }

    #[test]
    fn times_survive_the_way_back() {
        for time in [
            None,
            Some(Duration::ZERO),
            Some(Duration::from_millis(1234)),
        ] {
            assert_eq!(decode_time(encode_time(time)), time);
        }
    }
}
