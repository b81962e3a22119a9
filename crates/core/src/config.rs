//! What a server is told, checked without any I/O.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use trivet_datastore::{Backend, Datastore};
use trivet_env::Env;
use trivet_join::{ClusterSettings, Token};
use trivet_pki::Secret;

use crate::layout::Layout;
use crate::{BuildError, ControlPlane, remembered};

/// Ports of an embedded store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorePorts {
    /// Clients: etcd's 2379.
    pub client: u16,
    /// Peers: etcd's 2380. Part of the address that the cluster knows the member by.
    pub peer: u16,
    /// Metrics over plain HTTP on loopback: 2381, or none.
    pub metrics: Option<u16>,
}

impl Default for StorePorts {
    fn default() -> Self {
        Self {
            client: 2379,
            peer: 2380,
            metrics: Some(2381),
        }
    }
}

/// Where the data lives.
#[derive(Clone)]
pub(crate) enum Store {
    /// An open store that the embedding program brought along.
    Open(Arc<dyn Datastore>),
    /// A kind of store to open in the data directory.
    Kind(Arc<dyn Backend>),
}

impl Store {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Open(_) => "passed in",
            Self::Kind(backend) => backend.name(),
        }
    }
}

/// A kubeconfig to write.
#[derive(Debug, Clone)]
pub(crate) struct KubeconfigOutput {
    pub(crate) path: PathBuf,
    pub(crate) mode: u32,
}

/// Checked settings of one server.
pub(crate) struct Config {
    pub(crate) layout: Layout,
    pub(crate) store: Store,
    pub(crate) probes: Vec<Arc<dyn Backend>>,
    pub(crate) bind_address: IpAddr,
    pub(crate) https_port: u16,
    pub(crate) listener: std::sync::Mutex<Option<TcpListener>>,
    pub(crate) advertise_address: Option<IpAddr>,
    pub(crate) advertise_port: Option<u16>,
    pub(crate) node_name: String,
    pub(crate) node_ips: Vec<IpAddr>,
    pub(crate) tls_san: Vec<String>,
    pub(crate) token: Option<Token>,
    pub(crate) agent_token: Option<Secret>,
    pub(crate) server_url: Option<String>,
    pub(crate) settings: ClusterSettings,
    pub(crate) kubeconfig: Option<KubeconfigOutput>,
    pub(crate) node_dir: PathBuf,
    pub(crate) ports: StorePorts,
    pub(crate) heartbeat: Duration,
    pub(crate) election_timeout: Duration,
    pub(crate) join_timeout: Duration,
    pub(crate) founding_watch: Duration,
    pub(crate) env: Env,
}

impl Config {
    /// The address that local programs use: the one that was asked for, else loopback.
    pub(crate) fn local_address(&self) -> IpAddr {
        match self.bind_address {
            address if !address.is_unspecified() => address,
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            IpAddr::V4(_) => match self.node_ips.first() {
                Some(ip) if ip.is_loopback() => *ip,
                _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
            },
        }
    }

    /// The file that remembers the other servers.
    pub(crate) fn memory(&self) -> PathBuf {
        remembered::path(&self.node_dir, self.layout.data_dir())
    }

    /// The address by which other machines know this one.
    pub(crate) fn node_ip(&self) -> IpAddr {
        self.node_ips
            .first()
            .copied()
            .unwrap_or_else(|| self.local_address())
    }
}

/// Settings of a [`ControlPlane`]; see [`ControlPlane::builder`].
#[derive(Clone)]
#[must_use]
pub struct ControlPlaneBuilder {
    data_dir: Option<PathBuf>,
    store: Option<Store>,
    probes: Vec<Arc<dyn Backend>>,
    bind_address: IpAddr,
    https_port: u16,
    listener: Option<Arc<TcpListener>>,
    advertise_address: Option<IpAddr>,
    advertise_port: Option<u16>,
    node_name: Option<String>,
    node_ips: Vec<IpAddr>,
    tls_san: Vec<String>,
    token: Option<Secret>,
    agent_token: Option<Secret>,
    server_url: Option<String>,
    cluster_init: bool,
    settings: ClusterSettings,
    kubeconfig: Option<KubeconfigOutput>,
    node_dir: Option<PathBuf>,
    ports: StorePorts,
    heartbeat: Duration,
    election_timeout: Duration,
    join_timeout: Duration,
    founding_watch: Duration,
    env: Option<Env>,
}

impl fmt::Debug for ControlPlaneBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlaneBuilder")
            .field("data_dir", &self.data_dir)
            .field("node_name", &self.node_name)
            .field("server_url", &self.server_url)
            .finish_non_exhaustive()
    }
}

