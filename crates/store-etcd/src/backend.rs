//! The store as a kind: `--datastore etcd`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use trivet_datastore::{
    Backend, BackendConfig, ClusterConfig, Datastore, Error, Footprint, ReadOnlyDir, Result,
    TlsFiles,
};
use trivet_pki::ALPN_HTTP;
use trivet_raft_node::PeerSecurity;

use crate::config::{ClientListener, PeerSettings, StoreConfig};
use crate::founding::split_urls;
use crate::open::open;
use crate::probe;
use crate::tls;

/// The name in `--datastore`.
pub const NAME: &str = "etcd";

/// The directory below `server/db` that is ours.
pub const DIR: &str = "trivet";

/// Interval of progress notifications, as K3s sets it.
pub const DEFAULT_WATCH_PROGRESS: Duration = Duration::from_secs(5);

/// Bytes that the store of a control plane may take on disk: the largest that etcd recommends.
pub const DEFAULT_QUOTA_BYTES: i64 = 8 << 30;

/// The embedded etcd.
#[derive(Debug, Clone)]
pub struct EtcdBackend {
    /// Loopback addresses on which etcd clients are served without TLS, beside those of
    /// [`ClusterConfig::client_listen`].
    pub plaintext_listen: Vec<SocketAddr>,
    /// Interval of progress notifications on watches that ask for them.
    pub watch_progress: Duration,
    /// Bytes that the state may take on disk, as in [`StoreConfig::quota_bytes`]. The alarm of a
    /// full store ends by itself here: nobody watches the store of a control plane.
    pub quota_bytes: i64,
}

impl Default for EtcdBackend {
    fn default() -> Self {
        Self {
            plaintext_listen: Vec::new(),
            watch_progress: DEFAULT_WATCH_PROGRESS,
            quota_bytes: DEFAULT_QUOTA_BYTES,
        }
    }
}

#[async_trait]
impl Backend for EtcdBackend {
    fn name(&self) -> &str {
        NAME
    }

    fn replicated(&self) -> bool {
        true
    }

    fn probe(&self, db_dir: &dyn ReadOnlyDir) -> io::Result<Vec<Footprint>> {
        probe::probe(db_dir)
    }

    async fn open(&self, config: BackendConfig) -> Result<Arc<dyn Datastore>> {
        let mut store = StoreConfig::single(config.env, config.db_dir.join(DIR));
        store.watch_progress = self.watch_progress;
        store.quota_bytes = self.quota_bytes;
        store.alarm_clears_itself = true;
        if let Some(cluster) = config.cluster {
            apply(&mut store, cluster).await?;
        }
        let plaintext = self
            .plaintext_listen
            .iter()
            .map(|&address| ClientListener::new(address, None));
        store.clients.extend(plaintext);
        Ok(open(store).await?)
    }
}

async fn apply(store: &mut StoreConfig, cluster: ClusterConfig) -> Result<()> {
    let peer = load(cluster.peer_tls, &[b"h2"]).await?;
    let client = load(cluster.client_tls, ALPN_HTTP).await?;
    store.member_name = cluster.member_name;
    store.peers = Some(PeerSettings {
        listen: cluster.peer_listen,
        url: cluster.peer_url,
        security: PeerSecurity::Mutual {
            server: peer.server,
            client: peer.client,
        },
    });
    store.clients = cluster
        .client_listen
        .into_iter()
        .map(|address| ClientListener::new(address, Some(client.server.clone())))
        .collect();
    store.client_urls = split_urls(&cluster.client_url);
    store.metrics_listen = cluster
        .metrics_listen
        .into_iter()
        .map(|address| ClientListener::new(address, None))
        .collect();
    store.heartbeat = cluster.heartbeat;
    store.election_timeout = cluster.election_timeout;
    store.start = cluster.start.into();
    Ok(())
}

/// Reads TLS files without holding up the runtime.
async fn load(files: TlsFiles, alpn: &'static [&'static [u8]]) -> Result<tls::Mutual> {
    tokio::task::spawn_blocking(move || tls::load(&files, alpn))
        .await
        .map_err(|error| Error::Invalid(format!("reading the TLS files failed: {error}")))?
}
