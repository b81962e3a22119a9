//! A segmented write-ahead log with group commit.
//!
//! One log holds numbered entries (index, term, opaque payload) and a handful of small named
//! values ("meta": a vote, a commit index) in one stream, so that their order survives a
//! crash. One thread writes: it takes everything that waits, encodes it, writes it in one
//! piece and syncs once; callbacks follow in order. Entries can be read as soon as
//! [`Wal::append`] has returned.
//!
//! # What it promises
//! - A callback with `Ok` means durable; reopening finds everything acknowledged, nothing
//!   half, and no hole, after any crash that only lost what was not synced.
//! - A failed write or sync is final. Nothing is retried; everybody waiting is told.
//! - Damage is told from a torn tail and reported with file and byte, never cut. The one
//!   exception is the last batch written before a crash: see `docs/formats/wal.md`.
//!
//! # What it leaves to others
//! Meaning of payloads and terms, async (callbacks fit a oneshot channel), and everything that
//! a [`Disk`](trivet_env::Disk) does. The byte format is in `docs/formats/wal.md`.

mod error;
mod files;
mod format;
mod open;
mod prepare;
mod read;
mod recover;
mod shared;
mod survey;
mod types;
mod view;
mod wal;
mod window;
mod writer;

pub use error::{Error, Result};
pub use survey::{DamagedPlace, Stretch, Survey, survey};
pub use types::{
    APPEND_BYTES_MAX, Callback, ENTRY_OVERHEAD_BYTES, Entry, LogState, META_BYTES_MAX, MetaKind,
    Position, Recovered, WalOptions,
};
pub use wal::Wal;
