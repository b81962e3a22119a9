//! The life of an agent: join, beat, follow the servers, stop.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trivet_env::Env;
use trivet_https::Client;
use trivet_join::{JoinError, NodeIdentity, Token};

use crate::api::Api;
use crate::balancer::Balancer;
use crate::credentials::{self, Credentials};
use crate::heartbeat;
use crate::identity::{self, IdentityError};
use crate::machine::Machine;
use crate::node::NodeConfig;

/// Between attempts while no server answers; jitter is added so that a rack that comes back
/// does not ask in step.
const RETRY: Duration = Duration::from_secs(3);

/// After so many failed heartbeats in a row another server is tried: the current one may be
/// alive and yet cut off from the cluster.
const MOVE_ON_AFTER: u32 = 2;

/// Between two watches on the list of servers.
const FOLLOW_RETRY: Duration = Duration::from_secs(5);

/// How the agent reaches the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Straight to `server_url`: inside a server, which is its own API.
    Direct,
    /// Through a load balancer on this address.
    Balanced {
        /// Where it listens.
        listen: SocketAddr,
    },
}

/// Settings of an agent.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// A server of the cluster, `https://host:port`.
    pub server_url: String,
    /// The token.
    pub token: Token,
    /// State goes to `<data_dir>/agent`.
    pub data_dir: PathBuf,
    /// Where the node password is kept.
    pub identity_dir: PathBuf,
    /// The node.
    pub node: NodeConfig,
    /// How to reach the cluster.
    pub connection: Connection,
}

/// Why an agent cannot run. Servers that do not answer are no reason: they are waited for.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The cluster refused this node.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// No usable name or password.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The load balancer cannot listen.
    #[error("the load balancer cannot listen on {listen}: {source}")]
    Balancer {
        /// The address.
        listen: SocketAddr,
        /// The cause.
        source: io::Error,
    },
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    stop: CancellationToken,
    tasks: TaskTracker,
    balancer: Option<Balancer>,
}

struct Shared {
    config: AgentConfig,
    env: Env,
    credentials: Credentials,
    identity: NodeIdentity,
    machine: Machine,
    balancer: Option<Balancer>,
}

impl Agent {
    /// Starts the load balancer, joins, and goes on in the background. Waits, with a line in the
    /// log every few seconds, while no server answers; a refusal is an error. Dropping the
    /// future before it is done abandons the attempt.
    pub async fn start(config: AgentConfig, env: Env) -> Result<Self, AgentError> {
        let password = identity::node_password(&config.identity_dir, env.rng.as_ref())?;
        let balancer = match config.connection {
            Connection::Direct => None,
            Connection::Balanced { listen } => {
                let state = config
                    .data_dir
                    .join("agent/etc/k3s-agent-load-balancer.json");
                let balancer = Balancer::start(listen, &config.server_url, state, env.rng.clone())
                    .await
                    .map_err(|source| AgentError::Balancer { listen, source })?;
                tracing::info!(listen = %balancer.local_addr(), "the load balancer is listening");
                Some(balancer)
            }
        };
        // Behind the balancer may be any server: what all their certificates share is 127.0.0.1.
        let (url, dial) = match &balancer {
            None => (config.server_url.clone(), None),
            Some(balancer) => {
                let listen = balancer.local_addr();
                (
                    format!("https://127.0.0.1:{}", listen.port()),
                    Some(listen.to_string()),
                )
            }
        };
        let shared = Arc::new(Shared {
            credentials: Credentials::new(&config.data_dir, &url, dial),
            identity: credentials::identity(&config.node.name, password, &config.node.internal_ips),
            machine: Machine::read(&config.data_dir),
            balancer: balancer.clone(),
            config,
            env,
        });
        let client = shared.join().await?;
        let agent = Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            balancer,
        };
        let api = Api::new(client);
        if agent.balancer.is_some() {
            let follow = follow_servers(shared.clone(), api.clone());
            agent
                .tasks
                .spawn(agent.stop.clone().run_until_cancelled_owned(follow));
        }
        let beat = keep_beating(shared, api);
        agent
            .tasks
            .spawn(agent.stop.clone().run_until_cancelled_owned(beat));
        Ok(agent)
    }

    /// The load balancer, where there is one.
    pub fn balancer(&self) -> Option<&Balancer> {
        self.balancer.as_ref()
    }

    /// Ends every task and connection. The node stays registered; the cluster notices its
    /// silence.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(balancer) = self.balancer {
            balancer.shutdown().await;
        }
    }
}

