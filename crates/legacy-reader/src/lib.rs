//! The datastores of old K3s servers: recognised, and read without being touched.
//!
//! | module | what it reads |
//! |---|---|
//! | [`dqlite`] | a dqlite directory of K3s v1.0 to v1.18: snapshots and log, replayed page by page |
//! | [`sqlite`] | a plain SQLite file of kine, with its write-ahead log |
//! | [`kine`] | the rows in either |
//! | [`survey`] | a `server/db` directory: whose data is it, how much, what is damaged |
//!
//! Everything is read through [`ReadOnlyDir`](trivet_datastore::ReadOnlyDir), which cannot
//! write; [`Directory`] is the one of the file system. Databases are rebuilt in scratch files,
//! page by page: memory does not grow with the data. What is damaged is named with file and
//! offset ([`Damage`]), and a transaction is used as a whole or not at all.

mod command;
mod configuration;
mod crc;
mod damage;
pub mod dqlite;
mod image;
mod input;
pub mod kine;
mod metadata;
mod names;
mod probe;
mod segment;
mod snapshot;
pub mod sqlite;
mod sqlite_wal;
pub mod survey;
#[cfg(test)]
mod tests;

pub use configuration::Server;
pub use damage::{Damage, ReadError};
pub use dqlite::Dqlite;
pub use input::Directory;
pub use kine::{Kine, LiveKey, Row, Schema, Summary};
pub use metadata::Metadata;
pub use probe::LegacyProbe;
pub use sqlite::Sqlite;
