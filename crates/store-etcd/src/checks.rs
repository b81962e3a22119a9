//! Comparing the members' data, and reading all of it now and then.
//!
//! The leader names a revision and a compaction; every member computes the checksum of what it has
//! as of there ([`trivet_mvcc::Hasher`]), slowly, and the leader compares. A member that differs
//! from a majority is named in a CORRUPT alarm; it then fetches the state of one that does not
//! ([`crate::heal`]), and the next comparison ends the alarm. Without a majority nobody can say who
//! is wrong: the alarm names member 0 and stays until all members agree, or somebody has decided.
//!
//! Computing the checksum reads every value and checks what is stored with it: a comparison is
//! also a scrub.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use trivet_datastore::{Error, Result, Revision};
use trivet_mvcc::Hasher;
use trivet_raft_node::LeaderQuery;

use crate::engine::Engine;
use crate::lease::LeaseKeeper;
use crate::state::{Alarm, AlarmAction, AlarmMember, Command, ReadError, Shared, StateHash};

/// Keys between two looks at the pace.
const STEP_KEYS: usize = 64;
/// Pause between two questions about a checksum that is being computed.
const POLL: Duration = Duration::from_millis(100);
/// While there is an alarm, the members are compared again after this long.
const RECHECK: Duration = Duration::from_secs(2);
/// How long a member that does not answer is asked.
const SILENCE: Duration = Duration::from_secs(30);
/// A checksum that takes longer than this is given up.
const LONGEST: Duration = Duration::from_secs(3600);

/// What is checked in the background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Compare with the others before serving, and refuse to start if a majority differs.
    pub initial: bool,
    /// How often the leader compares the members.
    pub compare: Option<Duration>,
    /// How often a member reads all its values, if they are not compared.
    pub scrub: Option<Duration>,
    /// Bytes per second that a check reads.
    pub bytes_per_second: u64,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            initial: false,
            compare: Some(Duration::from_secs(600)),
            scrub: Some(Duration::from_secs(6 * 3600)),
            bytes_per_second: 32 << 20,
        }
    }
}

impl Checks {
    /// Nothing is compared unless somebody asks for it, as in etcd.
    #[must_use]
    pub fn as_etcd() -> Self {
        Self {
            compare: None,
            ..Self::default()
        }
    }
}

/// A checksum at a pace, of a revision or of the newest.
pub(crate) async fn hash_slowly(
    shared: &Shared,
    revision: Option<Revision>,
    bytes_per_second: u64,
) -> std::result::Result<StateHash, ReadError> {
    let (view, table) = shared.everything()?;
    let (compact_revision, newest) = (view.compact_revision(), view.revision);
    let mut hasher = Hasher::new(view, revision)?;
    loop {
        let table = table.clone();
        let stepped = tokio::task::spawn_blocking(move || {
            let read = hasher.step(STEP_KEYS, &*table);
            (hasher, read)
        });
        let read;
        (hasher, read) = stepped
            .await
            .map_err(|error| ReadError::Damaged(format!("reading stopped: {error}")))?;
        match read? {
            Some(bytes) => {
                let pace = bytes_per_second.max(1);
                tokio::time::sleep(Duration::from_micros(
                    bytes.saturating_mul(1_000_000) / pace,
                ))
                .await;
            }
            None => {
                return Ok(StateHash {
                    hash: hasher.sum(),
                    hash_revision: hasher.revision(),
                    compact_revision,
                    revision: newest,
                });
            }
        }
    }
}

/// As of where checksums are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    revision: Revision,
    compacted: Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Pending,
    Sum(u32),
    /// It is not at this point any more, or its data cannot be read.
    None,
}

const QUESTION: u8 = 1;

impl Point {
    fn encode(self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(17);
        bytes.put_u8(QUESTION);
        bytes.put_u64(self.revision.0);
        bytes.put_u64(self.compacted.0);
        bytes.freeze()
    }

    fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.len() != 17 || bytes.get_u8() != QUESTION {
            return None;
        }
        Some(Self {
            revision: Revision(bytes.get_u64()),
            compacted: Revision(bytes.get_u64()),
        })
    }
}

impl Answer {
    fn encode(self) -> Bytes {
        let (kind, sum) = match self {
            Self::Pending => (0, 0),
            Self::Sum(sum) => (1, sum),
            Self::None => (2, 0),
        };
        let mut bytes = BytesMut::with_capacity(5);
        bytes.put_u8(kind);
        bytes.put_u32(sum);
        bytes.freeze()
    }

    fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.len() != 5 {
            return None;
        }
        match (bytes.get_u8(), bytes.get_u32()) {
            (0, _) => Some(Self::Pending),
            (1, sum) => Some(Self::Sum(sum)),
            (2, _) => Some(Self::None),
            _ => None,
        }
    }
}

/// Answers what other members ask this one, as the leader and otherwise.
pub(crate) struct Queries {
    pub(crate) keeper: Arc<LeaseKeeper>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) desk: Desk,
    pub(crate) bytes_per_second: u64,
}