impl Shared {
    /// A client in the node's name, waiting for servers as long as it takes.
    async fn join(&self) -> Result<Client, JoinError> {
        if let Some(client) =
            self.credentials
                .stored(&self.identity, &self.config.token, self.env.clock.wall())
        {
            tracing::info!("using the certificate from the last start");
            return Ok(client);
        }
        self.request().await
    }

    /// A new certificate, waiting for servers as long as it takes.
    async fn request(&self) -> Result<Client, JoinError> {
        let began = self.env.clock.monotonic();
        loop {
            let now = self.env.clock.wall();
            match self
                .credentials
                .request(&self.identity, &self.config.token, now)
                .await
            {
                Ok(client) => return Ok(client),
                Err(error) if error.is_transient() => {
                    let waited = self.env.clock.monotonic().saturating_sub(began);
                    tracing::info!(
                        waited_seconds = waited.as_secs(),
                        "waiting for a server of the cluster: {error}"
                    );
                }
                Err(error) => return Err(error),
            }
            self.pause(RETRY).await;
        }
    }

    async fn pause(&self, base: Duration) {
        let jitter = Duration::from_millis(self.env.rng.next_u64() % 1000);
        tokio::time::sleep(base + jitter).await;
    }
}

/// Renews the lease and corrects the node for ever.
async fn keep_beating(shared: Arc<Shared>, mut api: Api) {
    let mut failures = 0_u32;
    loop {
        let now = shared.env.clock.wall();
        match heartbeat::beat(&api, &shared.config.node, &shared.machine, now).await {
            Ok(()) => {
                if failures > 0 {
                    tracing::info!("the node's heartbeat goes through again");
                }
                failures = 0;
                tokio::time::sleep(heartbeat::INTERVAL).await;
                continue;
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(%error, "the node's heartbeat did not go through; trying again");
                // 401: the certificate is not of this cluster (any more). A TLS verdict: the
                // servers are not those of the last start.
                let refused = error.status() == Some(http::StatusCode::UNAUTHORIZED)
                    || error.tls_cause().is_some();
                if refused {
                    match shared.request().await {
                        Ok(client) => api = Api::new(client),
                        Err(error) => tracing::error!(%error, "the cluster refuses this node"),
                    }
                }
            }
        }
        if failures.is_multiple_of(MOVE_ON_AFTER)
            && let Some(balancer) = &shared.balancer
        {
            balancer.move_on();
        }
        shared.pause(Duration::from_secs(1)).await;
    }
}

/// Keeps the load balancer's list in step with the cluster.
async fn follow_servers(shared: Arc<Shared>, api: Api) {
    let Some(balancer) = &shared.balancer else {
        return;
    };
    let update = |addresses: Vec<String>| {
        if let Err(error) = balancer.update(&addresses) {
            tracing::warn!(%error, "the load balancer's state file cannot be written");
        }
    };
    loop {
        match shared.credentials.servers(&shared.config.token).await {
            Ok(addresses) => update(addresses),
            Err(error) => tracing::debug!(%error, "cannot ask for the list of servers"),
        }
        if let Err(error) = api.follow_servers(update).await {
            tracing::debug!(%error, "the watch on the list of servers ended");
        }
        shared.pause(FOLLOW_RETRY).await;
    }
}
