//! When leases end, as the leader counts it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trivet_datastore::LeaseId;

/// An expired lease is reported again after this time if it was not revoked meanwhile.
const RETRY: Duration = Duration::from_secs(3);

/// After a change of leader no more than this many leases end in the same second.
const MAX_EXPIRIES_PER_SECOND: usize = 750;

/// The answer to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Renewed for this long.
    Renewed(Duration),
    /// Over, though not yet revoked; it cannot be renewed any more.
    Expired,
    /// There is no such lease.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
struct Timer {
    ttl: Duration,
    /// When the lease ends.
    deadline: Duration,
    /// Where it stands in the queue: the deadline, or later when it was reported already.
    due: Duration,
}

/// The leader's book of when leases end. Pure: every call is told what time it is, as the
/// distance from some fixed origin that never jumps.
///
/// A lease never ends early: a new leader knows nothing of renewals and gives every lease the
/// time that it is known to have at least, as a rule its full time.
#[derive(Debug, Default)]
pub struct LeaseClock {
    timers: BTreeMap<LeaseId, Timer>,
    queue: BTreeSet<(Duration, LeaseId)>,
}

impl LeaseClock {
    /// A clock without leases.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This member has become leader: every lease gets the time that it is known to have at
    /// least (the third of each; the second is its full time) and `extra` on top. Where too many
    /// would end in one second, the rest end later.
    pub fn promote(
        &mut self,
        leases: impl IntoIterator<Item = (LeaseId, Duration, Duration)>,
        extra: Duration,
        now: Duration,
    ) {
        self.demote();
        let mut leases: Vec<_> = leases.into_iter().collect();
        leases.sort_unstable_by_key(|(id, _, left)| (*left, *id));
        let (mut second, mut in_second) = (0, 0);
        for (id, ttl, left) in leases {
            let own = (now + left + extra).as_secs();
            if own > second {
                (second, in_second) = (own, 0);
            } else if in_second == MAX_EXPIRIES_PER_SECOND {
                (second, in_second) = (second + 1, 0);
            }
            in_second += 1;
            let deadline = now + left + extra + Duration::from_secs(second - own);
            self.set(
                id,
                Timer {
                    ttl,
                    deadline,
                    due: deadline,
                },
            );
        }
    }

    /// This member is not the leader any more.
    pub fn demote(&mut self) {
        self.timers.clear();
        self.queue.clear();
    }

    /// A lease was created.
    pub fn grant(&mut self, id: LeaseId, ttl: Duration, now: Duration) {
        self.set(
            id,
            Timer {
                ttl,
                deadline: now + ttl,
                due: now + ttl,
            },
        );
    }

    /// A lease is gone.
    pub fn revoked(&mut self, id: LeaseId) {
        if let Some(timer) = self.timers.remove(&id) {
            self.queue.remove(&(timer.due, id));
        }
    }

    /// Gives a lease its full time again, unless that is over.
    pub fn renew(&mut self, id: LeaseId, now: Duration) -> Renewal {
        let Some(timer) = self.timers.get(&id).copied() else {
            return Renewal::Unknown;
        };
        if timer.deadline <= now {
            return Renewal::Expired;
        }
        let deadline = now + timer.ttl;
        self.set(
            id,
            Timer {
                deadline,
                due: deadline,
                ..timer
            },
        );
        Renewal::Renewed(timer.ttl)
    }

    /// Time left; zero when it is over but the lease is not yet revoked.
    #[must_use]
    pub fn remaining(&self, id: LeaseId, now: Duration) -> Option<Duration> {
        self.timers
            .get(&id)
            .map(|timer| timer.deadline.saturating_sub(now))
    }

    /// Leases to revoke now, the most overdue first. A lease that is not revoked is reported
    /// again after 3 s.
    pub fn expired(&mut self, now: Duration, limit: usize) -> Vec<LeaseId> {
        let mut expired = Vec::new();
        while expired.len() < limit
            && let Some(&(due, id)) = self.queue.first()
            && due <= now
        {
            if let Some(timer) = self.timers.get(&id).copied() {
                self.set(
                    id,
                    Timer {
                        due: now + RETRY,
                        ..timer
                    },
                );
            } else {
                self.queue.remove(&(due, id));
            }
            expired.push(id);
        }
        expired
    }

