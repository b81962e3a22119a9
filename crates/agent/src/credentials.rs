//! The node's certificate: kept from the last start, or asked for with the token.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use trivet_https::Client;
use trivet_join::{ConnectOptions, JoinError, NodeIdentity, Role, Supervisor, Token};
use trivet_pki::{Identity, Secret};

use crate::files;

/// Time for one connection attempt and for one answer while joining.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The node's key and certificate, and the CA its servers are known by.
pub(crate) struct Credentials {
    dir: PathBuf,
    server_url: String,
    dial: Option<String>,
}

impl Credentials {
    /// Files live in `<data-dir>/agent`, with K3s's names.
    pub(crate) fn new(data_dir: &Path, server_url: &str, dial: Option<String>) -> Self {
        Self {
            dir: data_dir.join("agent"),
            server_url: server_url.to_owned(),
            dial,
        }
    }

    /// A client in the name of the node from what is on disk; `None` when there is nothing, or
    /// nothing that still fits the node, the clock and the token.
    pub(crate) fn stored(
        &self,
        node: &NodeIdentity,
        token: &Token,
        now: SystemTime,
    ) -> Option<Client> {
        let ca = std::fs::read(self.dir.join("server-ca.crt")).ok()?;
        if let Some(expected) = &token.ca_hash
            && trivet_pki::ca_hash(&ca).ok().as_deref() != Some(expected.as_str())
        {
            return None;
        }
        let client_ca = std::fs::read(self.dir.join("client-ca.crt")).ok()?;
        let chain = std::fs::read(self.dir.join("client-kubelet.crt")).ok()?;
        if trivet_pki::needs_renewal(&chain, &client_ca, &[], &[], now) {
            return None;
        }
        let name = trivet_pki::certificates(&chain)
            .and_then(|certificates| trivet_pki::peer_name(&certificates[0]))
            .ok()?;
        if name.common_name != format!("system:node:{}", node.name) {
            return None;
        }
        let identity = Identity::load(
            &self.dir.join("client-kubelet.crt"),
            &self.dir.join("client-kubelet.key"),
        )
        .ok()?;
        self.client(ca.into(), &identity).ok()
    }

    /// Proves the CA with the token, then has a new key signed for the node. Nothing is written
    /// unless everything succeeded.
    pub(crate) async fn request(
        &self,
        node: &NodeIdentity,
        token: &Token,
        now: SystemTime,
    ) -> Result<Client, JoinError> {
        let supervisor = Supervisor::connect(&ConnectOptions {
            url: self.server_url.clone(),
            dial: self.dial.clone(),
            token: token.clone(),
            role: Role::Node,
            now,
            timeout: TIMEOUT,
        })
        .await?;
        let client_ca = supervisor.client_ca().await?;
        let protocol = |error: trivet_pki::Error| JoinError::Protocol(error.to_string());
        let (csr, key) =
            trivet_pki::request(&format!("system:node:{}", node.name)).map_err(protocol)?;
        let chain = supervisor.client_kubelet(csr, node).await?;
        let (serving_csr, serving_key) = trivet_pki::request(&node.name).map_err(protocol)?;
        let serving_chain = supervisor.serving_kubelet(serving_csr, node).await?;
        let identity = Identity::from_pem(&chain, key.expose()).map_err(protocol)?;

        let ca = supervisor.ca().clone();
        self.store("server-ca.crt", &ca)?;
        self.store("client-ca.crt", &client_ca)?;
        self.store("serving-kubelet.key", serving_key.expose().as_bytes())?;
        self.store("serving-kubelet.crt", &serving_chain)?;
        self.store("client-kubelet.key", key.expose().as_bytes())?;
        self.store("client-kubelet.crt", &chain)?;
        self.client(ca, &identity)
    }

    /// `/v1-k3s/apiservers`, asked with the token.
    pub(crate) async fn servers(&self, token: &Token) -> Result<Vec<String>, JoinError> {
        let ca = std::fs::read(self.dir.join("server-ca.crt"))
            .map_err(|error| JoinError::Protocol(format!("server-ca.crt: {error}")))?;
        let options = ConnectOptions {
            url: self.server_url.clone(),
            dial: self.dial.clone(),
            token: token.clone(),
            role: Role::Node,
            now: SystemTime::UNIX_EPOCH,
            timeout: TIMEOUT,
        };
        Supervisor::with_token(&options, ca.into())?
            .apiservers()
            .await
    }

    fn client(&self, ca: Bytes, identity: &Identity) -> Result<Client, JoinError> {
        let supervisor = Supervisor::with_identity(
            &self.server_url,
            self.dial.as_deref(),
            ca,
            identity,
            TIMEOUT,
        )?;
        Ok(supervisor.http().clone())
    }

    fn store(&self, name: &str, content: &[u8]) -> Result<(), JoinError> {
        let path = self.dir.join(name);
        files::write_atomically(&path, content).map_err(|error| {
            JoinError::Protocol(format!("cannot write {}: {error}", path.display()))
        })
    }
}

/// The node's identity towards the supervisor.
pub(crate) fn identity(name: &str, password: String, ips: &[std::net::IpAddr]) -> NodeIdentity {
    NodeIdentity {
        name: name.to_owned(),
        password: Secret::new(password),
        ips: ips.to_vec(),
    }
}
