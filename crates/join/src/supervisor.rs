//! The client side of a server's supervisor.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trivet_https::{Auth, Client};
use trivet_pki::{ALPN_HTTP, Identity, Secret, ServerTrust};

use crate::{
    BootstrapBundle, ClusterReport, ClusterSettings, Credentials, JoinError, Result, Token,
};

/// Names of the headers that a node identifies itself with.
pub mod headers {
    /// Name of the node.
    pub const NODE_NAME: &str = "k3s-node-name";
    /// Password of the node.
    pub const NODE_PASSWORD: &str = "k3s-node-password";
    /// Addresses of the node, separated by commas.
    pub const NODE_IP: &str = "k3s-node-ip";
}

/// As whom to talk to the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Another server: user `server`.
    Server,
    /// An agent, or the agent inside a server: user `node`.
    Node,
}

impl Role {
    /// The user's name in basic authentication.
    pub fn user(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Node => "node",
        }
    }
}

/// How to reach a supervisor for the first time.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// `https://host:port`.
    pub url: String,
    /// Connect to this `host:port` instead, such as a local load balancer.
    pub dial: Option<String>,
    /// The token.
    pub token: Token,
    /// As whom.
    pub role: Role,
    /// What this machine's clock shows.
    pub now: SystemTime,
    /// Time for each attempt to connect and for each answer.
    pub timeout: Duration,
}

/// Who a node is.
#[derive(Debug, Clone)]
pub struct NodeIdentity {
    /// Node name, in lower case.
    pub name: String,
    /// Node password (`/etc/rancher/node/password`).
    pub password: Secret,
    /// Addresses of the node.
    pub ips: Vec<std::net::IpAddr>,
}

/// Answer of `/db/info`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DbInfo {
    /// Members of the store.
    #[serde(default)]
    pub members: Vec<DbMember>,
}

/// One member in `/db/info`, in etcd's JSON names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DbMember {
    /// Identity.
    #[serde(rename = "ID", default)]
    pub id: u64,
    /// Member name, `<node>-<8 hex>`.
    #[serde(default)]
    pub name: String,
    /// Where peers reach it.
    #[serde(rename = "peerURLs", default)]
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    #[serde(rename = "clientURLs", default)]
    pub client_urls: Vec<String>,
    /// Whether it does not vote yet.
    #[serde(rename = "isLearner", default)]
    pub is_learner: bool,
}

impl DbMember {
    /// The node name: the member name up to its last `-`.
    pub fn node(&self) -> &str {
        self.name
            .rsplit_once('-')
            .map_or(self.name.as_str(), |(node, _)| node)
    }
}

/// Fetches the cluster's CA from `/cacerts` and checks it: first against the hash in the
/// token, then against the clock, then by a second connection that trusts only this CA.
/// Nothing secret is sent.
pub async fn fetch_ca(options: &ConnectOptions) -> Result<Bytes> {
    let open = |trust: ServerTrust<'_>| -> Result<Client> {
        let tls = trivet_pki::client_config(trust, None, ALPN_HTTP)
            .map_err(|error| JoinError::Protocol(error.to_string()))?;
        client(
            &options.url,
            options.dial.as_deref(),
            tls,
            Auth::None,
            options.timeout,
        )
    };
    let unverified = open(ServerTrust::Unverified)?;
    let address = unverified.address().to_owned();
    let ca = unverified
        .get("/cacerts")
        .await
        .map_err(JoinError::from_https)?;
    let found = trivet_pki::ca_hash(&ca)
        .map_err(|error| JoinError::Protocol(format!("{address} sent no usable CA: {error}")))?;
    match &options.token.ca_hash {
        Some(expected) if *expected != found => {
            return Err(JoinError::CaHashMismatch {
                address,
                expected: expected.clone(),
                found,
            });
        }
        Some(_) => {}
        None => tracing::warn!(
            server = %address,
            ca_hash = %found,
            "the token has no CA hash: trusting the CA that the server shows. \
             Use the full token (K10...) from <data-dir>/server/token to rule out a server in between"
        ),
    }
    trivet_pki::check_clock(&ca, options.now).map_err(JoinError::Clock)?;
    open(ServerTrust::Pinned(&ca))?
        .get("/ping")
        .await
        .map_err(JoinError::from_https)?;
    Ok(ca)
}

