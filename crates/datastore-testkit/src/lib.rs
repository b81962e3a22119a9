//! What every [`Datastore`](trivet_datastore::Datastore) must pass.
//!
//! - [`conformance!`] makes a test of every promise, for any backend that can give a [`Subject`].
//! - [`model`] drives a store and [`MemoryStore`](trivet_datastore::MemoryStore) with the same
//!   random operations and compares; it is one of these tests.
//! - [`history`] holds the checkers for linearizability and watches, as pure functions over plain
//!   records, for fault tests with clients of any kind. [`Recorder`] makes such records.
//!
//! ```text
//! async fn factory() -> MySubject { /* opens an empty store */ }
//! trivet_datastore_testkit::conformance!(factory);
//! ```
//!
//! Random cases name their seed when they fail; `TRIVET_TESTKIT_SEED` repeats it.
//!
//! **Invariant:** no shipped crate depends on this one.

mod cases;
mod client;
pub mod history;
mod list;
pub mod model;
mod run;
mod subject;
mod workload;

pub use run::{Case, Verdict, cases, run_case, run_test};
pub use subject::{Limits, Stop, Subject, Support};
pub use workload::Recorder;
