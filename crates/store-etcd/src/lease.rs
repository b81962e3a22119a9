//! Leases end in time: the leader keeps the clock, the log ends them.
//!
//! Renewing is not replicated. The leader answers renewals from its clock; when another member
//! takes over, every lease starts again with its full time (and one election timeout on top),
//! so a lease may live longer than promised and never shorter. Where that is asked for, the
//! leader notes in the log now and then how long the long ones have left, and the next one goes
//! on from there; a renewal first takes such a note back.

use std::collections::HashSet;
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
use crate::metrics::Metrics;
use crate::state::{Command, LeaseChange, Outcome, Shared};

/// Shortest sleep of the expiry task.
const EXPIRY_PAUSE: Duration = Duration::from_millis(100);
/// Revocations that wait for the log at a time.
const EXPIRY_IN_FLIGHT: usize = 16;
/// Leases ended in one [`EXPIRY_WINDOW`] at most: other writes want their turn, too.
const EXPIRY_PER_WINDOW: usize = 500;
const EXPIRY_WINDOW: Duration = Duration::from_millis(500);
/// The time left is noted of leases of at least this length.
const LONG_LEASE: Duration = Duration::from_secs(5 * 60);
/// Leases in one such note.
const NOTE_LEASES: usize = 1000;
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
    metrics: Arc<Metrics>,
    /// Set once the node runs; weak, because the node holds the keeper.
    node: OnceLock<Weak<RaftNode>>,
    inner: Mutex<Inner>,
    /// Held while a note of the time left is on its way to the log, or is taken back.
    notes: tokio::sync::Mutex<()>,
}

struct Inner {
    clock: LeaseClock,
    /// Place in the sequence of granted and revoked leases up to which the clock knows them.
    cursor: u64,
    /// Whether this member leads and the clock runs.
    running: bool,
    /// Leases of which a note may be in the log that is not applied here yet.
    noted: HashSet<LeaseId>,
}

