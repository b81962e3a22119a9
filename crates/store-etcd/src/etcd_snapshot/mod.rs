//! A genuine etcd's database (`docs/formats/bbolt.md`): what is in it, written from our state.
//!
//! - [`schema`]: keys and values of its buckets.
//! - [`write`]: the snapshot that an etcd client asks for.

pub(crate) mod schema;
pub(crate) mod write;
