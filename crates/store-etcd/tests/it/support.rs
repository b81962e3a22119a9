//! Members in this process, and how to wait for things.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;
use trivet_datastore::Datastore;
use trivet_env::Env;
use trivet_pki::{
    ALPN_HTTP, Authority, ClientAuth, LeafRequest, ServerTrust, SwappableIdentity, Usage,
    client_config, server_config,
};
use trivet_store_etcd::client::Client;
use trivet_store_etcd::{
    ClientListener, EtcdStore, PeerSecurity, PeerSettings, Start, StoreConfig, open,
};

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Waits until a condition holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for something that must come soon.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it takes too long")
}

pub(crate) fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind((LOCAL, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// One CA, and TLS settings from it.
pub(crate) struct Tls(Authority);

impl Tls {
    pub(crate) fn new() -> Self {
        Self(Authority::generate("test", SystemTime::now()).unwrap())
    }

    pub(crate) fn leaf(&self) -> trivet_pki::Leaf {
        let request = LeafRequest {
            common_name: "test".to_owned(),
            organization: None,
            usage: Usage::ServerAndClient,
            dns: vec!["localhost".to_owned()],
            ips: vec![LOCAL],
        };
        self.0.issue(&request, SystemTime::now()).unwrap()
    }

    pub(crate) fn ca_pem(&self) -> &str {
        self.0.cert_pem()
    }

    pub(crate) fn server(&self) -> Arc<rustls::ServerConfig> {
        let identity = SwappableIdentity::new(self.leaf().identity().unwrap());
        server_config(
            identity,
            ClientAuth::Required(self.ca_pem().as_bytes()),
            ALPN_HTTP,
        )
        .unwrap()
    }

    pub(crate) fn client(&self) -> Arc<rustls::ClientConfig> {
        let identity = self.leaf().identity().unwrap();
        client_config(
            ServerTrust::Pinned(self.ca_pem().as_bytes()),
            Some(&identity),
            &[b"h2"],
        )
        .unwrap()
    }

    pub(crate) fn peers(&self, address: SocketAddr) -> PeerSettings {
        PeerSettings {
            listen: vec![address],
            url: format!("https://{address}"),
            security: PeerSecurity::Mutual {
                server: self.server(),
                client: self.client(),
            },
        }
    }
}

/// Settings of a quick member that serves clients without TLS on a free port.
pub(crate) fn settings(env: Env, dir: PathBuf) -> StoreConfig {
    let mut config = StoreConfig::single(env, dir);
    config.clients = vec![ClientListener::new(SocketAddr::new(LOCAL, 0), None)];
    // Members are changed as soon as they are up; what etcd waits for has tests of its own.
    config.strict_reconfig = None;
    config.heartbeat = Duration::from_millis(50);
    config.election_timeout = Duration::from_millis(300);
    config.watch_progress = Duration::from_millis(100);
    config
}

/// A member with a client connected to it.
pub(crate) struct Member {
    pub(crate) store: Arc<EtcdStore>,
    pub(crate) client: Client,
    pub(crate) config: StoreConfig,
}

impl Member {
    pub(crate) async fn open(config: StoreConfig) -> Self {
        let store = soon(open(config.clone())).await.unwrap();
        let client = Client::connect(&store.client_addresses()[0].to_string())
            .await
            .unwrap();
        Self {
            store,
            client,
            config,
        }
    }

    pub(crate) fn address(&self) -> String {
        self.store.client_addresses()[0].to_string()
    }
}

/// One member alone. The directory goes with it.
pub(crate) struct Single {
    pub(crate) member: Member,
    _dir: TempDir,
}

impl Single {
    pub(crate) async fn start() -> Self {
        Self::start_with(|config| config).await
    }

    pub(crate) async fn start_with(change: impl Fn(StoreConfig) -> StoreConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = settings(Env::real(), dir.path().join("trivet"));
        let member = Member::open(change(config)).await;
        Self { member, _dir: dir }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.member.client
    }
}

/// Three members.
pub(crate) struct Three {
    pub(crate) members: Vec<Member>,
    _dir: TempDir,
}

impl Three {
    pub(crate) async fn start() -> Self {
        Self::start_with(|config| config).await
    }

    pub(crate) async fn start_with(change: impl Fn(StoreConfig) -> StoreConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tls = Tls::new();
        let mut members = vec![Member::open(change(member_settings(dir.path(), &tls, 0))).await];
        let first = members[0].config.peers.as_ref().unwrap().url.clone();
        for number in 1..3 {
            let mut config = change(member_settings(dir.path(), &tls, number));
            config.start = Start::Join {
                peer_urls: vec![first.clone()],
            };
            members.push(Member::open(config).await);
        }
        let three = Self { members, _dir: dir };
        for member in &three.members {
            eventually("every member knows three named members", || async {
                let status = member.store.cluster().unwrap().status().await.unwrap();
                status.voters() == 3 && status.members.iter().all(|member| !member.name.is_empty())
            })
            .await;
        }
        three
    }

    /// Index of the leader, when every member agrees on one.
    pub(crate) async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut statuses = Vec::new();
            for member in &self.members {
                statuses.push(member.store.cluster().unwrap().status().await.unwrap());
            }
            let leader = statuses[0].leader;
            let agreed = statuses.iter().all(|status| status.leader == leader);
            let place = statuses
                .iter()
                .position(|status| Some(status.local) == leader);
            if let (true, Some(place)) = (agreed, place) {
                return place;
            }
            assert!(
                Instant::now() < deadline,
                "the members never agree on a leader: {statuses:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All at once: one after the other would hand leadership over twice, and end with one that
    /// has nobody left to give it to.
    pub(crate) async fn shutdown(&self) {
        let all = self.members.iter().map(|member| member.store.shutdown());
        futures_util::future::join_all(all).await;
    }
}

fn member_settings(dir: &Path, tls: &Tls, number: usize) -> StoreConfig {
    let mut config = settings(Env::real(), dir.join(format!("member{number}")));
    config.member_name = format!("member{number}");
    config.client_urls = vec![format!("http://member{number}:2379")];
    config.peers = Some(tls.peers(free_address()));
    config
}