    /// Leases of at least `ttl`, with the time they have left.
    pub fn long_ones(
        &self,
        ttl: Duration,
        now: Duration,
    ) -> impl Iterator<Item = (LeaseId, Duration)> {
        self.timers
            .iter()
            .filter(move |(_, timer)| timer.ttl >= ttl)
            .map(move |(&id, timer)| (id, timer.deadline.saturating_sub(now)))
    }

    /// When to call [`LeaseClock::expired`] next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Number of leases.
    #[must_use]
    pub fn len(&self) -> usize {
        self.timers.len()
    }

    /// Whether there is no lease.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.timers.is_empty()
    }

    fn set(&mut self, id: LeaseId, timer: Timer) {
        if let Some(old) = self.timers.insert(id, timer) {
            self.queue.remove(&(old.due, id));
        }
        self.queue.insert((timer.due, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_ends_on_time_and_is_reported_until_revoked() {
        let mut clock = LeaseClock::new();
        clock.grant(LeaseId(1), s(10), s(100));
        assert_eq!(clock.expired(s(109), 10), []);
        assert_eq!(clock.next_deadline(), Some(s(110)));
        assert_eq!(clock.expired(s(110), 10), [LeaseId(1)]);
        assert_eq!(clock.expired(s(112), 10), []);
        assert_eq!(clock.expired(s(113), 10), [LeaseId(1)]);
        assert_eq!(clock.remaining(LeaseId(1), s(113)), Some(Duration::ZERO));
        clock.revoked(LeaseId(1));
        assert_eq!(clock.expired(s(1000), 10), []);
        assert_eq!(clock.remaining(LeaseId(1), s(113)), None);
    }

    #[test]
    fn renewal_gives_the_full_time_but_not_after_the_end() {
        let mut clock = LeaseClock::new();
        clock.grant(LeaseId(1), s(10), s(0));
        assert_eq!(clock.renew(LeaseId(1), s(9)), Renewal::Renewed(s(10)));
        assert_eq!(clock.remaining(LeaseId(1), s(10)), Some(s(9)));
        assert_eq!(clock.renew(LeaseId(1), s(19)), Renewal::Expired);
        assert_eq!(clock.renew(LeaseId(2), s(19)), Renewal::Unknown);
    }

    #[test]
    fn a_new_leader_gives_full_time_and_spreads_the_ends() {
        let mut clock = LeaseClock::new();
        let leases = (0..2000).map(|id| (LeaseId(id), s(5), s(5)));
        clock.promote(leases, s(1), s(50));
        assert_eq!(clock.expired(s(55), 5000), []);
        assert_eq!(clock.expired(s(56), 5000).len(), 750);
        assert_eq!(clock.expired(s(57), 5000).len(), 750);
        assert_eq!(clock.expired(s(58), 5000).len(), 500);
        clock.demote();
        assert!(clock.is_empty());
    }

    #[test]
    fn time_known_to_be_left_is_what_a_new_leader_gives_until_the_next_renewal() {
        let mut clock = LeaseClock::new();
        let leases = [(LeaseId(1), s(600), s(20)), (LeaseId(2), s(10), s(10))];
        clock.promote(leases, s(1), s(100));
        assert_eq!(clock.expired(s(111), 9), [LeaseId(2)]);
        assert_eq!(clock.remaining(LeaseId(1), s(111)), Some(s(10)));
        assert_eq!(
            clock.long_ones(s(300), s(111)).collect::<Vec<_>>(),
            [(LeaseId(1), s(10))]
        );
        assert_eq!(clock.renew(LeaseId(1), s(112)), Renewal::Renewed(s(600)));
        assert_eq!(clock.remaining(LeaseId(1), s(112)), Some(s(600)));
    }

    #[test]
    fn no_more_than_asked_for_are_reported() {
        let mut clock = LeaseClock::new();
        for id in 0..10 {
            clock.grant(LeaseId(id), s(1), s(0));
        }
        assert_eq!(clock.expired(s(2), 4).len(), 4);
        assert_eq!(clock.expired(s(2), 100).len(), 6);
    }
}
