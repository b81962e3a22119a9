//! What clients were told, and whether it can be true.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use trivet_datastore::{EventKind, Expect, KeyValue, LeaseId, Revision, WatchEvent};

/// A value, or a deletion.
type Change = (Bytes, Option<Bytes>);

/// A write, recorded before it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// What it does to keys; every put has a value unlike any other of the round.
    pub(crate) changes: Vec<Change>,
    /// On the first key.
    pub(crate) expect: Expect,
    /// Of every put.
    pub(crate) lease: Option<LeaseId>,
    pub(crate) outcome: Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Acknowledged, with this revision.
    Done(Revision),
    /// It may have happened.
    Nothing,
    /// It certainly changed nothing.
    Refused,
}

/// All that was seen at some revision.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) revision: Revision,
    /// `None`: everything.
    pub(crate) key: Option<Bytes>,
    pub(crate) pairs: Vec<KeyValue>,
}

/// A round as its clients know it.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) seen: Vec<Seen>,
    /// What watches delivered, by revision; from the first revision on.
    pub(crate) truth: Vec<(Revision, Vec<WatchEvent>)>,
    /// How far the watches have come: everything up to here is in `truth`.
    pub(crate) covered: Revision,
    pub(crate) granted: BTreeSet<LeaseId>,
    pub(crate) revoking: BTreeSet<LeaseId>,
    pub(crate) revoked: BTreeSet<LeaseId>,
    pub(crate) compacted: Revision,
    pub(crate) compacting: Revision,
    /// Newest revision that anybody was told.
    pub(crate) newest: Revision,
    /// A promise that was seen broken at once.
    pub(crate) broken: Option<String>,
}

impl History {
    pub(crate) fn begin(&mut self, attempt: Attempt) -> usize {
        self.attempts.push(attempt);
        self.attempts.len() - 1
    }

    pub(crate) fn learn(&mut self, revision: Revision) {
        self.newest = self.newest.max(revision);
    }

    pub(crate) fn accuse(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// Adds what a watch that goes on at `covered + 1` delivered.
    pub(crate) fn watched(&mut self, upto: Revision, events: Vec<WatchEvent>) {
        for event in events {
            let revision = event.current.mod_revision;
            match self.truth.last_mut() {
                Some((last, events)) if *last == revision && revision > self.covered => {
                    events.push(event);
                }
                _ => self.truth.push((revision, vec![event])),
            }
        }
        self.covered = upto;
        self.learn(upto);
    }
}

#[derive(Debug, Default)]
struct State {
    keys: BTreeMap<Bytes, KeyValue>,
}

impl State {
    fn holds(&self, key: &Bytes, expect: Expect) -> bool {
        match (expect, self.keys.get(key)) {
            (Expect::Any, _) | (Expect::Absent, None) => true,
            (Expect::ModRevision(revision), Some(pair)) => pair.mod_revision == revision,
            _ => false,
        }
    }

    /// What the attempt changes now, if it is carried out.
    fn effect(&self, attempt: &Attempt) -> Option<BTreeMap<Bytes, Option<Bytes>>> {
        if !self.holds(&attempt.changes.first()?.0, attempt.expect) {
            return None;
        }
        let real = |(key, value): &Change| value.is_some() || self.keys.contains_key(key);
        Some(
            attempt
                .changes
                .iter()
                .filter(|c| real(c))
                .cloned()
                .collect(),
        )
    }

    fn attached(&self, lease: LeaseId) -> BTreeSet<&Bytes> {
        let mine = |pair: &&KeyValue| pair.lease == Some(lease);
        self.keys
            .values()
            .filter(mine)
            .map(|pair| &pair.key)
            .collect()
    }