#[async_trait]
impl LeaderQuery for Queries {
    async fn answer(&self, question: Bytes) -> std::result::Result<Bytes, String> {
        self.keeper.answer(question).await
    }

    async fn answer_here(&self, question: Bytes) -> std::result::Result<Bytes, String> {
        self.desk
            .answer(&self.shared, question, self.bytes_per_second)
    }
}

/// Checksums that others asked this member for: one at a time.
#[derive(Debug, Default)]
pub(crate) struct Desk(Mutex<Option<(Point, Arc<OnceLock<Answer>>)>>);

impl Desk {
    /// Answers a question of another member. The first time it only begins to compute.
    pub(crate) fn answer(
        &self,
        shared: &Arc<Shared>,
        question: Bytes,
        bytes_per_second: u64,
    ) -> std::result::Result<Bytes, String> {
        let point = Point::decode(question).ok_or("an unknown question")?;
        let mut job = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((asked, answer)) = &*job
            && *asked == point
        {
            let ready = answer.get().copied();
            if ready.is_some() {
                // Asked again, it is computed again: the data may have been replaced.
                *job = None;
            }
            return Ok(ready.unwrap_or(Answer::Pending).encode());
        }
        if job
            .as_ref()
            .is_some_and(|(_, answer)| answer.get().is_none())
        {
            return Err("another checksum is being computed".to_owned());
        }
        let answer = Arc::new(OnceLock::new());
        *job = Some((point, answer.clone()));
        let shared = shared.clone();
        tokio::spawn(async move {
            // Set once, here.
            let _ = answer.set(compute(&shared, point, bytes_per_second).await);
        });
        Ok(Answer::Pending.encode())
    }
}

async fn compute(shared: &Shared, point: Point, bytes_per_second: u64) -> Answer {
    let mut revisions = shared.revisions();
    let there = revisions.wait_for(|revision| *revision >= point.revision);
    if !matches!(tokio::time::timeout(SILENCE, there).await, Ok(Ok(_))) {
        return Answer::None;
    }
    drop(revisions);
    match hash_slowly(shared, Some(point.revision), bytes_per_second).await {
        Ok(hash) if hash.compact_revision == point.compacted => Answer::Sum(hash.hash),
        Ok(_) => Answer::None,
        Err(error) => {
            tracing::warn!(%error, "no checksum for the comparison of members");
            Answer::None
        }
    }
}

/// What a comparison says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Members that differ from a majority; 0 when members differ and no majority agrees.
    pub(crate) differing: Vec<u64>,
    /// The majority.
    pub(crate) agreeing: Vec<u64>,
}

/// Judges the checksums of all members; `None` for one who gave none.
pub(crate) fn judge(sums: &[(u64, Option<u32>)]) -> Verdict {
    let mut groups: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for (id, sum) in sums {
        if let Some(sum) = sum {
            groups.entry(*sum).or_default().push(*id);
        }
    }
    let majority = groups
        .values()
        .find(|members| members.len() * 2 > sums.len());
    match majority.cloned() {
        Some(agreeing) => Verdict {
            differing: groups
                .into_values()
                .flatten()
                .filter(|id| !agreeing.contains(id))
                .collect(),
            agreeing,
        },
        None => Verdict {
            differing: if groups.len() > 1 {
                vec![0]
            } else {
                Vec::new()
            },
            agreeing: Vec::new(),
        },
    }
}

/// The checksums of all members as of now, as far as they can be had.
async fn ask_all(engine: &Engine, silence: Duration) -> Vec<(u64, Option<u32>)> {
    let point = Point {
        revision: engine.shared.revision(),
        compacted: engine.shared.compact_revision(),
    };
    let members = engine.node.status().peers.into_iter();
    let asked = members.map(|status| async move {
        let id = status.peer.id;
        (id, ask(engine, id, point, silence).await)
    });
    futures_util::future::join_all(asked).await
}