impl ControlPlaneBuilder {
    pub(crate) fn new() -> Self {
        Self {
            data_dir: None,
            store: None,
            probes: Vec::new(),
            bind_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            https_port: 6443,
            listener: None,
            advertise_address: None,
            advertise_port: None,
            node_name: None,
            node_ips: Vec::new(),
            tls_san: Vec::new(),
            token: None,
            agent_token: None,
            server_url: None,
            cluster_init: false,
            settings: ClusterSettings::default(),
            kubeconfig: None,
            node_dir: None,
            ports: StorePorts::default(),
            heartbeat: Duration::from_millis(100),
            election_timeout: Duration::from_millis(600),
            join_timeout: Duration::from_secs(10),
            founding_watch: Duration::from_millis(1500),
            env: None,
        }
    }

    /// Where everything lives; the server's part is `server/` below it. Required.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// A store that is already open. It is shut down with the control plane. This or
    /// [`ControlPlaneBuilder::backend`] is required.
    pub fn datastore(mut self, store: Arc<dyn Datastore>) -> Self {
        self.store = Some(Store::Open(store));
        self
    }

    /// A kind of store to open below the data directory.
    pub fn backend(mut self, backend: Arc<dyn Backend>) -> Self {
        self.store = Some(Store::Kind(backend));
        self
    }

    /// Another kind of store whose data must not be left behind. May be repeated.
    pub fn probe(mut self, backend: Arc<dyn Backend>) -> Self {
        self.probes.push(backend);
        self
    }

    /// Address and port of the API; all addresses and 6443 unless set. Port 0 takes a free one.
    pub fn bind(mut self, address: IpAddr, port: u16) -> Self {
        (self.bind_address, self.https_port) = (address, port);
        self
    }

    /// A listener for the API that is already bound; wins over [`ControlPlaneBuilder::bind`].
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Where other machines reach the API, if not at the node's address and the bound port.
    pub fn advertise(mut self, address: Option<IpAddr>, port: Option<u16>) -> Self {
        (self.advertise_address, self.advertise_port) = (address, port);
        self
    }

    /// Name of this node. Required; it is put into lower case.
    pub fn node_name(mut self, name: impl Into<String>) -> Self {
        self.node_name = Some(name.into());
        self
    }

    /// Addresses of this node; the first one is where other servers reach its store. Default:
    /// the bind address, else the address of the default route.
    pub fn node_ip(mut self, addresses: Vec<IpAddr>) -> Self {
        self.node_ips = addresses;
        self
    }

    /// Further names and addresses in the serving certificates.
    pub fn tls_san(mut self, names: Vec<String>) -> Self {
        self.tls_san = names;
        self
    }

    /// The token, short or full. Without one the first server makes one.
    pub fn token(mut self, token: Secret) -> Self {
        self.token = Some(token);
        self
    }

    /// A token for agents only; without one they use the server's.
    pub fn agent_token(mut self, token: Secret) -> Self {
        self.agent_token = Some(token);
        self
    }

    /// `https://host:port` of a server to join. Only used while this server has no data.
    pub fn server_url(mut self, url: impl Into<String>) -> Self {
        self.server_url = Some(url.into());
        self
    }

    /// Asks for a new cluster where there is no data. Accepted for K3s's sake: a server
    /// without data and without a URL founds one anyway. Ignored together with
    /// [`ControlPlaneBuilder::server_url`].
    pub fn cluster_init(mut self, init: bool) -> Self {
        self.cluster_init = init;
        self
    }

    /// Settings that all servers must share.
    pub fn settings(mut self, settings: ClusterSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Writes an administrator's kubeconfig.
    pub fn write_kubeconfig(mut self, path: impl Into<PathBuf>, mode: u32) -> Self {
        self.kubeconfig = Some(KubeconfigOutput {
            path: path.into(),
            mode,
        });
        self
    }

    /// Directory outside `server/` for `trivet-cluster-<8 hex>.json`, which remembers the other
    /// servers of the cluster that this machine belongs to, so that a wiped server does not
    /// found a second one. Default: `<data-dir>/agent/etc`, which does not outlive the data
    /// directory.
    pub fn node_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.node_dir = Some(path.into());
        self
    }

    /// Ports of an embedded store.
    pub fn store_ports(mut self, ports: StorePorts) -> Self {
        self.ports = ports;
        self
    }

    /// Interval of an embedded store's heartbeats; 100 ms unless set.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// How long an embedded store's follower waits for its leader; 600 ms unless set (it
    /// stands for election after one to two times this).
    pub fn election_timeout(mut self, timeout: Duration) -> Self {
        self.election_timeout = timeout;
        self
    }

