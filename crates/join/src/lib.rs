//! What a machine needs to join a cluster.
//!
//! - [`Token`]: the shared secret in K3s's two forms, and how a full one is put together.
//! - [`Supervisor`]: the client side of a server's supervisor: fetches and pins the cluster's
//!   CA *before* any credential is sent, then offers every call that joining needs.
//! - [`ClusterSettings`]: what all servers must agree on, and how two of them differ.
//! - [`BootstrapBundle`]: the CAs and keys that servers share.
//! - [`ClusterReport`]: what `trivet status` shows.
//! - [`JoinError`]: one variant per way to fail, each with its own message.
//!
//! **Invariant:** secrets are never part of an error, a log line or a `Debug` text.

mod bundle;
mod error;
mod report;
mod settings;
mod supervisor;
mod token;

pub use bundle::{BootstrapBundle, BootstrapFile};
pub use error::{JoinError, Result};
pub use report::{ClusterReport, MemberReport, NodeReport, WaitReport};
pub use settings::{ClusterSettings, SettingDifference};
pub use supervisor::{
    ConnectOptions, DbInfo, DbMember, NodeIdentity, Role, Supervisor, fetch_ca, headers,
};
pub use token::{BootstrapToken, Credentials, Token, TokenError, random_password};
