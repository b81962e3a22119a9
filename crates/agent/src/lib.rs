//! The part of Trivet that makes a machine a node.
//!
//! An [`Agent`] proves to the cluster who it is (token, then a certificate of its own),
//! registers its Node with facts read from the machine, renews its Lease, and keeps the node's
//! status true. On workers it runs the [`Balancer`] through which everything on the machine
//! reaches the cluster's servers, so that the loss of any one server goes unnoticed.
//!
//! **Invariant:** it never runs a pod and never claims to: without a container runtime the node
//! carries a taint and says so in its Ready condition.

mod agent;
mod api;
mod balancer;
mod credentials;
mod files;
mod heartbeat;
mod identity;
mod machine;
mod node;

pub use agent::{Agent, AgentConfig, AgentError, Connection};
pub use balancer::{Balancer, StateError};
pub use identity::{IdentityError, default_dir, node_name, node_password};
pub use machine::{Machine, default_address, host_name};
pub use node::{NO_RUNTIME_TAINT, NodeConfig, Taint, parse_label};
