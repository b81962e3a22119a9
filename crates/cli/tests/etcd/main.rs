//! `trivet etcd` as processes: alone, in clusters, with members that come and go.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod alone;
mod clusters;
mod command_line;
mod members;
mod support;
mod tls;
