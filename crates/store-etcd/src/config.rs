//! What a member is told before it is opened.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use trivet_datastore::{Error, Result};
use trivet_env::Env;
use trivet_raft_node::PeerSecurity;

use crate::auth::AuthSettings;
use crate::checks::Checks;
use crate::compaction::AutoCompaction;
use crate::founding::Start;
use crate::limits::{Bounds, MAX_REQUEST_BYTES, MAX_REQUEST_BYTES_MAX, MAX_TXN_OPS};
use crate::quota;

/// Everything a member needs to know. Prepared TLS settings instead of files: see
/// [`EtcdBackend`](crate::EtcdBackend) for those.
#[derive(Clone)]
pub struct StoreConfig {
    /// The world.
    pub env: Env,
    /// The store's own directory; created when missing.
    pub dir: PathBuf,
    /// Name of the member, for people.
    pub member_name: String,
    /// How peers are reached; `None` for a store that is to stay alone.
    pub peers: Option<PeerSettings>,
    /// Where etcd clients are served; may be empty.
    pub clients: Vec<ClientListener>,
    /// Where clients reach this member, as told to others; may be empty.
    pub client_urls: Vec<String>,
    /// HTTP for health and metrics, for which nobody needs a certificate of a client.
    pub metrics_listen: Vec<ClientListener>,
    /// Allows listening without TLS on other than loopback addresses. For those only who were
    /// told that everybody who reaches the port has the data, and wanted it that way.
    pub plaintext_anywhere: bool,
    /// What is checked before a member is added or removed on behalf of an etcd client.
    pub strict_reconfig: Option<StrictReconfig>,
    /// Whose rules the member follows where etcd's differ from those of an embedded store.
    pub manner: Manner,
    /// Go on with the data here as the only member, dropping all others from the membership.
    pub force_new_cluster: bool,
    /// Interval between heartbeats of a leader.
    pub heartbeat: Duration,
    /// A follower that hears nothing for this long (up to twice as long) stands for election.
    pub election_timeout: Duration,
    /// Interval of progress notifications on watches that ask for them.
    pub watch_progress: Duration,
    /// Bytes that the state may take on disk before nothing is added any more; 0 for 2 GiB,
    /// negative for no limit, as in etcd.
    pub quota_bytes: i64,
    /// Whether a member that has run out of space compacts and tidies up, and ends its alarm
    /// once it has room again. In etcd an alarm stays until somebody ends it.
    pub alarm_clears_itself: bool,
    /// History that is given up by itself.
    pub auto_compaction: Option<AutoCompaction>,
    /// Largest request, in bytes of the replicated command.
    pub max_request_bytes: usize,
    /// Largest number of comparisons, or of operations per branch, in a transaction.
    pub max_txn_ops: usize,
    /// How often the leader notes the time that long leases (of five minutes and more) have
    /// left, so that they do not start again when another takes over; `None`: never. In etcd
    /// five minutes where the feature is on.
    pub lease_checkpoint: Option<Duration>,
    /// Comparing with the other members, and reading what is stored.
    pub checks: Checks,
    /// What to do when there is no data yet.
    pub start: Start,
    /// How etcd users prove who they are, once they have to.
    pub auth: AuthSettings,
}

/// Checks before a change of members: enough of them must have started, and this one must have
/// been in contact with enough of them for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrictReconfig {
    /// For how long, without a break.
    pub connected: Duration,
}

impl Default for StrictReconfig {
    /// As etcd does.
    fn default() -> Self {
        Self {
            connected: Duration::from_secs(5),
        }
    }
}

/// How a member enters the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It serves at once, with or without a quorum, and its name and addresses are those in its
    /// settings.
    Embedded,
    /// It serves clients once the cluster knows its name and client URLs, for which it takes a
    /// quorum; its peer URLs are what the membership says.
    Standalone,
}

/// How peers reach this member, and it them.
#[derive(Clone)]
pub struct PeerSettings {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// `https://host:port` for the others; several have commas between them.
    pub url: String,
    /// TLS, or none.
    pub security: PeerSecurity,
}

/// An address that etcd clients connect to.
#[derive(Clone)]
pub struct ClientListener {
    /// Where; port 0 takes a free one.
    pub address: SocketAddr,
    /// TLS; `None` is allowed on loopback addresses only, unless
    /// [`StoreConfig::plaintext_anywhere`] is set.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// What it serves. Listeners for metrics serve those only.
    pub serves: Serves,
}

/// What an address for clients serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Serves {
    /// gRPC and plain HTTP.
    #[default]
    All,
    /// gRPC, where HTTP has addresses of its own.
    Grpc,
    /// Plain HTTP.
    Http,
}

impl ClientListener {
    /// Serves everything at an address.
    pub fn new(address: SocketAddr, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        Self {
            address,
            tls,
            serves: Serves::All,
        }
    }
}

impl StoreConfig {
    /// A store in this process only: one member, nothing listening, founded when `dir` is
    /// empty.
    pub fn single(env: Env, dir: PathBuf) -> Self {
        Self {
            env,
            dir,
            member_name: "single".to_owned(),
            peers: None,
            clients: Vec::new(),
            client_urls: Vec::new(),
            metrics_listen: Vec::new(),
            plaintext_anywhere: false,
            strict_reconfig: Some(StrictReconfig::default()),
            manner: Manner::Embedded,
            force_new_cluster: false,
            heartbeat: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            watch_progress: crate::DEFAULT_WATCH_PROGRESS,
            quota_bytes: 0,
            alarm_clears_itself: false,
            auto_compaction: None,
            max_request_bytes: MAX_REQUEST_BYTES,
            max_txn_ops: MAX_TXN_OPS,
            lease_checkpoint: None,
            checks: Checks::default(),
            start: Start::Found,
            auth: AuthSettings::default(),
        }
    }

    /// The sizes that were set, if they can be kept.
    pub(crate) fn bounds(&self) -> Result<Bounds> {
        if !(1..=MAX_REQUEST_BYTES_MAX).contains(&self.max_request_bytes) {
            return Err(Error::Invalid(format!(
                "the limit of a request must be between 1 and {MAX_REQUEST_BYTES_MAX} bytes, not {}",
                self.max_request_bytes
            )));
        }
        Ok(Bounds {
            request_bytes: self.max_request_bytes,
            txn_ops: self.max_txn_ops,
            quota_bytes: quota::quota_bytes(self.quota_bytes),
        })
    }
}
