//! Proof by comparison: the same operations go to our store and to a genuine etcd, both fresh,
//! and every answer must be the same.
//!
//! - [`Dice`] and [`Generator`]: seeded operations over the whole client API, hostile ones
//!   included.
//! - [`Op`] and [`Answer`]: an operation, and what came back with everything masked that a
//!   server may choose freely (ids of members and leases, terms, sizes). Revisions are not
//!   masked: both stores start at 1 and get the same operations.
//! - [`Side`]: one server and what is known about it, with its watch streams.
//! - [`differences`]: the only things in which the two may differ, each with its reason.
//! - [`run()`]: the comparison; [`shrink`]: the shortest run that still shows a mismatch.
//!
//! **Invariant:** never a dependency of shipped code.

mod answer;
mod dice;
pub mod differences;
mod generate;
mod history;
mod names;
mod op;
mod raw;
mod run;
mod servers;
pub mod shrink;
mod side;
mod stream;
mod ties;

pub use answer::Answer;
pub use dice::Dice;
pub use generate::{Generator, View};
pub use op::{Op, WatchStep};
pub use run::{Mismatch, Report, Source, run};
pub use servers::{Genuine, Ours, find_etcd};
pub use side::Side;
