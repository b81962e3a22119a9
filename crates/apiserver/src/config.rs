//! What a server is told from outside.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use trivet_datastore::Datastore;
use trivet_env::Env;

use crate::Authenticator;

/// Everything an [`ApiServer`](crate::ApiServer) needs. No field is read from the environment.
#[derive(Clone)]
pub struct ApiConfig {
    /// Where objects live.
    pub datastore: Arc<dyn Datastore>,
    /// Clock and randomness.
    pub env: Env,
    /// What `/version` says.
    pub version: VersionInfo,
    /// Where clients reach this server: its entry in the endpoints of Service `kubernetes`.
    pub advertise: SocketAddr,
    /// Cluster-wide network settings.
    pub network: NetworkConfig,
    /// PEM of the certificate authority that signs serving certificates; published in every
    /// namespace as ConfigMap `kube-root-ca.crt`. Empty publishes nothing.
    pub root_ca_pem: String,
    /// Service-account tokens.
    pub service_accounts: ServiceAccountConfig,
    /// Further ways to authenticate, asked in order after client certificates and before
    /// service-account tokens.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// Bounds on what clients can make the server hold or do.
    pub limits: Limits,
    /// Periods of background work.
    pub timings: Timings,
}

impl fmt::Debug for ApiConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiConfig")
            .field("version", &self.version)
            .field("advertise", &self.advertise)
            .field("network", &self.network)
            .field("service_accounts", &self.service_accounts)
            .field("authenticators", &self.authenticators.len())
            .field("limits", &self.limits)
            .field("timings", &self.timings)
            .finish_non_exhaustive()
    }
}

/// The build, as `/version` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    /// Semantic version with a leading `v`: `v1.35.0+trivet1`.
    pub git_version: String,
    /// Commit of the source tree; may be empty.
    pub git_commit: String,
    /// RFC 3339 time of the build; may be empty.
    pub build_date: String,
    /// Compiler and its version, for people.
    pub compiler: String,
    /// `linux/amd64` and the like.
    pub platform: String,
}

/// Addresses that belong to the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Network of service addresses: first address and prefix length. Service `kubernetes`
    /// gets the first usable one.
    pub service_cidr: (IpAddr, u8),
    /// DNS name of the cluster (`cluster.local`).
    pub cluster_domain: String,
}

/// How service-account tokens are signed and checked.
#[derive(Clone)]
pub struct ServiceAccountConfig {
    /// PEM of the private key that all servers share: EC P-256 (PKCS#8 or SEC 1) or RSA
    /// (PKCS#8 or PKCS#1).
    pub signing_key_pem: String,
    /// The `iss` claim, also the default audience.
    pub issuer: String,
}

impl fmt::Debug for ServiceAccountConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccountConfig")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// Bounds on what clients can make the server hold or do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest request body; kube-apiserver: 3 MiB.
    pub body_bytes_max: usize,
    /// Longest request target (path and query).
    pub target_bytes_max: usize,
    /// Sum of all header names and values of one request.
    pub header_bytes_max: usize,
    /// Reads in flight; kube-apiserver: 400.
    pub reads_in_flight_max: usize,
    /// Writes in flight; kube-apiserver: 200.
    pub writes_in_flight_max: usize,
    /// Open watches.
    pub watches_max: usize,
    /// Past events kept per resource. A watcher that falls further behind is cut.
    pub ring_events_max: usize,
    /// Bytes of past events kept per resource.
    pub ring_bytes_max: usize,
    /// Longest time a request other than a watch may take; kube-apiserver: 60 s.
    pub request_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 3 * 1024 * 1024,
            target_bytes_max: 64 * 1024,
            header_bytes_max: 128 * 1024,
            reads_in_flight_max: 400,
            writes_in_flight_max: 200,
            watches_max: 16 * 1024,
            ring_events_max: 1024,
            ring_bytes_max: 4 * 1024 * 1024,
            request_timeout: Duration::from_secs(60),
        }
    }
}

/// Periods of background work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    /// How long a node's Lease may go without renewal before the node is `Unknown`. Together
    /// with [`Timings::node_monitor_period`] and a change of leader this must stay below 40 s.
    pub node_grace: Duration,
    /// How often node leases are looked at.
    pub node_monitor_period: Duration,
    /// Time to live of this server's entry in the list of live servers; kube-apiserver: 15 s.
    pub server_lease_ttl: Duration,
    /// How long controllers of a dead server stand still before another server takes over.
    pub controller_lease: Duration,
    /// Mean time between bookmarks of a watch that asked for them.
    pub bookmark_period: Duration,
    /// Time to live of Events; kube-apiserver: 1 h.
    pub event_ttl: Duration,
    /// Period of store compaction; history younger than this is always kept.
    pub compaction_period: Duration,
    /// Longest wait of a read for the cache to catch up; kube-apiserver: 3 s.
    pub cache_wait: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            node_grace: Duration::from_secs(30),
            node_monitor_period: Duration::from_secs(2),
            server_lease_ttl: Duration::from_secs(15),
            controller_lease: Duration::from_secs(10),
            bookmark_period: Duration::from_secs(60),
            event_ttl: Duration::from_secs(3600),
            compaction_period: Duration::from_secs(300),
            cache_wait: Duration::from_secs(3),
        }
    }
}

/// What the TLS layer proved about the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Subject common name: the user.
    pub common_name: String,
    /// Subject organizations: the groups.
    pub organizations: Vec<String>,
}
