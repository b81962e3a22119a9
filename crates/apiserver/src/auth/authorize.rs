//! What an identity may do: fixed rules, with RBAC's vocabulary.
//!
//! * `system:masters`: everything.
//! * `system:nodes`: what a kubelet needs, limited to the node itself (see [`super::node`]).
//! * `system:k3s-controller`: read what a node's network needs.
//! * Everybody authenticated: discovery, and questions about themselves.
//! * Everybody: `/version` and health.
//!
//! Service accounts have no rights beyond "authenticated" as long as roles are not objects.

use serde_json::{Value, json};

use super::{GROUP_AUTHENTICATED, GROUP_MASTERS, USER_K3S_CONTROLLER, UserInfo, node};
use crate::cache::Cache;

/// A request, as rules see it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes<'a> {
    pub(crate) verb: &'a str,
    /// Set for requests that are not about resources; the other fields are empty then.
    pub(crate) path: Option<&'a str>,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// `spec.nodeName=` of the field selector, for lists and watches.
    pub(crate) node_name: &'a str,
}

/// Allowed or not, and why not if there is more to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    pub(crate) reason: String,
}

impl Decision {
    pub(crate) fn allow() -> Self {
        Self {
            allowed: true,
            reason: String::new(),
        }
    }

    pub(crate) fn no_opinion() -> Self {
        Self {
            allowed: false,
            reason: String::new(),
        }
    }

    pub(crate) fn deny(reason: impl Into<String>) -> Self {
        Self {
            allowed: false,
            reason: reason.into(),
        }
    }
}

const PUBLIC_PATHS: &[&str] = &["/version", "/healthz", "/livez", "/readyz"];
const DISCOVERY_PATHS: &[&str] = &[
    "/api",
    "/apis",
    "/openapi",
    "/version",
    "/.well-known/openid-configuration",
    "/openid/v1/jwks",
];
const HEALTH_PREFIXES: &[&str] = &["/healthz/", "/livez/", "/readyz/"];
const SELF_REVIEWS: &[(&str, &str)] = &[
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
];
/// Group and resources that the K3s agent's own client reads.
const CONTROLLER_READS: &[(&str, &str)] = &[
    ("", "nodes"),
    ("", "namespaces"),
    ("", "services"),
    ("", "endpoints"),
    ("", "pods"),
    ("discovery.k8s.io", "endpointslices"),
];

/// Decides.
pub(crate) fn authorize(user: &UserInfo, asked: &Attributes<'_>, cache: &Cache) -> Decision {
    if user.in_group(GROUP_MASTERS) {
        return Decision::allow();
    }
    let authenticated = user.in_group(GROUP_AUTHENTICATED);
    if let Some(path) = asked.path {
        let read = matches!(asked.verb, "get" | "head");
        let public = PUBLIC_PATHS.contains(&path);
        let discovery = authenticated
            && (DISCOVERY_PATHS.iter().any(|p| below(path, p))
                || HEALTH_PREFIXES.iter().any(|p| path.starts_with(p)));
        return if read && (public || discovery) {
            Decision::allow()
        } else {
            Decision::no_opinion()
        };
    }
    if authenticated
        && asked.verb == "create"
        && SELF_REVIEWS.contains(&(asked.group, asked.resource))
    {
        return Decision::allow();
    }
    if let Some(node) = user.node() {
        return node::authorize(node, asked, cache);
    }
    if user.name == USER_K3S_CONTROLLER
        && matches!(asked.verb, "get" | "list" | "watch")
        && asked.subresource.is_empty()
        && CONTROLLER_READS.contains(&(asked.group, asked.resource))
    {
        return Decision::allow();
    }
    Decision::no_opinion()
}

fn below(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The rules that hold for a user, as `SelfSubjectRulesReview` lists them: resource rules and
/// path rules.
pub(crate) fn rules_for(user: &UserInfo) -> (Vec<Value>, Vec<Value>) {
    let rule = |verbs: &[&str], groups: &[&str], resources: &[&str]| json!({"verbs": verbs, "apiGroups": groups, "resources": resources});
    let mut resources = Vec::new();
    let mut paths = Vec::new();
    if user.in_group(GROUP_MASTERS) {
        resources.push(rule(&["*"], &["*"], &["*"]));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    paths.push(json!({"verbs": ["get"], "nonResourceURLs": PUBLIC_PATHS}));
    if user.in_group(GROUP_AUTHENTICATED) {
        let mut all: Vec<String> = Vec::new();
        for path in DISCOVERY_PATHS {
            all.push((*path).to_owned());
            all.push(format!("{path}/*"));
        }
        all.extend(HEALTH_PREFIXES.iter().map(|p| format!("{p}*")));
        paths.push(json!({"verbs": ["get"], "nonResourceURLs": all}));
        for (group, resource) in SELF_REVIEWS {
            resources.push(rule(&["create"], &[group], &[resource]));
        }
    }
    if user.node().is_some() {
        resources.extend(
            node::rules()
                .iter()
                .map(|(verbs, group, resource)| rule(verbs, &[group], &[resource])),
        );
    }
    if user.name == USER_K3S_CONTROLLER {
        for (group, resource) in CONTROLLER_READS {
            resources.push(rule(&["get", "list", "watch"], &[group], &[resource]));
        }
    }
    (resources, paths)
}
