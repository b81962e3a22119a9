//! The state of a cluster as one server reports it.

use serde::{Deserialize, Serialize};

/// Answer of `/v1-trivet/status`; available without a quorum.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterReport {
    /// Node name of the answering server.
    pub node: String,
    /// Version of the answering server.
    pub version: String,
    /// Kind of store.
    pub backend: String,
    /// Identity of the cluster in hexadecimal; empty where the store is not replicated.
    pub cluster_id: String,
    /// Identity of the answering member in hexadecimal.
    pub local: String,
    /// Identity of the leader, if one is known.
    pub leader: Option<String>,
    /// Raft term.
    pub term: u64,
    /// Newest revision on the answering server.
    pub revision: u64,
    /// Revisions up to this one are compacted.
    pub compact_revision: u64,
    /// Size of the store on the answering server, in bytes.
    pub database_size_bytes: u64,
    /// Whether writes can succeed now, as far as the answering server knows.
    pub writable: bool,
    /// Whether the Kubernetes API is served.
    pub ready: bool,
    /// Number of voters.
    pub voters: usize,
    /// Voters that must agree on a write.
    pub quorum: usize,
    /// How many voters may fail now with writes still possible. Counts those that already have,
    /// where the leader's view is at hand; `None` where it is not.
    pub tolerated_failures: Option<usize>,
    /// Advice for people, such as what to do about an even number of servers.
    pub advice: Vec<String>,
    /// What the server waits for.
    pub waiting: Option<WaitReport>,
    /// Whether the members' positions are the leader's view.
    pub leader_view: bool,
    /// Every member.
    pub members: Vec<MemberReport>,
    /// Every node; none while the Kubernetes API cannot tell.
    #[serde(default)]
    pub nodes: Vec<NodeReport>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Name.
    pub name: String,
    /// Whether its Ready condition is True.
    pub ready: bool,
    /// Roles from its labels.
    pub roles: Vec<String>,
}

/// What a server waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitReport {
    /// For what or whom.
    pub reason: String,
    /// For how long, in seconds.
    pub since_seconds: u64,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberReport {
    /// Identity in hexadecimal.
    pub id: String,
    /// Member name.
    pub name: String,
    /// Node name, the member name without its suffix.
    pub node: String,
    /// `voter` or `learner`.
    pub role: String,
    /// Whether it leads.
    pub leader: bool,
    /// Where peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Log entries it is behind the leader, where known.
    pub lag: Option<u64>,
    /// Milliseconds since the leader heard of it, where known.
    pub last_contact_ms: Option<u64>,
    /// Whether it was heard of recently, where known.
    pub reachable: Option<bool>,
}
