//! Opening a node's door, and becoming what its start mode asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::errors::{InitializeError, RaftError};
use tokio::sync::watch;

use crate::api::{Error, Peer, PeerRole, Result, StartMode};
use crate::consensus::{Member, StoredMembership};
use crate::discover::role;
use crate::join;
use crate::node::{RaftNode, storage};
use crate::peers::proto;
use crate::service::Service;
use crate::shared::Shared;
use crate::start::Parts;
use crate::tasks;

/// Opens the door and becomes what the start mode asks for.
pub(crate) async fn bring_up(
    node: &Arc<RaftNode>,
    parts: &Parts,
    identity: &proto::Identity,
    told: watch::Receiver<Option<crate::consensus::LogId>>,
    joined: Arc<AtomicBool>,
) -> Result<()> {
    let shared = &node.shared;
    let stop = shared.failure.token();
    let removal = tasks::notice_removal(shared.clone(), told, joined.clone());
    tasks::spawn(&node.tracker, &stop, &shared.failure, "membership", removal);
    let service = Arc::new(Service(shared.clone()));
    let serving = shared
        .transport
        .serve(service, stop.clone())
        .await
        .map_err(storage)?;
    let (failure, stopping) = (shared.failure.clone(), stop.clone());
    node.tracker.spawn(async move {
        serving.await;
        if !stopping.is_cancelled() {
            failure.set(&"the peer listener ended");
        }
    });
    if identity.joined {
        return Ok(());
    }
    match &parts.start {
        StartMode::Resume | StartMode::StandAlone => return Ok(()),
        StartMode::Found => found(shared, std::slice::from_ref(&parts.local)).await?,
        StartMode::Static { members } => found(shared, members).await?,
        StartMode::Added => {
            be_member(shared).await?;
            return note_joined(shared, identity, &joined).await;
        }
        StartMode::Join { peer_urls } | StartMode::Replace { peer_urls, .. } => {
            let old = match parts.start {
                StartMode::Replace { old, .. } => Some(old),
                _ => None,
            };
            let asked = join::ask(
                shared.transport.as_ref(),
                identity.cluster_id,
                &parts.local,
                old,
                peer_urls,
            );
            tokio::select! {
                taken = asked => taken?,
                stop = shared.failure.stopped() => return Err(stop.error()),
            }
        }
    }
    be_voter(shared).await?;
    note_joined(shared, identity, &joined).await
}

/// From now on this member need not ask for anything when it starts.
async fn note_joined(
    shared: &Arc<Shared>,
    identity: &proto::Identity,
    joined: &AtomicBool,
) -> Result<()> {
    let identity = proto::Identity {
        joined: true,
        ..*identity
    };
    shared.log.save_identity(&identity).await.map_err(storage)?;
    joined.store(true, Ordering::Release);
    Ok(())
}

/// Puts the founding membership in the log, unless another founder was faster.
async fn found(node: &Arc<Shared>, members: &[Peer]) -> Result<()> {
    if node.raft.is_initialized().await.map_err(storage)? {
        return Ok(());
    }
    let members: std::collections::BTreeMap<u64, Member> = members
        .iter()
        .map(|peer| (peer.id, Member::from(peer)))
        .collect();
    match node.raft.initialize(members).await {
        // A candidate asked for this member's vote just now: the list comes with the log.
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        done => done.map_err(storage),
    }
}

/// Waits until this member counts as a voter in its own applied log, and knows a leader.
async fn be_voter(node: &Arc<Shared>) -> Result<()> {
    let local = node.local.id;
    settled(node, move |stored| {
        // During a joint change it is listed already; the change ends by itself.
        role(stored, local) == PeerRole::Voter && stored.get_joint_config().len() == 1
    })
    .await
}

/// Waits until this member is what it was added as in its own applied log, and knows a leader.
async fn be_member(node: &Arc<Shared>) -> Result<()> {
    let local = node.local.id;
    settled(node, move |stored| {
        stored.get_node(&local).is_some()
            && role(stored, local) != PeerRole::VoterToBe
            && stored.get_joint_config().len() == 1
    })
    .await
}

async fn settled(
    node: &Arc<Shared>,
    listed: impl Fn(&StoredMembership) -> bool + Send,
) -> Result<()> {
    let mut membership = node.machine.watch_membership();
    let mut leadership = node.leadership.subscribe();
    let ready = async {
        membership
            .wait_for(|stored| listed(stored))
            .await
            .map_err(|_| Error::Stopped)
            .map(|_| ())?;
        leadership
            .wait_for(|now| now.leader.is_some())
            .await
            .map_err(|_| Error::Stopped)
            .map(|_| ())
    };
    tokio::select! {
        ready = ready => ready,
        stop = node.failure.stopped() => Err(stop.error()),
    }
}
