//! Clusters of real processes on loopback addresses, and the real clients to drive them.
//!
//! Used by `cargo xtask demo`, the cluster scenarios and the benchmarks. Everything is
//! synchronous: it starts, signals and waits for processes. Every server gets its own address
//! in 127.0.0.0/8 and the ordinary ports, so clusters do not get into each other's way.
//!
//! **Invariant:** only processes that were started here are ever signalled.

mod client;
mod cluster;
mod process;
mod wait;

pub use client::{Client, ClientKind, find_etcdctl, find_kubectls, require_clients};
pub use cluster::{Cluster, ClusterOptions, NodeKind, Subnet};
pub use process::Process;
pub use wait::{wait_for, wait_for_value};
