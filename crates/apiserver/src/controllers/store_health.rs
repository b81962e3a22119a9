//! When the store last worked, as seen by the regular renewal of this server's entry.
//!
//! While the store does not work nobody can renew anything: silence from that time proves
//! nothing about anybody.

use std::sync::Mutex;
use std::time::Duration;

/// How much later than planned a success may come without meaning an outage.
const SLACK: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
struct State {
    last_success: Option<Duration>,
    failed: bool,
    outage_end: Duration,
}

/// Outages of the store, in monotonic time.
#[derive(Debug, Default)]
pub(super) struct StoreHealth(Mutex<State>);

impl StoreHealth {
    /// A planned renewal, due every `period`, succeeded at `now`.
    pub(super) fn success(&self, now: Duration, period: Duration) {
        let mut state = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let late = state
            .last_success
            .is_none_or(|last| now.saturating_sub(last) > period + SLACK);
        if late || std::mem::take(&mut state.failed) {
            state.outage_end = now;
        }
        state.last_success = Some(now);
    }

    /// A renewal failed.
    pub(super) fn failure(&self) {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .failed = true;
    }

    /// Since when the store has worked without interruption; `None` when it may not work now.
    pub(super) fn works_since(&self, now: Duration, period: Duration) -> Option<Duration> {
        let state = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let recent = state
            .last_success
            .is_some_and(|last| now.saturating_sub(last) <= period + SLACK);
        (recent && !state.failed).then_some(state.outage_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outages_are_failures_and_gaps() {
        let health = StoreHealth::default();
        let (at, period) = (Duration::from_secs, Duration::from_secs(5));
        assert_eq!(health.works_since(at(0), period), None);
        health.success(at(1), period);
        health.success(at(6), period);
        assert_eq!(health.works_since(at(7), period), Some(at(1)));
        // A call that hangs is an outage as much as one that fails.
        assert_eq!(health.works_since(at(60), period), None);
        health.success(at(60), period);
        assert_eq!(health.works_since(at(60), period), Some(at(60)));
        health.failure();
        assert_eq!(health.works_since(at(61), period), None);
        health.success(at(62), period);
        assert_eq!(health.works_since(at(62), period), Some(at(62)));
    }
}
