//! The two servers, both fresh, on loopback, without TLS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use trivet_datastore::Datastore;
use trivet_env::Env;
use trivet_harness::Process;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb as pb;
use trivet_store_etcd::{ClientListener, EtcdStore, Serves, StoreConfig, open};

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const START: Duration = Duration::from_secs(30);

/// The program to compare with: `TRIVET_ETCD_DIR`, or the search path.
#[must_use]
pub fn find_etcd() -> Option<PathBuf> {
    let given = std::env::var_os("TRIVET_ETCD_DIR").map(|dir| PathBuf::from(dir).join("etcd"));
    let program = given.unwrap_or_else(|| "etcd".into());
    Command::new(&program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
        .then_some(program)
}

/// A genuine etcd of one member. Ends when dropped.
pub struct Genuine {
    /// Where clients are served.
    pub address: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

impl Genuine {
    /// Starts one and waits until it takes requests.
    pub async fn start(program: &Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        // Both held until both are known, so that they differ.
        let ports = [
            TcpListener::bind((LOCAL, 0))?,
            TcpListener::bind((LOCAL, 0))?,
        ];
        let [address, peer] = [ports[0].local_addr()?, ports[1].local_addr()?];
        drop(ports);
        let (client_url, peer_url) = (format!("http://{address}"), format!("http://{peer}"));
        let mut command = Command::new(program);
        command
            .env_clear()
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .args(["--name", "genuine", "--log-level", "error"])
            .args(["--listen-client-urls", &client_url])
            .args(["--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url])
            .args(["--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("genuine={peer_url}")]);
        // Debian's build refuses architectures that upstream does not test.
        command.env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH);
        let mut process = Process::start(&mut command, &dir.path().join("log"))?;
        let start = Instant::now();
        while !answers(address).await {
            if let Some(status) = process.try_wait() {
                bail!(
                    "{} ended with {status}: {}",
                    program.display(),
                    process.log()
                );
            }
            if start.elapsed() > START {
                bail!("{} does not answer: {}", program.display(), process.log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self {
            address,
            _process: process,
            _dir: dir,
        })
    }
}

async fn answers(address: SocketAddr) -> bool {
    let Ok(client) = Client::connect(&address.to_string()).await else {
        return false;
    };
    let range = pb::RangeRequest {
        key: "a".into(),
        ..Default::default()
    };
    let mut cluster = client.cluster();
    let listed = cluster.member_list(pb::MemberListRequest::default());
    // Named means published: from then on nothing of its start is left to be seen.
    client.kv().range(range).await.is_ok()
        && listed.await.is_ok_and(|list| {
            list.into_inner()
                .members
                .iter()
                .all(|member| !member.name.is_empty())
        })
}

/// Our store in this process.
pub struct Ours {
    /// Where clients are served.
    pub address: SocketAddr,
    store: Arc<EtcdStore>,
    _dir: TempDir,
}

impl Ours {
    /// Starts one with etcd's own intervals.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut config = StoreConfig::single(Env::real(), dir.path().join("trivet"));
        config.clients = vec![ClientListener {
            address: SocketAddr::new(LOCAL, 0),
            tls: None,
            serves: Serves::All,
        }];
        config.client_urls = vec!["http://127.0.0.1:2379".to_owned()];
        config.heartbeat = Duration::from_millis(100);
        config.election_timeout = Duration::from_secs(1);
        config.watch_progress = Duration::from_secs(600);
        let store = open(config).await.context("our store")?;
        let address = *store
            .client_addresses()
            .first()
            .context("the listener was asked for")?;
        let start = Instant::now();
        while !answers(address).await {
            if start.elapsed() > START {
                bail!("our store does not answer");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self {
            address,
            store,
            _dir: dir,
        })
    }

    /// Stops it.
    pub async fn stop(&self) {
        self.store.shutdown().await;
    }
}
