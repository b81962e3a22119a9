//! Records of what clients did and saw, and checkers over them.
//!
//! Plain data and pure functions: a record may come from a [`Datastore`](trivet_datastore::Datastore)
//! in the same process, from an etcd client or from a Kubernetes client.
//!
//! What a workload has to do for the checkers to be sharp: give every put a value of its own,
//! and end with one read of everything it touched after the last operation is over.

mod linearizability;
mod record;
mod watch;

pub use linearizability::{Violation, check_linearizable};
pub use record::{
    Change, History, Observed, Outcome, Pair, ReadRecord, Span, WatchRecord, WriteRecord,
};
pub use watch::{WatchViolation, check_coverage, check_resumed, check_watch};
