//! A clock that moves when told to.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use trivet_env::Clock;

/// Wall-clock and monotonic time that change only by [`SimClock::advance`] and
/// [`SimClock::set_wall`].
#[derive(Debug)]
pub struct SimClock {
    now: Mutex<(SystemTime, Duration)>,
}

impl SimClock {
    /// A clock that shows `wall`; its monotonic time starts at zero.
    pub fn new(wall: SystemTime) -> Self {
        Self {
            now: Mutex::new((wall, Duration::ZERO)),
        }
    }

    /// Moves both times forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.0 += by;
        now.1 += by;
    }

    /// Sets the wall clock alone, forward or back, as an administrator or NTP would.
    pub fn set_wall(&self, wall: SystemTime) {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).0 = wall;
    }
}

impl Clock for SimClock {
    fn wall(&self) -> SystemTime {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn monotonic(&self) -> Duration {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_jump_leaves_monotonic_time_alone() {
        let clock = SimClock::new(SystemTime::UNIX_EPOCH);
        clock.advance(Duration::from_secs(5));
        clock.set_wall(SystemTime::UNIX_EPOCH);
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
        assert_eq!(clock.wall(), SystemTime::UNIX_EPOCH);
    }
}
