//! The one member of the new cluster: its log begins behind the imported state.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use trivet_datastore::{Error, Result};
use trivet_env::Env;
use trivet_raft_node::{LeaderQuery, NodeConfig, Peer, RaftNode, StartMode};

use crate::backend::NAME;
use crate::failure::Failure;
use crate::format::Format;
use crate::open::{RAFT_DIR, STATE_DIR};
use crate::state::{self, StateConfig};
use crate::tls;

const HEARTBEAT: Duration = Duration::from_millis(100);
const ELECTION: Duration = Duration::from_millis(600);

/// Founds the cluster on the state below `store`. Nothing is served, and no lease ends meanwhile.
pub(super) async fn found(env: &Env, store: &Path) -> Result<Format> {
    let state = StateConfig::new(env.clone(), store.join(STATE_DIR));
    let (machine, _) = tokio::task::spawn_blocking(move || state::open(state))
        .await
        .map_err(|error| Error::Corrupt(error.to_string()))?
        .map_err(|error| Error::Corrupt(format!("the replicated state: {error}")))?;
    let random = || env.rng.next_u64().max(1);
    let format = Format {
        backend: NAME.to_owned(),
        cluster_id: random(),
        member_id: random(),
        ready: true,
        imported_from: None,
        replaces: None,
    };
    let alone = tls::alone(env.clock.wall())?;
    let config = NodeConfig {
        env: env.clone(),
        dir: store.join(RAFT_DIR),
        // Name and addresses are told when the member is started in earnest.
        local: Peer {
            id: format.member_id,
            name: "imported".to_owned(),
            peer_url: alone.url,
            client_url: String::new(),
        },
        cluster_id: format.cluster_id,
        listen: alone.listen,
        security: alone.security,
        heartbeat: HEARTBEAT,
        election_timeout: ELECTION,
        start: StartMode::Found,
    };
    let node = RaftNode::start(config, Box::new(machine), Arc::new(Mute))
        .await
        .map_err(Failure::Raft)?;
    let forgotten = node.forget_log().await;
    node.shutdown().await;
    forgotten.map_err(Failure::Raft)?;
    Ok(format)
}

/// Nobody asks a member that serves nobody.
struct Mute;

#[async_trait]
impl LeaderQuery for Mute {
    async fn answer(&self, _: Bytes) -> Result<Bytes, String> {
        Err("an import is under way".to_owned())
    }
}
