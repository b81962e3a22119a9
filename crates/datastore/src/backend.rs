//! Kinds of stores.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use trivet_env::Env;

use crate::{Datastore, Result};

/// A directory that can only be looked at. What a [`Backend`] gets to recognise data by.
pub trait ReadOnlyDir {
    /// Names of the entries of a directory below the root, sorted; `NotFound` if there is none.
    fn read_dir(&self, path: &str) -> io::Result<Vec<String>>;

    /// Up to `length` bytes of a file below the root, from `offset`.
    fn read(&self, path: &str, offset: u64, length: usize) -> io::Result<Vec<u8>>;

    /// Length of a file in bytes, or `None` where there is no regular file.
    fn file_size_bytes(&self, path: &str) -> io::Result<Option<u64>>;

    /// Whether there is a directory of that name.
    fn is_dir(&self, path: &str) -> io::Result<bool>;
}

/// Somebody's data, recognised by content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// The backend it belongs to.
    pub backend: String,
    /// Where, relative to the directory that was probed.
    pub path: PathBuf,
    /// One line for people: what it is and how much.
    pub description: String,
}

/// PEM files of one TLS identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates that the other side must chain to.
    pub ca: PathBuf,
    /// Own certificate chain.
    pub cert: PathBuf,
    /// Own private key.
    pub key: PathBuf,
}

/// How a replicated store with no data yet comes into being. With data it always resumes from
/// that data, whatever is asked for here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterStart {
    /// Become the first and only voter of a new cluster.
    Found,
    /// Join the cluster that these peers (`https://host:2380`) belong to.
    Join {
        /// Members to ask; any one of them is enough.
        peer_urls: Vec<String>,
    },
    /// There must be data.
    Resume,
}

/// What a replicated store needs to know about its own member and to reach the others.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Name of this member.
    pub member_name: String,
    /// Addresses for peers to connect to (2380).
    pub peer_listen: Vec<SocketAddr>,
    /// Where peers reach this member: `https://host:2380`.
    pub peer_url: String,
    /// Addresses for clients to connect to (2379).
    pub client_listen: Vec<SocketAddr>,
    /// Where clients reach this member: `https://host:2379`.
    pub client_url: String,
    /// Plain HTTP address for metrics and health (2381); loopback or nothing.
    pub metrics_listen: Option<SocketAddr>,
    /// Identity between peers; mutual TLS is not optional there.
    pub peer_tls: TlsFiles,
    /// Identity towards clients, whose certificates are required.
    pub client_tls: TlsFiles,
    /// Interval between heartbeats of a leader.
    pub heartbeat: Duration,
    /// A follower that hears nothing for this long (up to twice as long) stands for election.
    pub election_timeout: Duration,
    /// What to do when there is no data yet.
    pub start: ClusterStart,
}

/// Where and as whom a backend opens its store. Backend-specific settings are fields of the
/// backend value itself.
#[derive(Debug, Clone)]
pub struct BackendConfig {
    /// The world.
    pub env: Env,
    /// `<data-dir>/server/db`. A backend owns one directory below it and creates that when
    /// missing; everything else there is somebody else's.
    pub db_dir: PathBuf,
    /// Membership; stores that are not replicated ignore it.
    pub cluster: Option<ClusterConfig>,
}

/// A kind of store, chosen by name in the binary.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The name in `--datastore`.
    fn name(&self) -> &str;

    /// Whether several servers can share the store (and so `--server` makes sense).
    fn replicated(&self) -> bool;

    /// Whose data lies in `db_dir`? Looks at content, writes nothing.
    fn probe(&self, db_dir: &dyn ReadOnlyDir) -> io::Result<Vec<Footprint>>;

    /// Opens the store: founds, joins or resumes. A founding or joining member is usable when
    /// this returns; a resuming one may still wait for its peers, which
    /// [`StoreStatus::writable`](crate::StoreStatus::writable) tells.
    async fn open(&self, config: BackendConfig) -> Result<Arc<dyn Datastore>>;
}

impl fmt::Debug for dyn Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Backend").field(&self.name()).finish()
    }
}