    /// How long a server that cannot be reached is tried on the first join; 10 s unless set.
    /// A server that answers "starting" is waited for without limit.
    pub fn join_timeout(mut self, timeout: Duration) -> Self {
        self.join_timeout = timeout;
        self
    }

    /// How long a server listens on its peer port before it founds a cluster, to notice that
    /// one still counts on it; 1.5 s unless set.
    pub fn founding_watch(mut self, time: Duration) -> Self {
        self.founding_watch = time;
        self
    }

    /// Clock, disk and randomness; the real ones unless set.
    pub fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    /// Checks the settings. Does no I/O.
    pub fn build(self) -> Result<ControlPlane, BuildError> {
        let invalid = BuildError::Invalid;
        let data_dir = self
            .data_dir
            .ok_or(BuildError::Missing("the data directory"))?;
        let store = self
            .store
            .ok_or(BuildError::Missing("a datastore or a backend"))?;
        let node_name = self
            .node_name
            .ok_or(BuildError::Missing("the node name"))?
            .to_lowercase();
        if !is_node_name(&node_name) {
            return Err(invalid(format!(
                "--node-name: {node_name:?} must be lower-case letters, digits, '-' and '.', \
                 start and end with a letter or digit, and have at most 253 characters"
            )));
        }
        if let Store::Kind(backend) = &store
            && self.server_url.is_some()
            && !backend.replicated()
        {
            return Err(invalid(format!(
                "--server: the datastore {:?} cannot be shared by servers",
                backend.name()
            )));
        }
        if matches!(store, Store::Open(_)) && self.server_url.is_some() {
            return Err(invalid(
                "--server: a datastore that is passed in cannot join a cluster".to_owned(),
            ));
        }
        let parse = |flag: &str, secret: &Secret| {
            Token::parse(secret.expose()).map_err(|error| invalid(format!("{flag}: {error}")))
        };
        let token = self
            .token
            .as_ref()
            .map(|text| parse("--token", text))
            .transpose()?;
        let agent_token = self
            .agent_token
            .as_ref()
            .map(|text| parse("--agent-token", text))
            .transpose()?
            .map(|t| t.password());
        if self.heartbeat.is_zero() || self.election_timeout < self.heartbeat * 3 {
            return Err(invalid(
                "the election timeout must be at least three heartbeats".to_owned(),
            ));
        }
        let settings = self.settings.normalized().map_err(invalid)?;
        let layout = Layout::new(&data_dir);
        let mut bind_address = self.bind_address;
        let listener = match self.listener {
            None => None,
            Some(listener) => {
                let bound = listener
                    .local_addr()
                    .map_err(|error| invalid(format!("the listener: {error}")))?;
                bind_address = bound.ip();
                Some(
                    listener
                        .try_clone()
                        .map_err(|error| invalid(format!("the listener: {error}")))?,
                )
            }
        };
        let mut node_ips = self.node_ips;
        if node_ips.is_empty() && !bind_address.is_unspecified() {
            node_ips.push(bind_address);
        }
        Ok(ControlPlane::new(Config {
            node_dir: self.node_dir.unwrap_or_else(|| layout.node_dir()),
            layout,
            store,
            probes: self.probes,
            bind_address,
            https_port: self.https_port,
            listener: std::sync::Mutex::new(listener),
            advertise_address: self.advertise_address,
            advertise_port: self.advertise_port,
            node_name,
            node_ips,
            tls_san: self.tls_san,
            token,
            agent_token,
            server_url: self
                .server_url
                .map(|url| url.trim_end_matches('/').to_owned()),
            settings,
            kubeconfig: self.kubeconfig,
            ports: self.ports,
            heartbeat: self.heartbeat,
            election_timeout: self.election_timeout,
            join_timeout: self.join_timeout,
            founding_watch: self.founding_watch,
            env: self.env.unwrap_or_else(Env::real),
        }))
    }
}

/// Kubernetes's rule for node names (RFC 1123 subdomain).
pub(crate) fn is_node_name(name: &str) -> bool {
    let label = |part: &str| {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = part.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes
                .iter()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// The address of the default route. Asks the routing table; sends nothing.
pub(crate) fn default_route_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // 192.0.2.0/24 is reserved for documentation: any route to it is the default route.
    socket.connect("192.0.2.1:9").ok()?;
    socket
        .local_addr()
        .ok()
        .map(|address: SocketAddr| address.ip())
        .filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names() {
        for good in ["a", "server-1", "a.b-c.d", "1"] {
            assert!(is_node_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a..b", ".", &"a".repeat(254)] {
            assert!(!is_node_name(bad), "{bad}");
        }
    }
}
