//! Embedded etcd: MVCC on Raft, and the etcd v3 API.
//!
//! - [`EtcdBackend`]: the kind of store, as the control plane's registry knows it.
//! - [`open`] and [`StoreConfig`]: one member with prepared settings; [`EtcdStore`] is its
//!   [`Datastore`](trivet_datastore::Datastore) side, and etcd v3 clients are served beside it.
//! - [`import`]: a new store from a genuine etcd's snapshot or directory.
//! - [`state`]: what the log is applied to.
//! - [`proto`] and [`client`]: the etcd v3 messages and a way to talk to an endpoint, ours or a
//!   genuine one.
//!
//! **Invariant:** this crate knows nothing about Kubernetes.

mod aside;
mod auth;
mod backend;
mod bring_up;
mod checks;
pub mod client;
mod codec;
mod compaction;
mod config;
mod engine;
mod etcd_snapshot;
mod failure;
mod format;
mod founding;
mod heal;
mod http;
mod import;
mod lease;
pub mod limits;
mod members;
mod members_file;
mod meter;
mod metered;
mod metrics;
mod open;
mod probe;
pub mod proto;
mod quota;
mod repair;
mod service;
pub mod state;
mod store;
#[doc(hidden)]
pub mod testing;
mod tls;

pub use auth::AuthSettings;
pub use backend::{DEFAULT_QUOTA_BYTES, DEFAULT_WATCH_PROGRESS, DIR, EtcdBackend, NAME};
pub use checks::Checks;
pub use compaction::{AutoCompaction, AutoCompactionError};
pub use config::{ClientListener, Manner, PeerSettings, Serves, StoreConfig, StrictReconfig};
pub use founding::{Founder, Start};
pub use http::SERVER_VERSION;
pub use import::{ImportError, ImportOptions, ImportReport, ImportSource, Progress, import};
pub use open::open;
pub use probe::{K3S_ETCD, UNFINISHED_IMPORT};
pub use repair::{RepairReport, repair};
pub use store::EtcdStore;
pub use trivet_etcd_auth::token::TokenSpec;
pub use trivet_raft_node::{PeerSecurity, REMOVED};
