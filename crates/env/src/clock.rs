//! Time.

use std::time::{Duration, SystemTime};

/// Wall-clock time, and monotonic time as a distance from an arbitrary fixed origin.
///
/// Timers and sleeps are `tokio::time`; this trait is for *reading* time.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time. May jump in both directions; never use it to measure a duration.
    fn wall(&self) -> SystemTime;

    /// Monotonic time since an origin that is fixed for the life of the clock.
    fn monotonic(&self) -> Duration;
}

/// The operating system's clocks. Monotonic time follows `tokio::time`, so that a paused
/// tokio clock is seen here too.
#[derive(Debug)]
pub struct RealClock {
    origin: tokio::time::Instant,
}

impl Default for RealClock {
    fn default() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
        }
    }
}

impl Clock for RealClock {
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }
}
