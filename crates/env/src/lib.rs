//! The world as values: time, disk and randomness.
//!
//! Everything that must be reproducible in a test takes its world from an [`Env`] instead of
//! reaching for the operating system. The real implementations live here ([`Env::real`]);
//! simulated ones live in `trivet-sim`.
//!
//! There is no network here: the seam for faults on the wire is the message transport of
//! `trivet-raft-node`, which is cheaper to simulate than byte streams. Sleeping is
//! `tokio::time`, which tests pause.
//!
//! **Invariant:** this crate knows nothing about what it is used for.

mod clock;
mod disk;
mod rng;

use std::sync::Arc;

pub use clock::{Clock, RealClock};
pub use disk::{Disk, DiskFile, DiskLock, OpenMode, RealDisk, Space};
pub use rng::{RealRng, Rng};

/// The handles to the world that a component is given.
#[derive(Clone)]
pub struct Env {
    /// Wall-clock and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Files and directories.
    pub disk: Arc<dyn Disk>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
}

impl Env {
    /// The real clock, the real file system and the operating system's randomness.
    pub fn real() -> Self {
        Self {
            clock: Arc::new(RealClock::default()),
            disk: Arc::new(RealDisk),
            rng: Arc::new(RealRng),
        }
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").finish_non_exhaustive()
    }
}
