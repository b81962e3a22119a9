//! Linearizability through revisions, in near-linear time.
//!
//! Every answer names a revision, so the order of things is not searched but given; what is left
//! is to check that it is one that could be:
//!
//! 1. no two writes have the same revision;
//! 2. revisions respect real time: what began after something was over has a later position;
//! 3. every read, lost race and successful expectation agrees with the state at its revision,
//!    which is built from all writes that are known to have happened;
//! 4. nobody saw a value that nobody wrote, and where nobody else writes, every revision is
//!    somebody's.
//!
//! Writes with unknown outcome count as having happened once anybody saw them. One that nobody
//! ever saw can only matter as a delete, and is believed where a free revision allows it: the
//! checker never accuses a correct store.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use trivet_datastore::{Expect, KeyRange, Revision};

use super::record::{History, Outcome, Pair, ReadRecord, Span, WriteRecord};

/// Why a history is impossible for a linearizable store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Two writes were acknowledged with one revision.
    #[error("revision {revision} was given to two writes, of {first:?} and {second:?}")]
    RevisionReused {
        /// The revision.
        revision: Revision,
        /// A key it was given to.
        first: Bytes,
        /// The other.
        second: Bytes,
    },
    /// An operation has a position before something that was over before it began: a stale read,
    /// or a revision that went back.
    #[error("{operation} began after revision {floor} was known, but is at revision {revision}")]
    BackInTime {
        /// What it was.
        operation: String,
        /// The position of the operation.
        revision: Revision,
        /// A position that was already taken when it began.
        floor: Revision,
    },
    /// An answer differs from the state at its revision.
    #[error("{operation} at revision {revision} found {found:?}, but {expected:?} was there")]
    WrongState {
        /// What it was.
        operation: String,
        /// The position of the operation.
        revision: Revision,
        /// What the operation was told.
        found: Option<Pair>,
        /// What the writes say.
        expected: Option<Pair>,
    },
    /// A pair that no write explains.
    #[error("{found:?} was seen, but nobody wrote it")]
    Phantom {
        /// What was seen.
        found: Pair,
    },
    /// A race was reported as lost although the expectation held.
    #[error("{operation} was refused at revision {revision} although its expectation held")]
    FalseConflict {
        /// What it was.
        operation: String,
        /// The position of the operation.
        revision: Revision,
    },
    /// More revisions than writes.
    #[error(
        "{unexplained} revisions up to {last} belong to no write, but only {unknown} writes have unknown outcomes"
    )]
    UnexplainedRevisions {
        /// Revisions without a write.
        unexplained: u64,
        /// Last revision.
        last: Revision,
        /// Writes that may have happened and were not seen.
        unknown: u64,
    },
    /// The last read of all keys is missing from the history.
    #[error("the history has no last read")]
    NoLastRead,
}

/// What is known to have happened at a revision.
#[derive(Debug, Clone)]
struct Fact {
    key: Bytes,
    value: Option<Bytes>,
}

/// Checks a history; `Ok` means that a linearizable store can have produced it.
pub fn check_linearizable(history: &History) -> Result<(), Violation> {
    let last = history.last.as_ref().ok_or(Violation::NoLastRead)?;
    let facts = collect_facts(history, last)?;
    check_real_time(history, last, &facts)?;
    check_states(history, last, &facts)?;
    if history.exclusive {
        check_all_explained(history, last, &facts)
    } else {
        Ok(())
    }
}

type Facts = BTreeMap<Revision, (Fact, Option<u64>)>;

fn all_reads<'a>(
    history: &'a History,
    last: &'a ReadRecord,
) -> impl Iterator<Item = &'a ReadRecord> {
    history.reads.iter().chain([last])
}

/// Acknowledged writes, and writes with unknown outcome that somebody saw. The second part of a
/// fact is when its write began, where that is to be checked against real time.
fn collect_facts(history: &History, last: &ReadRecord) -> Result<Facts, Violation> {
    let mut facts = Facts::new();
    let mut unknown = HashMap::<(&Bytes, &Bytes), &WriteRecord>::new();
    for write in &history.writes {
        match write.outcome {
            Outcome::Ok {
                revision,
                changed: true,
            } => {
                let fact = Fact {
                    key: write.key.clone(),
                    value: write.value.clone(),
                };
                if let Some((other, _)) = facts.insert(revision, (fact, None)) {
                    return Err(Violation::RevisionReused {
                        revision,
                        first: other.key,
                        second: write.key.clone(),
                    });
                }
            }
            Outcome::Unknown => {
                if let Some(value) = &write.value {
                    unknown.insert((&write.key, value), write);
                }
            }
            _ => {}
        }
    }
    let conflicts = history
        .writes
        .iter()
        .filter_map(|write| match &write.outcome {
            Outcome::Conflict {
                observed: Some(observed),
            } => observed.pair.as_ref(),
            _ => None,
        });
    for pair in all_reads(history, last)
        .flat_map(|read| &read.pairs)
        .chain(conflicts)
    {
        if let Some((fact, _)) = facts.get(&pair.mod_revision) {
            if fact.key == pair.key && fact.value.as_ref() == Some(&pair.value) {
                continue;
            }
            return Err(Violation::Phantom {
                found: pair.clone(),
            });
        }
        // Taken out: one write happens once.
        let Some(write) = unknown.remove(&(&pair.key, &pair.value)) else {
            return Err(Violation::Phantom {
                found: pair.clone(),
            });
        };
        let fact = Fact {
            key: pair.key.clone(),
            value: Some(pair.value.clone()),
        };
        facts.insert(pair.mod_revision, (fact, Some(write.span.start_ns)));
    }
    Ok(facts)
}

