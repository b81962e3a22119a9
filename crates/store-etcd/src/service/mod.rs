//! The etcd v3 gRPC services.
//!
//! [`front`] sorts requests, one module per service answers them, [`convert`] and [`status`]
//! translate between the wire and the algebra.

mod auth;
mod authority;
mod cluster;
mod coalesce;
pub(crate) mod convert;
mod election;
mod front;
mod gate;
mod gateway;
mod health;
mod kv;
mod lease;
mod listen;
mod local;
mod lock;
mod maintenance;
mod queue;
mod reconfig;
mod rpc;
mod snapshot;
mod status;
mod watch;
mod watch_group;
mod watch_stream;

pub(crate) use auth::AuthService;
pub(crate) use cluster::ClusterService;
pub(crate) use convert::wire;
pub(crate) use election::ElectionService;
pub(crate) use front::Front;
pub(crate) use gate::Gate;
pub(crate) use health::HealthService;
pub(crate) use kv::KvService;
pub(crate) use lease::LeaseService;
pub(crate) use listen::{ForClient, Listener};
pub(crate) use lock::LockService;
pub(crate) use maintenance::MaintenanceService;
pub(crate) use rpc::{Kind, LEASE_KEEP_ALIVE, RPCS, RpcId, WATCH_WATCH};
pub(crate) use status::Refusal;
pub(crate) use watch::WatchService;

use std::pin::Pin;

use futures_core::Stream;
use tonic::{Request, Status};

/// A stream of responses.
pub(crate) type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Whether the caller wants its stream to end when there is no leader.
fn requires_leader<T>(request: &Request<T>) -> bool {
    request
        .metadata()
        .get("hasleader")
        .is_some_and(|value| value.as_bytes() == b"true")
}
