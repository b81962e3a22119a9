//! Raft consensus behind one adapter.
//!
//! Bytes in, bytes out: a [`StateMachine`] applies batches of opaque commands; [`RaftNode`]
//! replicates them, forwards proposals to the leader, serves linearizable read points on every
//! member, moves snapshots and changes membership one safe step at a time. The consensus
//! library, the log format and the peer protocol are hidden here.
//!
//! **Invariants:** no type of the consensus library appears in a public signature or on disk.
//! This crate does not know what a command means.

mod alone;
mod api;
mod batch;
mod bring_up;
mod change;
mod consensus;
mod contact;
mod discover;
mod failure;
mod forget;
mod join;
mod lane;
mod line;
mod membership;
mod node;
mod peers;
mod propose;
mod salvage;
mod service;
mod shared;
mod start;
mod tasks;
#[doc(hidden)]
pub mod testing;

pub use api::{
    AppliedBatch, ClusterView, Error, LeaderQuery, LogFacts, LogPosition, NodeConfig, NodeStatus,
    Peer, PeerRole, PeerSecurity, PeerStatus, REMOVED, Result, SnapshotSource, StartMode,
    StateMachine,
};
pub use discover::ask_members;
pub use node::{Leadership, RaftNode};
pub use salvage::{Salvage, commands, rebuild, salvage};