/// An operation's place in the order: a write stands at its revision, a read behind it.
struct Placed<'a> {
    span: Span,
    revision: Revision,
    write: bool,
    /// May be older than what was known when it began.
    may_be_stale: bool,
    describe: Box<dyn Fn() -> String + 'a>,
}

fn check_real_time(history: &History, last: &ReadRecord, facts: &Facts) -> Result<(), Violation> {
    let mut placed = Vec::new();
    for write in &history.writes {
        let (revision, changed) = match &write.outcome {
            Outcome::Ok { revision, changed } => (*revision, *changed),
            Outcome::Conflict {
                observed: Some(observed),
            } => (observed.revision, false),
            _ => continue,
        };
        placed.push(Placed {
            span: write.span,
            revision,
            write: changed,
            may_be_stale: false,
            describe: Box::new(|| describe_write(write)),
        });
    }
    for (revision, (fact, start_ns)) in facts {
        let Some(start_ns) = *start_ns else { continue };
        placed.push(Placed {
            span: Span {
                start_ns,
                end_ns: u64::MAX,
            },
            revision: *revision,
            write: true,
            may_be_stale: false,
            describe: Box::new(|| format!("write of {:?} with unknown outcome", fact.key)),
        });
    }
    for read in all_reads(history, last) {
        placed.push(Placed {
            span: read.span,
            revision: read.revision,
            write: false,
            may_be_stale: read.serializable,
            describe: Box::new(|| describe_read(read)),
        });
    }
    // Walk through time: starts in order, and before each of them what was over by then.
    let mut ends: Vec<_> = placed.iter().map(|p| (p.span.end_ns, p.revision)).collect();
    ends.sort_unstable();
    placed.sort_by_key(|p| p.span.start_ns);
    let (mut ended, mut floor) = (0, Revision(0));
    for operation in &placed {
        while ended < ends.len() && ends[ended].0 < operation.span.start_ns {
            floor = floor.max(ends[ended].1);
            ended += 1;
        }
        let in_order =
            operation.revision > floor || (operation.revision == floor && !operation.write);
        if !in_order && !operation.may_be_stale {
            return Err(Violation::BackInTime {
                operation: (operation.describe)(),
                revision: operation.revision,
                floor,
            });
        }
    }
    Ok(())
}

/// The keys as the facts up to some revision leave them.
struct Replay<'a> {
    facts: &'a Facts,
    applied: Revision,
    state: BTreeMap<Bytes, (Revision, Option<Bytes>)>,
    /// When deletes with unknown outcome began, by key.
    deletes: HashMap<&'a Bytes, Vec<u64>>,
}

impl<'a> Replay<'a> {
    fn advance(&mut self, to: Revision) {
        if to <= self.applied {
            return;
        }
        for (revision, (fact, _)) in self.facts.range(self.applied.next()..=to) {
            self.state
                .insert(fact.key.clone(), (*revision, fact.value.clone()));
        }
        self.applied = to;
    }

    fn pair(&self, key: &Bytes) -> Option<Pair> {
        let (mod_revision, value) = self.state.get(key)?;
        Some(Pair {
            key: key.clone(),
            value: value.clone()?,
            mod_revision: *mod_revision,
        })
    }

    /// Whether a delete that nobody heard of can explain that a key is gone: it began in time,
    /// and a revision between the last known write and now is nobody's.
    fn may_be_deleted(&self, key: &Bytes, before_ns: u64) -> bool {
        let began = self
            .deletes
            .get(key)
            .is_some_and(|all| all.iter().any(|at| *at <= before_ns));
        let since = self
            .state
            .get(key)
            .map_or(Revision(1), |(revision, _)| *revision);
        let room = self.applied.0.saturating_sub(since.0);
        let taken = if room == 0 {
            0
        } else {
            self.facts.range(since.next()..=self.applied).count()
        };
        began && (taken as u64) < room
    }

    fn compare(
        &self,
        key: &Bytes,
        found: Option<&Pair>,
        end_ns: u64,
        operation: impl Fn() -> String,
    ) -> Result<(), Violation> {
        let expected = self.pair(key);
        if found == expected.as_ref() || (found.is_none() && self.may_be_deleted(key, end_ns)) {
            return Ok(());
        }
        Err(Violation::WrongState {
            operation: operation(),
            revision: self.applied,
            found: found.cloned(),
            expected,
        })
    }

