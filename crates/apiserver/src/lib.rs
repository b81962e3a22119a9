//! The Kubernetes API over any [`Datastore`](trivet_datastore::Datastore).
//!
//! * [`ApiServer`]: made from an [`ApiConfig`], started, then asked with
//!   [`ApiServer::handle`] until [`ApiServer::shutdown`].
//! * One pipeline for every kind: `pipeline` (filters) to `verbs` (one function per verb) to
//!   `registry` (one read path, one write path) and back through `respond`.
//! * `cache`: all objects as ready JSON bytes, kept current by one store watch; lists and
//!   watches copy memory.
//! * `controllers`: what a cluster needs besides the API itself: bootstrap objects, namespace
//!   deletion, garbage collection, node life cycle, endpoints of Service `kubernetes`,
//!   compaction.
//! * [`Client`]: the same objects for the rest of the program, without HTTP.
//!
//! What it does not do yet: `metadata.managedFields` is neither recorded nor kept, server-side
//! apply is answered with 415, and rights are rules in code instead of RBAC objects.
//!
//! **Invariants:** no backend is named here; no handler exists for a single kind (rules of
//! single kinds are in `registry::kinds` and in `trivet-kube-schema`); nothing is global.

mod auth;
mod body;
mod cache;
mod client;
mod config;
mod controllers;
mod list;
mod negotiate;
mod paths;
mod pipeline;
mod registry;
mod request;
mod respond;
mod reviews;
mod select;
mod server;
mod verbs;
mod watch;

pub use auth::{
    Authenticator, GROUP_AUTHENTICATED, GROUP_MASTERS, GROUP_NODES, GROUP_UNAUTHENTICATED,
    KeyError, Rejected, USER_K3S_CONTROLLER, USER_NODE_PREFIX, UserInfo,
};
pub use body::Body;
pub use client::{Client, Resource};
pub use config::{
    ApiConfig, ClientCertificate, Limits, NetworkConfig, ServiceAccountConfig, Timings, VersionInfo,
};
pub use server::{ApiServer, StartError};
pub use trivet_kube_schema::Status;
