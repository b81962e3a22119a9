//! Power loss under a whole store: Raft, log, values and checkpoints on simulated disks.
//!
//! `TRIVET_TEST_PROFILE=full` runs many more rounds. `TRIVET_TEST_SEED` sets the seed;
//! `TRIVET_TEST_ROUND` runs one round of it again and again. A seed repeats what is done and
//! where the machine dies, counted in changes of the disk; threads interleave as they like.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod disks;
mod model;
mod planted;
mod rounds;
mod single;
mod three;
mod workload;
