//! A server that runs.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trivet_apiserver::ApiServer;
use trivet_datastore::Datastore;
use trivet_https::Server;
use trivet_join::{ClusterReport, Token, WaitReport};
use trivet_pki::Secret;

use crate::shared::{Opened, Shared};
use crate::supervisor;

/// Handle to a running control plane. Dropping it stops the server at once, without handing
/// leadership over; [`Running::shutdown`] is the clean way.
pub struct Running {
    shared: Arc<Shared>,
    opened: Opened,
    server: Server,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("local_addr", &self.local_addr())
            .finish_non_exhaustive()
    }
}

impl Running {
    pub(crate) fn new(
        shared: Arc<Shared>,
        opened: Opened,
        server: Server,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        tasks.close();
        Self {
            shared,
            opened,
            server,
            stop,
            tasks,
        }
    }

    /// The address that is bound; the port is never 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local
    }

    /// Where programs on this machine reach the API: `https://host:port`.
    pub fn url(&self) -> String {
        format!(
            "https://{}",
            SocketAddr::new(self.shared.config.local_address(), self.shared.local.port())
        )
    }

    /// The kubeconfig that was asked for.
    pub fn kubeconfig_path(&self) -> Option<&Path> {
        self.shared
            .config
            .kubeconfig
            .as_ref()
            .map(|output| output.path.as_path())
    }

    /// The text of an administrator's kubeconfig. Secret.
    pub fn kubeconfig(&self) -> Result<Secret, crate::StartError> {
        let path = self
            .shared
            .config
            .layout
            .server()
            .join("cred/admin.kubeconfig");
        let text = crate::files::read_text(&path)?;
        text.map(Secret::new)
            .ok_or_else(|| crate::StartError::File {
                source: std::io::ErrorKind::NotFound.into(),
                path,
            })
    }

    /// The CA of the serving certificates (PEM).
    pub fn server_ca(&self) -> Bytes {
        self.shared.identity.server_ca.cert_pem().to_owned().into()
    }

    /// The full token for servers.
    pub fn server_token(&self) -> Token {
        self.shared.identity.server_token()
    }

    /// The full token for agents, such as the one inside this server.
    pub fn agent_token(&self) -> Token {
        self.shared.identity.agent_token()
    }

    /// Name of this node, as it was made fit for Kubernetes.
    pub fn node_name(&self) -> &str {
        &self.shared.config.node_name
    }

    /// Returns when the Kubernetes API is served for the first time.
    pub async fn ready(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.shared.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Whether the Kubernetes API is served.
    pub fn is_ready(&self) -> bool {
        *self.shared.ready.borrow()
    }

    /// What the server waits for, if it does.
    pub fn waiting(&self) -> Option<WaitReport> {
        self.shared.waiting()
    }

    /// The state of the cluster; works without a quorum.
    pub async fn report(&self) -> ClusterReport {
        supervisor::report(&self.shared, false).await
    }

    /// The store.
    pub fn datastore(&self) -> Arc<dyn Datastore> {
        Arc::clone(&self.opened.store)
    }

    /// The Kubernetes API.
    pub fn api(&self) -> Arc<ApiServer> {
        Arc::clone(&self.opened.api)
    }

    /// Stops: watches end, open requests get a moment, leadership is handed over, everything
    /// is made durable. Calling it twice is fine.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
        self.shared.ready.send_replace(false);
        // The API first: its watches would keep connections open.
        self.opened.api.shutdown().await;
        self.server.shutdown().await;
        self.opened.store.shutdown().await;
        tracing::info!(node = %self.shared.config.node_name, "stopped");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
        // The first step of a shutdown tells all background work to stop; the rest only waits.
        let _ = self.opened.api.shutdown().now_or_never();
    }
}
