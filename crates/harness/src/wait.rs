//! Waiting for conditions, with deadlines instead of sleeps.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const POLL: Duration = Duration::from_millis(50);

/// Polls until `condition` holds. Returns how long it took.
pub fn wait_for(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if condition() {
            return Ok(start.elapsed());
        }
        if start.elapsed() > deadline {
            bail!("timed out after {deadline:?} waiting for {what}");
        }
        thread::sleep(POLL);
    }
}

/// Polls until `attempt` yields a value; the last error explains a timeout.
pub fn wait_for_value<T>(
    what: &str,
    deadline: Duration,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > deadline => {
                return Err(
                    error.context(format!("timed out after {deadline:?} waiting for {what}"))
                );
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}
