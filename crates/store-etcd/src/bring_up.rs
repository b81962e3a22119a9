//! From a claimed directory to a running node, past damage that can be healed.

use std::sync::Arc;

use trivet_datastore::{Error, Result};
use trivet_raft_node::{self as raft, NodeConfig, Peer, RaftNode, StartMode};

use crate::aside;
use crate::checks::{Desk, Queries};
use crate::config::{PeerSettings, StoreConfig};
use crate::failure::Failure;
use crate::format::Format;
use crate::founding::join_urls;
use crate::heal;
use crate::lease::LeaseKeeper;
use crate::limits::Timing;
use crate::members_file;
use crate::metered::metered;
use crate::metrics::Metrics;
use crate::open::{RAFT_DIR, STATE_DIR, io, release};
use crate::state::{self, Machine, OpenError, Shared, StateConfig};
use crate::testing::Bench;
use crate::tls;

/// A member that runs.
pub(crate) struct Started {
    pub(crate) node: Arc<RaftNode>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) keeper: Arc<LeaseKeeper>,
    /// The member as it describes itself.
    pub(crate) local: Peer,
    pub(crate) format: Format,
}

/// Why a member does not run.
pub(crate) enum Fault {
    /// The log is damaged or missing. Everything this member promised is lost with it.
    Log(raft::Error),
    /// Anything else.
    Other(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Opens the state and starts the node. Where its disk does not give back what was written to
/// it, the member gets another copy from its peers if that can be done safely: see [`heal`].
pub(crate) async fn start(
    config: &StoreConfig,
    bench: Option<&Bench>,
    (timing, metrics): (Timing, &Arc<Metrics>),
    format: Format,
    mode: StartMode,
) -> Result<Started> {
    let members = members_file::load(&*config.env.disk, &config.dir);
    let place = Place::of(config, bench)?;
    if format.ready {
        heal::check_place(config, &place.url, &format, &members)?;
    }
    let mode = match format.replaces {
        Some(old) if !format.ready => heal::replacement(&format, old, &members)?,
        _ => mode,
    };
    let joining = matches!(mode, StartMode::Join { .. });
    match attempt(config, &place, (timing, metrics), &format, mode.clone()).await {
        Ok(started) => Ok(started),
        Err(Fault::Log(damage)) if format.ready && mode == StartMode::Resume => {
            let format = heal::become_another(config, &place, &format, &members, &damage).await?;
            let mode = match format.replaces {
                Some(old) => heal::replacement(&format, old, &members)?,
                None => mode,
            };
            match attempt(config, &place, (timing, metrics), &format, mode).await {
                Ok(started) => Ok(started),
                Err(Fault::Log(damage)) => Err(Failure::Raft(damage).into()),
                Err(Fault::Other(error)) => Err(error),
            }
        }
        Err(Fault::Log(damage)) => Err(Failure::Raft(damage).into()),
        Err(Fault::Other(error)) => {
            if joining {
                release(config);
            }
            Err(error)
        }
    }
}

/// Where the member stands in the network.
pub(crate) struct Place<'a> {
    pub(crate) bench: Option<&'a Bench>,
    peers: Option<PeerSettings>,
    /// Its address for peers.
    pub(crate) url: String,
}

impl<'a> Place<'a> {
    fn of(config: &StoreConfig, bench: Option<&'a Bench>) -> Result<Self> {
        if let Some(bench) = bench {
            return Ok(Self {
                bench: Some(bench),
                peers: None,
                url: bench.url(&config.member_name),
            });
        }
        let peers = match &config.peers {
            Some(peers) => peers.clone(),
            None => tls::alone(config.env.clock.wall())?,
        };
        Ok(Self {
            bench: None,
            url: peers.url.clone(),
            peers: Some(peers),
        })
    }

    pub(crate) fn local(&self, config: &StoreConfig, id: u64) -> Peer {
        Peer {
            id,
            name: config.member_name.clone(),
            peer_url: self.url.clone(),
            client_url: join_urls(&config.client_urls),
        }
    }