async fn ask(engine: &Engine, id: u64, point: Point, silence: Duration) -> Option<u32> {
    let start = tokio::time::Instant::now();
    let mut heard = start;
    loop {
        let answer = engine.node.ask_member(id, point.encode()).await;
        match answer.ok().and_then(Answer::decode) {
            Some(Answer::Sum(sum)) => return Some(sum),
            Some(Answer::None) => return None,
            Some(Answer::Pending) => heard = tokio::time::Instant::now(),
            None => {}
        }
        if heard.elapsed() > silence || start.elapsed() > LONGEST {
            return None;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Compares the members, raises alarms and ends them. What cannot be done now is done next time;
/// who does not answer for as long as `silence` is left out.
pub(crate) async fn compare(engine: &Engine, silence: Duration) {
    if engine.barrier().await.is_err() {
        return;
    }
    let sums = ask_all(engine, silence).await;
    let verdict = judge(&sums);
    let alarms = engine.alarms();
    let change = async |action, member| {
        let alarm = AlarmMember {
            alarm: Alarm::Corrupt,
            member,
        };
        if let Err(error) = engine.execute(&Command::Alarm { action, alarm }).await {
            tracing::warn!(%error, "an alarm was not changed");
        }
    };
    for member in verdict.differing {
        let alarm = AlarmMember {
            alarm: Alarm::Corrupt,
            member,
        };
        if !alarms.contains(alarm) {
            tracing::error!(
                member = format_args!("{member:x}"),
                checksums = ?sums,
                "the data of the members differ"
            );
            change(AlarmAction::Activate, member).await;
        }
    }
    for raised in alarms.iter() {
        let gone = !sums.iter().any(|(id, _)| *id == raised.member);
        let healed = match raised.member {
            // Nobody could say who was wrong; now nobody is.
            0 => verdict.agreeing.len() == sums.len(),
            member => verdict.agreeing.contains(&member) || gone,
        };
        if raised.alarm == Alarm::Corrupt && healed {
            tracing::info!(
                member = format_args!("{:x}", raised.member),
                "the data of the members agree again"
            );
            change(AlarmAction::Deactivate, raised.member).await;
        }
    }
}

/// Compares while this member leads.
pub(crate) async fn follow(engine: Arc<Engine>, checks: Checks) {
    let Some(every) = checks.compare else { return };
    let mut alarms = engine.shared.alarms_notify();
    let raised = |alarms: &crate::state::Alarms| alarms.any(Alarm::Corrupt);
    loop {
        let pause = if raised(&alarms.borrow()) {
            every.min(RECHECK)
        } else {
            every
        };
        tokio::select! {
            () = engine.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            // A shorter pause from here on.
            _ = alarms.wait_for(|alarms| raised(alarms)), if pause == every && every > RECHECK => continue,
        }
        if engine.leadership().borrow().local {
            tokio::select! {
                () = engine.stop.cancelled() => return,
                () = compare(&engine, SILENCE) => {}
            }
        }
    }
}

/// Reads everything now and then, for what damage there may be.
pub(crate) async fn scrub(engine: Arc<Engine>, checks: Checks) {
    let Some(every) = checks.scrub.filter(|_| checks.compare.is_none()) else {
        return;
    };
    loop {
        tokio::select! {
            () = engine.stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        let read = hash_slowly(&engine.shared, None, checks.bytes_per_second);
        tokio::select! {
            () = engine.stop.cancelled() => return,
            // Damage was noted where it was read.
            read = read => drop(read),
        }
    }
}

/// Refuses to serve data that a majority does not have. Members that cannot be asked are no
/// reason to refuse: the whole cluster may be starting.
pub(crate) async fn initial(engine: &Engine) -> Result<()> {
    let sums = tokio::time::timeout(SILENCE, ask_all(engine, SILENCE)).await;
    let sums = sums.unwrap_or_default();
    if judge(&sums).differing.contains(&engine.member_id) {
        return Err(Error::Corrupt(format!(
            "the data of this member ({:x}) differ from those of a majority of the members: {sums:x?}",
            engine.member_id
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_survive_the_way() {
        let point = Point {
            revision: Revision(7),
            compacted: Revision(3),
        };
        assert_eq!(Point::decode(point.encode()), Some(point));
        for garbage in [&b""[..], b"\x01", b"\x02abcdefghabcdefgh"] {
            assert_eq!(Point::decode(Bytes::from_static(garbage)), None);
        }
        for answer in [Answer::Pending, Answer::Sum(u32::MAX), Answer::None] {
            assert_eq!(Answer::decode(answer.encode()), Some(answer));
        }
        assert_eq!(Answer::decode(Bytes::from_static(b"\x09abcd")), None);
    }

    #[test]
    fn who_differs_is_said_only_when_a_majority_agrees() {
        let judged = |sums: &[(u64, Option<u32>)]| {
            let verdict = judge(sums);
            (verdict.differing, verdict.agreeing)
        };
        assert_eq!(judged(&[]), (vec![], vec![]));
        assert_eq!(judged(&[(1, Some(5))]), (vec![], vec![1]));
        let three = |a, b, c| judged(&[(1, a), (2, b), (3, c)]);
        assert_eq!(three(Some(5), Some(5), Some(5)), (vec![], vec![1, 2, 3]));
        assert_eq!(three(Some(5), Some(6), Some(5)), (vec![2], vec![1, 3]));
        assert_eq!(three(Some(5), Some(5), None), (vec![], vec![1, 2]));
        assert_eq!(three(Some(5), Some(6), Some(7)), (vec![0], vec![]));
        // One against one, with the third silent: nobody knows.
        assert_eq!(three(Some(5), Some(6), None), (vec![0], vec![]));
        assert_eq!(three(Some(5), None, None), (vec![], vec![]));
        assert_eq!(judged(&[(1, Some(5)), (2, Some(6))]), (vec![0], vec![]));
    }
}
