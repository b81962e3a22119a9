//! Clusters of real processes, driven by real clients: the promises of the README.
//!
//! Each scenario has addresses and directories of its own in 127.0.0.0/8 and may run beside the
//! others; they run one at a time all the same, because a small machine cannot hold several
//! clusters to their deadlines.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a failed step must end the scenario

mod agents;
mod api;
mod boot;
mod etcd;
mod exercise;
mod failover;
mod guard;
mod import;
mod join_failures;
mod kubectl;
mod quorum;
mod support;