    pub(crate) fn parts(
        &self,
        config: &StoreConfig,
        bench: &Bench,
        format: &Format,
        start: StartMode,
    ) -> raft::testing::Parts {
        raft::testing::Parts {
            env: config.env.clone(),
            dir: config.dir.join(RAFT_DIR),
            local: self.local(config, format.member_id),
            cluster_id: format.cluster_id,
            heartbeat: config.heartbeat,
            election_timeout: config.election_timeout,
            start,
            retention: bench.retention,
            plaintext_urls: false,
        }
    }

    pub(crate) fn node(
        &self,
        config: &StoreConfig,
        format: &Format,
        start: StartMode,
    ) -> Option<NodeConfig> {
        let peers = self.peers.clone()?;
        Some(NodeConfig {
            env: config.env.clone(),
            dir: config.dir.join(RAFT_DIR),
            local: self.local(config, format.member_id),
            cluster_id: format.cluster_id,
            listen: peers.listen,
            security: peers.security,
            heartbeat: config.heartbeat,
            election_timeout: config.election_timeout,
            start,
        })
    }
}

async fn attempt(
    config: &StoreConfig,
    place: &Place<'_>,
    (timing, metrics): (Timing, &Arc<Metrics>),
    format: &Format,
    mode: StartMode,
) -> Result<Started, Fault> {
    if format.ready && mode == StartMode::Resume {
        heal::log_is_there(config)?;
    }
    let (machine, shared) = open_state(config, place.bench, metrics, format).await?;
    let keeper = LeaseKeeper::new(config.env.clone(), shared.clone(), timing, metrics.clone());
    let machine = Box::new(machine);
    let queries = Arc::new(Queries {
        keeper: keeper.clone(),
        shared: shared.clone(),
        desk: Desk::default(),
        bytes_per_second: config.checks.bytes_per_second,
    });
    let node = match (place.bench, place.node(config, format, mode.clone())) {
        (Some(bench), _) => {
            let mut parts = place.parts(config, bench, format, mode);
            parts.env = metered(&config.env, metrics, |metrics| &metrics.log_sync);
            raft::testing::start(parts, machine, queries, &bench.network).await
        }
        (None, Some(mut node)) => {
            node.env = metered(&config.env, metrics, |metrics| &metrics.log_sync);
            RaftNode::start(node, machine, queries).await
        }
        (None, None) => Err(raft::Error::Refused("there is no peer address".to_owned())),
    };
    match node {
        Ok(node) => Ok(Started {
            node,
            shared,
            keeper,
            local: place.local(config, format.member_id),
            format: format.clone(),
        }),
        Err(error @ raft::Error::Damaged { .. }) => Err(Fault::Log(error)),
        Err(error) => Err(Fault::Other(Failure::Raft(error).into())),
    }
}

async fn open_state(
    config: &StoreConfig,
    bench: Option<&Bench>,
    metrics: &Arc<Metrics>,
    format: &Format,
) -> Result<(Machine, Arc<Shared>), Fault> {
    let settings = || {
        let mut state = StateConfig::new(
            metered(&config.env, metrics, |metrics| &metrics.state_sync),
            config.dir.join(STATE_DIR),
        );
        if let Some(bench) = bench {
            state.limits = bench.limits;
        }
        state
    };
    let refused = |error: OpenError| Error::Corrupt(format!("the replicated state: {error}"));
    match state::open(settings()) {
        Ok(opened) => Ok(opened),
        Err(OpenError::Damaged(what)) => {
            heal::state_can_be_had_again(config, format, &what).await?;
            aside::set_aside(&*config.env.disk, &config.dir.join(STATE_DIR))
                .map_err(|error| io(&error))?;
            state::open(settings()).map_err(|error| refused(error).into())
        }
        Err(error) => Err(refused(error).into()),
    }
}