/// A server's supervisor, with its CA pinned.
#[derive(Debug, Clone)]
pub struct Supervisor {
    client: Client,
    ca: Bytes,
    dial: Option<String>,
    timeout: Duration,
}

impl Supervisor {
    /// Fetches and pins the CA ([`fetch_ca`]), then presents the token's credentials with
    /// every call. No credential is sent here yet.
    pub async fn connect(options: &ConnectOptions) -> Result<Self> {
        let ca = fetch_ca(options).await?;
        Self::with_token(options, ca)
    }

    /// Like [`Supervisor::connect`] with a CA that is already known. Does no I/O.
    pub fn with_token(options: &ConnectOptions, ca: Bytes) -> Result<Self> {
        let auth = match (&options.token.credentials, options.role) {
            (Credentials::Bootstrap(_), Role::Server) => {
                return Err(JoinError::BootstrapTokenForServer);
            }
            (Credentials::Bootstrap(_), Role::Node) => Auth::Bearer(options.token.password()),
            (Credentials::Password { password, .. }, role) => Auth::Basic {
                user: role.user().to_owned(),
                password: password.clone(),
            },
        };
        Self::open(
            &options.url,
            options.dial.as_deref(),
            ca,
            None,
            auth,
            options.timeout,
        )
    }

    /// Presents a client certificate instead of a token. Does no I/O.
    pub fn with_identity(
        url: &str,
        dial: Option<&str>,
        ca: Bytes,
        identity: &Identity,
        timeout: Duration,
    ) -> Result<Self> {
        Self::open(url, dial, ca, Some(identity), Auth::None, timeout)
    }

    fn open(
        url: &str,
        dial: Option<&str>,
        ca: Bytes,
        identity: Option<&Identity>,
        auth: Auth,
        timeout: Duration,
    ) -> Result<Self> {
        let tls = trivet_pki::client_config(ServerTrust::Pinned(&ca), identity, ALPN_HTTP)
            .map_err(|error| JoinError::Protocol(error.to_string()))?;
        let client = client(url, dial, tls, auth, timeout)?;
        Ok(Self {
            client,
            ca,
            dial: dial.map(str::to_owned),
            timeout,
        })
    }

    /// The same server and CA with other credentials.
    pub fn with_auth(&self, auth: Auth) -> Result<Self> {
        Self::open(
            &self.client.url(),
            self.dial.as_deref(),
            self.ca.clone(),
            None,
            auth,
            self.timeout,
        )
    }

    /// The pinned CA (PEM).
    pub fn ca(&self) -> &Bytes {
        &self.ca
    }

    /// `host:port` of the server.
    pub fn address(&self) -> &str {
        self.client.address()
    }

    /// The HTTPS client, for paths without a method here (such as the Kubernetes API).
    pub fn http(&self) -> &Client {
        &self.client
    }

    /// `/ping`.
    pub async fn ping(&self) -> Result<()> {
        self.get("/ping").await.map(drop)
    }

    /// `/v1-k3s/readyz`: fails with [`JoinError::NotReady`] until the API is served.
    pub async fn readyz(&self) -> Result<()> {
        self.get("/v1-k3s/readyz").await.map(drop)
    }

    /// `/v1-k3s/config`: the cluster's critical settings.
    pub async fn settings(&self) -> Result<ClusterSettings> {
        let value: Value = self
            .client
            .get_json("/v1-k3s/config")
            .await
            .map_err(JoinError::from_https)?;
        ClusterSettings::from_wire(value).map_err(|error| {
            JoinError::Protocol(format!(
                "{} sent a configuration that cannot be understood: {error}",
                self.address()
            ))
        })
    }

    /// `/v1-k3s/server-bootstrap`: the shared CAs and keys; for servers only.
    pub async fn server_bootstrap(&self) -> Result<BootstrapBundle> {
        self.client
            .get_json("/v1-k3s/server-bootstrap")
            .await
            .map_err(JoinError::from_https)
    }

    /// `/v1-k3s/apiservers`: `host:port` of every server, the answering one included.
    pub async fn apiservers(&self) -> Result<Vec<String>> {
        self.client
            .get_json("/v1-k3s/apiservers")
            .await
            .map_err(JoinError::from_https)
    }

