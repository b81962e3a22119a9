//! k3OS-style configuration files: understood completely or explained completely.
//!
//! - [`check`]: one file, every finding with its exact place, and what the file says.
//! - [`cluster`]: the files of several nodes beside each other.
//! - [`merge`]: all sources of one node, weakest first, and where each value came from.
//! - [`render`]: what a configuration leads to.
//! - [`Start`]: the server or agent that a configuration starts.
//!
//! Everything here is a function of bytes; reading files is the caller's business.

mod check;
pub mod cluster;
mod cmdline;
mod config;
mod files;
mod finding;
mod flags;
pub mod merge;
pub mod render;
mod repair;
mod scalar;
mod schema;
mod secrets;
mod source;
mod spelling;
mod ssh;
mod start;
mod tree;
mod yaml;

pub use check::{Report, check, check_command_line};
pub use config::{Document, Item, Origin, Record, Setting, Value};
pub use files::PlannedFile;
pub use finding::{Finding, Kind, Severity};
pub use secrets::MASK;
pub use source::{MAX_BYTES, Position};
pub use ssh::AuthorizedKey;
pub use start::{Role, Start};
pub use yaml::to_yaml;
