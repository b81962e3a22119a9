//! The consensus library, fenced in.
//!
//! Nothing outside this module and the node's own wiring names a type of the library. What
//! reaches the disk or the wire goes through [`codec`].

pub(crate) mod codec;
pub(crate) mod fetch;
pub(crate) mod log;
pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod snapshot;
#[cfg(test)]
mod suite;
mod types;

pub(crate) use types::{
    Commands, LogId, Member, Membership, Raft, Responses, Snapshot, SnapshotMeta, StoredMembership,
    TypeConfig, Vote, from_position, to_position,
};
