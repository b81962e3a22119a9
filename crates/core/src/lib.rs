//! The embeddable Trivet control plane.
//!
//! ```no_run
//! # async fn example(store: std::sync::Arc<dyn trivet_datastore::Datastore>) -> Result<(), Box<dyn std::error::Error>> {
//! use trivet_core::ControlPlane;
//!
//! let running = ControlPlane::builder()
//!     .data_dir("/var/lib/example")
//!     .datastore(store)
//!     .node_name("example")
//!     .bind([127, 0, 0, 1].into(), 0)
//!     .build()?
//!     .start()
//!     .await?;
//! running.ready().await;
//! println!("the Kubernetes API is at {}", running.url());
//! running.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! - [`ControlPlane::builder`] takes everything a server must know; `build` checks it without
//!   I/O; `start` founds a cluster, joins one or resumes, and gives a [`Running`].
//! - [`StartError`] and [`BuildError`] say what went wrong and what to do; the former knows the
//!   exit code of a program that ends for it.
//! - [`status`] and [`administrator`] ask a running server; [`tokens`] reads and makes tokens.
//!
//! **Invariants:** no backend is named here. Nothing reads the environment, installs a logger,
//! a signal handler or a process-wide TLS default, and nothing is global: several control
//! planes can run in one process, on the caller's runtime. Nothing is written before every
//! check that can be made beforehand has passed.

mod admin;
mod bootstrap;
mod config;
mod error;
mod files;
mod founding;
mod guard;
mod identity;
mod joining;
mod kube;
mod kubeconfig;
mod layout;
mod life;
mod passwd;
mod remembered;
mod roles;
mod running;
mod shared;
mod start;
mod supervisor;
pub mod tokens;

pub use admin::{StatusError, administrator, status};
pub use config::{ControlPlaneBuilder, StorePorts};
pub use error::{BuildError, StartError};
pub use running::Running;
pub use trivet_join::{ClusterReport, ClusterSettings, MemberReport, NodeReport, WaitReport};

/// The Kubernetes version that is reported.
pub const VERSION: &str = "v1.35.0+trivet1";

/// A control plane that is about to start.
#[must_use]
pub struct ControlPlane {
    config: config::Config,
}

impl ControlPlane {
    /// Settings, to be filled in.
    pub fn builder() -> ControlPlaneBuilder {
        ControlPlaneBuilder::new()
    }

    pub(crate) fn new(config: config::Config) -> Self {
        Self { config }
    }

    pub(crate) fn into_config(self) -> config::Config {
        self.config
    }
}

impl std::fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlPlane")
            .field("node_name", &self.config.node_name)
            .finish_non_exhaustive()
    }
}
