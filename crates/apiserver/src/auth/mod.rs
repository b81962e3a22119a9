//! Who is asking, and what they may do.

mod authenticate;
mod authorize;
mod keys;
mod node;
mod token;

use std::fmt;

use async_trait::async_trait;
use http::request::Parts;

pub(crate) use authenticate::Authentication;
pub(crate) use authorize::{Attributes, Decision, authorize, rules_for};
pub use keys::KeyError;
pub(crate) use keys::SigningKey;
pub(crate) use node::check_node_write;
pub(crate) use token::{TokenSubject, issue, verify};

/// Members may do everything.
pub const GROUP_MASTERS: &str = "system:masters";
/// Kubelets.
pub const GROUP_NODES: &str = "system:nodes";
/// Everybody who presented a valid credential.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// Everybody who presented none.
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
/// Prefix of a kubelet's user name.
pub const USER_NODE_PREFIX: &str = "system:node:";
/// The agent's own client in K3s, which reads what a node's network needs.
pub const USER_K3S_CONTROLLER: &str = "system:k3s-controller";

const USER_ANONYMOUS: &str = "system:anonymous";
const USER_INTERNAL: &str = "system:apiserver";

/// An identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserInfo {
    /// User name.
    pub name: String,
    /// Identity that survives a change of name; may be empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further facts, as `SelfSubjectReview` shows them.
    pub extra: Vec<(String, Vec<String>)>,
}

impl UserInfo {
    /// A user in some groups; `system:authenticated` is added.
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().collect();
        if !groups.iter().any(|g| g == GROUP_AUTHENTICATED) {
            groups.push(GROUP_AUTHENTICATED.to_owned());
        }
        Self {
            name: name.into(),
            uid: String::new(),
            groups,
            extra: Vec::new(),
        }
    }

    pub(crate) fn anonymous() -> Self {
        Self {
            name: USER_ANONYMOUS.to_owned(),
            uid: String::new(),
            groups: vec![GROUP_UNAUTHENTICATED.to_owned()],
            extra: Vec::new(),
        }
    }

    /// The server itself.
    pub(crate) fn internal() -> Self {
        Self::new(USER_INTERNAL, [GROUP_MASTERS.to_owned()])
    }

    pub(crate) fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node this identity is the kubelet of.
    pub(crate) fn node(&self) -> Option<&str> {
        if !self.in_group(GROUP_NODES) {
            return None;
        }
        self.name
            .strip_prefix(USER_NODE_PREFIX)
            .filter(|n| !n.is_empty())
    }
}

/// The credential was understood and is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected;

/// A way to authenticate.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// `Ok(None)` when the request carries no credential of this kind, so that the next
    /// authenticator is asked. Secrets must be compared in constant time.
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, Rejected>;
}

impl fmt::Debug for dyn Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authenticator")
    }
}
