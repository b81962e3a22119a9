//! A genuine etcd's files: its database (`docs/formats/bbolt.md`), written and read, and its log.
//!
//! - [`schema`]: keys and values of its buckets.
//! - [`auth`]: users and roles in it.
//! - [`write`]: the snapshot that an etcd client asks for.
//! - [`read`]: a database as a new state.
//! - [`wal`], [`entry`]: what the log of a stopped member holds beyond its database.

mod auth;
pub(crate) mod entry;
pub(crate) mod read;
pub(crate) mod schema;
pub(crate) mod wal;
pub(crate) mod write;