    fn apply(&mut self, event: &WatchEvent) -> Result<(), String> {
        let current = &event.current;
        let before = self.keys.remove(&current.key);
        if event.previous.is_some() && event.previous != before {
            return Err(format!("{event:?} replaced {before:?}"));
        }
        if event.kind == EventKind::Delete {
            return match before {
                Some(_) => Ok(()),
                None => Err(format!("{event:?} deleted nothing")),
            };
        }
        let (create, version) = before.map_or((current.mod_revision, 1), |before| {
            (before.create_revision, before.version + 1)
        });
        if (current.create_revision, current.version) != (create, version) {
            return Err(format!(
                "{current:?} should be version {version} since {create}"
            ));
        }
        self.keys.insert(current.key.clone(), current.clone());
        Ok(())
    }
}

/// Checks everything; `leases` are those that exist at the end.
pub(crate) fn check(history: &History, leases: impl Fn(LeaseId) -> bool) -> Result<(), String> {
    if let Some(broken) = &history.broken {
        return Err(broken.clone());
    }
    let mut done: BTreeMap<Revision, &Attempt> = BTreeMap::new();
    let mut open_puts: HashMap<&Bytes, usize> = HashMap::new();
    let mut open_deletes: Vec<usize> = Vec::new();
    for (number, attempt) in history.attempts.iter().enumerate() {
        match attempt.outcome {
            Told::Done(revision) => {
                if let Some(other) = done.insert(revision, attempt) {
                    return Err(format!("{revision} was given to {attempt:?} and {other:?}"));
                }
            }
            Told::Nothing => {
                let values = attempt.changes.iter().filter_map(|(_, v)| v.as_ref());
                let before = open_puts.len();
                open_puts.extend(values.map(|value| (value, number)));
                if open_puts.len() == before {
                    open_deletes.push(number);
                }
            }
            Told::Refused => {}
        }
    }
    if let Some((revision, lost)) = done.iter().find(|(at, _)| **at > history.covered) {
        return Err(format!(
            "acknowledged at {revision} and lost (the store ends at {}): {lost:?}",
            history.covered
        ));
    }
    let mut seen: Vec<&Seen> = history.seen.iter().collect();
    seen.sort_by_key(|seen| seen.revision);
    let mut seen = seen.into_iter().peekable();
    let mut state = State::default();
    let mut next = Revision::EMPTY_STORE.next();
    for (revision, events) in &history.truth {
        while let Some(seen) = seen.next_if(|seen| seen.revision < *revision) {
            check_seen(seen, &state)?;
        }
        if *revision != next {
            return Err(format!("after revision {} came {revision}", next.0 - 1));
        }
        next = revision.next();
        let found: BTreeMap<Bytes, Option<Bytes>> = events
            .iter()
            .map(|event| {
                let put = event.kind == EventKind::Put;
                let value = put.then(|| event.current.value.clone());
                (event.current.key.clone(), value)
            })
            .collect();
        if found.len() != events.len() {
            return Err(format!("{revision} changes a key twice: {events:?}"));
        }
        let explains = |attempt: &Attempt| state.effect(attempt).as_ref() == Some(&found);
        let mut lease = None;
        if let Some(attempt) = done.remove(revision) {
            if !explains(attempt) {
                return Err(format!("{attempt:?} was acknowledged, {events:?} happened"));
            }
            lease = attempt.lease;
        } else if let Some(value) = found.values().flatten().next() {
            let attempt = open_puts
                .remove(value)
                .map(|number| &history.attempts[number]);
            let Some(attempt) = attempt.filter(|attempt| explains(attempt)) else {
                return Err(format!("{revision}: {events:?} is not what anybody did"));
            };
            lease = attempt.lease;
        } else {
            let keys: BTreeSet<&Bytes> = found.keys().collect();
            let mut revoking = history.revoking.iter();
            let revoked = revoking.any(|lease| state.attached(*lease) == keys);
            // Those first that explain nothing else.
            let explain = |number: &usize, any: bool| {
                let attempt = &history.attempts[*number];
                (attempt.expect == Expect::Any) == any && explains(attempt)
            };
            let place = |any| open_deletes.iter().position(|number| explain(number, any));
            let number = place(false).or_else(|| place(true));
            match number {
                _ if revoked => {}
                Some(number) => drop(open_deletes.remove(number)),
                None => {
                    let touches = |attempt: &&Attempt| {
                        attempt
                            .changes
                            .iter()
                            .any(|(key, _)| found.contains_key(key))
                    };
                    let attempts: Vec<_> = history.attempts.iter().filter(touches).collect();
                    return Err(format!(
                        "{revision}: nobody asked for {events:?}, only for {attempts:?}"
                    ));
                }
            }
        }
        for event in events {
            if event.kind == EventKind::Put && event.current.lease != lease {
                return Err(format!("{event:?} has not the lease {lease:?}"));
            }
            state.apply(event)?;
        }
    }
    if let Some((revision, attempt)) = done.iter().find(|(_, a)| !a.changes.is_empty()) {
        return Err(format!("{attempt:?} left nothing at {revision}"));
    }
    if next != history.covered.next() {
        return Err(format!(
            "the watches say they are at {}, but brought changes up to {}",
            history.covered,
            next.0 - 1
        ));
    }
    for seen in seen {
        if seen.revision > history.covered {
            return Err(format!("{seen:?} is gone: the end is {}", history.covered));
        }
        check_seen(seen, &state)?;
    }
    check_leases(history, &state, leases)
}

fn check_seen(seen: &Seen, state: &State) -> Result<(), String> {
    let there: Vec<&KeyValue> = match &seen.key {
        Some(key) => state.keys.get(key).into_iter().collect(),
        None => state.keys.values().collect(),
    };
    if there.iter().copied().eq(&seen.pairs) {
        return Ok(());
    }
    Err(format!("{seen:?} was seen, {there:?} was there"))
}

fn check_leases(
    history: &History,
    state: &State,
    leases: impl Fn(LeaseId) -> bool,
) -> Result<(), String> {
    for lease in &history.granted {
        let exists = leases(*lease);
        if history.revoked.contains(lease) {
            let keys = state.attached(*lease);
            if exists || !keys.is_empty() {
                return Err(format!("{lease:?} was revoked and lives, with {keys:?}"));
            }
        } else if !exists && !history.revoking.contains(lease) {
            return Err(format!("{lease:?} was granted and is gone"));
        }
    }
    Ok(())
}