    /// `/db/info`: the members of the store; for servers only.
    pub async fn db_info(&self) -> Result<DbInfo> {
        self.client
            .get_json("/db/info")
            .await
            .map_err(JoinError::from_https)
    }

    /// `/v1-trivet/status`; for servers and administrators.
    pub async fn status(&self) -> Result<ClusterReport> {
        self.client
            .get_json("/v1-trivet/status")
            .await
            .map_err(JoinError::from_https)
    }

    /// Removes a member by name or hexadecimal identity; for servers and administrators.
    pub async fn remove_member(&self, member: &str) -> Result<()> {
        let request = Request::builder()
            .method(Method::DELETE)
            .uri(format!("/v1-trivet/members/{member}"))
            .body(Bytes::new())
            .map_err(|_| {
                JoinError::Protocol("the member's name cannot stand in a path".to_owned())
            })?;
        self.client
            .call(request)
            .await
            .map(drop)
            .map_err(JoinError::from_https)
    }

    /// `/v1-k3s/client-ca.crt` (PEM): signs client certificates.
    pub async fn client_ca(&self) -> Result<Bytes> {
        self.get("/v1-k3s/client-ca.crt").await
    }

    /// `/v1-k3s/server-ca.crt` (PEM): signs server certificates.
    pub async fn server_ca(&self) -> Result<Bytes> {
        self.get("/v1-k3s/server-ca.crt").await
    }

    /// A serving certificate (PEM chain) for the key of this DER request; checks the node
    /// password.
    pub async fn serving_kubelet(&self, csr_der: Vec<u8>, node: &NodeIdentity) -> Result<Bytes> {
        self.sign("/v1-k3s/serving-kubelet.crt", csr_der, Some(node))
            .await
    }

    /// The node's client certificate (`system:node:<name>`); checks the node password.
    pub async fn client_kubelet(&self, csr_der: Vec<u8>, node: &NodeIdentity) -> Result<Bytes> {
        self.sign("/v1-k3s/client-kubelet.crt", csr_der, Some(node))
            .await
    }

    /// A client certificate for kube-proxy.
    pub async fn client_kube_proxy(&self, csr_der: Vec<u8>) -> Result<Bytes> {
        self.sign("/v1-k3s/client-kube-proxy.crt", csr_der, None)
            .await
    }

    /// A client certificate for K3s's own controllers on the node.
    pub async fn client_k3s_controller(&self, csr_der: Vec<u8>) -> Result<Bytes> {
        self.sign("/v1-k3s/client-k3s-controller.crt", csr_der, None)
            .await
    }

    async fn get(&self, path: &str) -> Result<Bytes> {
        self.client.get(path).await.map_err(JoinError::from_https)
    }

    async fn sign(
        &self,
        path: &str,
        csr_der: Vec<u8>,
        node: Option<&NodeIdentity>,
    ) -> Result<Bytes> {
        let mut builder = Request::builder().method(Method::POST).uri(path);
        if let Some(node) = node {
            let ips: Vec<_> = node.ips.iter().map(ToString::to_string).collect();
            builder = builder
                .header(headers::NODE_NAME, node.name.as_str())
                .header(headers::NODE_PASSWORD, node.password.expose())
                .header(headers::NODE_IP, ips.join(","));
        }
        let request = builder.body(Bytes::from(csr_der)).map_err(|_| {
            JoinError::Protocol("the node's name or password cannot be sent in a header".to_owned())
        })?;
        self.client.call(request).await.map_err(|error| {
            match (JoinError::from_https(error), node) {
                (JoinError::Forbidden { address, message }, Some(node))
                    if message.contains("password") =>
                {
                    JoinError::NodePasswordRejected {
                        address,
                        node: node.name.clone(),
                    }
                }
                (other, _) => other,
            }
        })
    }
}

fn client(
    url: &str,
    dial: Option<&str>,
    tls: std::sync::Arc<rustls::ClientConfig>,
    auth: Auth,
    timeout: Duration,
) -> Result<Client> {
    let mut builder = Client::builder(url, tls).map_err(JoinError::from_https)?;
    if let Some(dial) = dial {
        builder = builder.dial(dial);
    }
    builder
        .auth(auth)
        .connect_timeout(timeout)
        .request_timeout(timeout)
        .build()
        .map_err(JoinError::from_https)
}