    fn check_read(&self, read: &ReadRecord) -> Result<(), Violation> {
        let found: BTreeMap<_, _> = read.pairs.iter().map(|pair| (&pair.key, pair)).collect();
        let known: Vec<&Bytes> = match &read.range {
            KeyRange::Key(key) => vec![key],
            range => self
                .state
                .keys()
                .filter(|key| range.contains(key))
                .collect(),
        };
        let keys: BTreeSet<&Bytes> = known.into_iter().chain(found.keys().copied()).collect();
        for key in keys {
            let found = found.get(key).copied();
            self.compare(key, found, read.span.end_ns, || describe_read(read))?;
        }
        Ok(())
    }

    /// Compares a write with the state it was done to, which is the one before its revision.
    fn check_write(&self, write: &WriteRecord) -> Result<(), Violation> {
        let end_ns = write.span.end_ns;
        let operation = || describe_write(write);
        match (&write.outcome, write.expect) {
            (Outcome::Ok { changed: false, .. }, _) | (Outcome::Ok { .. }, Expect::Absent) => {
                self.compare(&write.key, None, end_ns, operation)
            }
            (Outcome::Ok { .. }, Expect::ModRevision(expected)) => {
                let current = self.pair(&write.key);
                if current
                    .as_ref()
                    .is_some_and(|pair| pair.mod_revision == expected)
                {
                    return Ok(());
                }
                let found = Pair {
                    key: write.key.clone(),
                    value: Bytes::new(),
                    mod_revision: expected,
                };
                Err(Violation::WrongState {
                    operation: operation(),
                    revision: self.applied,
                    found: Some(found),
                    expected: current,
                })
            }
            (
                Outcome::Conflict {
                    observed: Some(observed),
                },
                expect,
            ) => {
                let found = observed.pair.as_ref();
                let held = match expect {
                    Expect::Any => true,
                    Expect::Absent => found.is_none(),
                    Expect::ModRevision(revision) => {
                        found.is_some_and(|pair| pair.mod_revision == revision)
                    }
                };
                if held {
                    let revision = observed.revision;
                    return Err(Violation::FalseConflict {
                        operation: operation(),
                        revision,
                    });
                }
                self.compare(&write.key, found, end_ns, operation)
            }
            _ => Ok(()),
        }
    }
}

fn check_states(history: &History, last: &ReadRecord, facts: &Facts) -> Result<(), Violation> {
    enum Check<'a> {
        Read(&'a ReadRecord),
        Write(&'a WriteRecord),
    }
    let mut checks: Vec<(Revision, Check<'_>)> = Vec::new();
    for read in all_reads(history, last) {
        checks.push((read.at.unwrap_or(read.revision), Check::Read(read)));
    }
    let mut deletes = HashMap::<&Bytes, Vec<u64>>::new();
    for write in &history.writes {
        match &write.outcome {
            Outcome::Ok {
                revision,
                changed: true,
            } => {
                checks.push((Revision(revision.0.saturating_sub(1)), Check::Write(write)));
            }
            Outcome::Ok {
                revision,
                changed: false,
            } => {
                checks.push((*revision, Check::Write(write)));
            }
            Outcome::Conflict {
                observed: Some(observed),
            } => {
                checks.push((observed.revision, Check::Write(write)));
            }
            Outcome::Unknown if write.value.is_none() => {
                deletes
                    .entry(&write.key)
                    .or_default()
                    .push(write.span.start_ns);
            }
            _ => {}
        }
    }
    checks.sort_by_key(|(revision, _)| *revision);
    let mut replay = Replay {
        facts,
        applied: Revision(0),
        state: BTreeMap::new(),
        deletes,
    };
    for (revision, check) in checks {
        replay.advance(revision);
        match check {
            Check::Read(read) => replay.check_read(read)?,
            Check::Write(write) => replay.check_write(write)?,
        }
    }
    Ok(())
}

fn check_all_explained(
    history: &History,
    last: &ReadRecord,
    facts: &Facts,
) -> Result<(), Violation> {
    let unknown = history
        .writes
        .iter()
        .filter(|w| w.outcome == Outcome::Unknown)
        .count() as u64;
    let seen = facts.values().filter(|(_, start)| start.is_some()).count() as u64;
    let unknown = unknown - seen;
    let revisions = last.revision.0.saturating_sub(Revision::EMPTY_STORE.0);
    let unexplained = revisions.saturating_sub(facts.len() as u64);
    if unexplained > unknown {
        return Err(Violation::UnexplainedRevisions {
            unexplained,
            last: last.revision,
            unknown,
        });
    }
    Ok(())
}

fn describe_write(write: &WriteRecord) -> String {
    let kind = if write.value.is_some() {
        "put"
    } else {
        "delete"
    };
    format!("{kind} of {:?} ({:?})", write.key, write.expect)
}

fn describe_read(read: &ReadRecord) -> String {
    format!("read of {:?}", read.range)
}
