//! bbolt database files (the format of etcd's `member/snap/db` and of its snapshots).
//!
//! - [`Planner`] and [`Writer`]: two passes over the same sorted entries make a file that is
//!   written from front to back. The first pass sees sizes only and finds out where everything
//!   will lie, because the head of the file names its length and the root of its tree; the second
//!   sees the bytes. Both keep one page per level of the tree.
//! - [`Database`] and [`Cursor`]: buckets of a file that somebody else wrote, entry by entry.
//!
//! There are no transactions, and nothing is changed in place: a file is written once or read.
//! Byte tables: `docs/formats/bbolt.md`.
//!
//! **Invariant:** no input makes this crate panic, loop or keep more in memory than one entry and
//! one table of entries per level of the tree. Damage is an error that names page and offset.

mod layout;
mod pack;
mod plan;
mod read;
mod write;

pub use layout::{MAX_KEY_BYTES, PAGE_BYTES};
pub use plan::{Plan, PlanError, Planner};
pub use read::{Bucket, Cursor, Database, Entry, Error, Limits, ReadAt};
pub use write::{WriteError, Writer};