impl LeaseKeeper {
    pub(crate) fn new(
        env: Env,
        shared: Arc<Shared>,
        timing: Timing,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let inner = Inner {
            clock: LeaseClock::default(),
            cursor: 0,
            running: false,
            noted: HashSet::new(),
        };
        Arc::new(Self {
            env,
            shared,
            timing,
            metrics,
            node: OnceLock::new(),
            inner: Mutex::new(inner),
            notes: tokio::sync::Mutex::new(()),
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
        let leases = leases.iter().map(|lease| {
            let ttl = Duration::from_secs(lease.ttl_s);
            let left = match lease.remaining_s {
                0 => ttl,
                remaining_s => Duration::from_secs(remaining_s),
            };
            (lease.id, ttl, left)
        });
        inner
            .clock
            .promote(leases, self.timing.election, self.env.clock.monotonic());
    }

    fn demote(&self) {
        let mut inner = self.lock();
        inner.running = false;
        inner.clock.demote();
        inner.noted.clear();
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

    fn catch_up_running(&self, inner: &mut Inner) -> Result<(), String> {
        if !inner.running {
            return Err("not the leader, or not yet ready to lead".to_owned());
        }
        self.catch_up(inner);
        Ok(())
    }

    /// Runs `f` on a clock that knows every lease this member has applied.
    fn with_clock<T>(&self, f: impl FnOnce(&mut LeaseClock, Duration) -> T) -> Result<T, String> {
        let mut inner = self.lock();
        self.catch_up_running(&mut inner)?;
        Ok(f(&mut inner.clock, self.env.clock.monotonic()))
    }

    /// Whether the log may hold a note of the time that a lease has left.
    fn may_be_noted(&self, id: LeaseId) -> bool {
        let noted = self.lock().noted.contains(&id);
        noted
            || self
                .shared
                .lease(id)
                .is_some_and(|lease| lease.remaining_s > 0)
    }

    /// Takes back what was noted of a lease, so that the next leader does not end it by that.
    async fn take_back(&self, id: LeaseId) -> Result<(), String> {
        let _turn = self.notes.lock().await;
        if !self.may_be_noted(id) {
            return Ok(());
        }
        let remaining = vec![(id, 0)];
        self.propose(&Command::LeaseCheckpoint { remaining })
            .await?;
        self.lock().noted.remove(&id);
        Ok(())
    }

    /// Notes how long the long leases have left, a thousand at a time.
    async fn note(&self) -> Result<(), String> {
        let _turn = self.notes.lock().await;
        let mut left: Vec<(LeaseId, u64)> = {
            let mut inner = self.lock();
            self.catch_up_running(&mut inner)?;
            let left = inner
                .clock
                .long_ones(LONG_LEASE, self.env.clock.monotonic())
                .map(|(id, left)| (id, left.as_secs()))
                // One that is over is about to be revoked; 0 would mean its full time.
                .filter(|(_, seconds)| *seconds > 0)
                .collect::<Vec<_>>();
            // At the same moment: whoever renews one from here on takes its note back.
            inner.noted.extend(left.iter().map(|(id, _)| *id));
            left
        };
        while !left.is_empty() {
            let remaining: Vec<_> = left.split_off(left.len().saturating_sub(NOTE_LEASES));
            let ids: Vec<LeaseId> = remaining.iter().map(|(id, _)| *id).collect();
            self.propose(&Command::LeaseCheckpoint { remaining })
                .await?;
            // The state has it now.
            let mut inner = self.lock();
            for id in ids {
                inner.noted.remove(&id);
            }
        }
        Ok(())
    }

    async fn propose(&self, command: &Command) -> Result<(), String> {
        let node = self.node()?;
        let answer = node.propose(self.shared.encode_own(command)).await;
        let answer = answer.map_err(|error| error.to_string())?;
        let outcome = Outcome::decode(answer).map_err(|error| error.to_string())?;
        outcome.result.map(drop).map_err(|error| error.to_string())
    }

    fn node(&self) -> Result<Arc<RaftNode>, String> {
        let node = self.node.get().and_then(Weak::upgrade);
        node.ok_or_else(|| "the node has stopped".to_owned())
    }

    async fn renew(&self, id: LeaseId) -> Result<Option<Duration>, String> {
        let mut outcome = self.with_clock(|clock, now| clock.renew(id, now))?;
        if matches!(outcome, Renewal::Unknown) {
            // It may have been granted through another member and not be applied here yet.
            let node = self.node()?;
            node.read_index().await.map_err(|error| error.to_string())?;
            outcome = self.with_clock(|clock, now| clock.renew(id, now))?;
        }
        match outcome {
            Renewal::Renewed(ttl) => {
                self.metrics.leases_renewed.increment();
                // After the renewal: a note made later knows of it.
                if self.may_be_noted(id) {
                    self.take_back(id).await?;
                }
                Ok(Some(ttl))
            }
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
        let node = self.node()?;
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
            engine.metrics.leader_changes.increment();
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
    let mut window = Window::default();
    loop {
        notify.mark_unchanged();
        let now = engine.env.clock.monotonic();
        let free = EXPIRY_IN_FLIGHT
            .saturating_sub(in_flight.len())
            .min(window.left(now));
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
        window.used += expired.len();
        for id in expired {
            // An error is no loss: the clock hands the lease out again until it is gone.
            in_flight.push(async move {
                let revoke = Command::LeaseRevoke { id };
                match engine.node.propose(engine.shared.encode_own(&revoke)).await {
                    Ok(_) => engine.metrics.leases_expired.increment(),
                    Err(error) => {
                        tracing::debug!(lease = id.0, %error, "revoking an expired lease failed for now");
                    }
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

/// How many leases were ended since a moment.
#[derive(Debug, Default)]
struct Window {
    since: Duration,
    used: usize,
}

impl Window {
    /// How many more may be ended now.
    fn left(&mut self, now: Duration) -> usize {
        if now.saturating_sub(self.since) >= EXPIRY_WINDOW {
            *self = Self {
                since: now,
                used: 0,
            };
        }
        EXPIRY_PER_WINDOW.saturating_sub(self.used)
    }
}

/// While this member leads, notes now and then how long the long leases have left. Ends with the
/// engine.
pub(crate) async fn note_time_left(engine: Arc<Engine>, keeper: Arc<LeaseKeeper>, every: Duration) {
    loop {
        tokio::select! {
            () = engine.stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        if engine.leadership().borrow().local
            && let Err(error) = keeper.note().await
        {
            tracing::debug!(
                error,
                "noting the time that leases have left failed for now"
            );
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
    fn no_more_than_a_thousand_leases_end_in_a_second() {
        let ms = Duration::from_millis;
        let mut window = Window::default();
        let mut ended = 0;
        for now in (10_000..12_000).step_by(7) {
            let some = window.left(ms(now)).min(16);
            window.used += some;
            ended += some;
        }
        assert_eq!(ended, 4 * EXPIRY_PER_WINDOW);
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
