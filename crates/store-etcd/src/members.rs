//! Membership as a control plane sees it.

use std::sync::Arc;

use async_trait::async_trait;
use trivet_datastore::{
    Cluster, ClusterStatus, Effect, Error, Member, MemberId, MemberRole, Result,
};
use trivet_raft_node::{self as raft, PeerRole, PeerStatus};

use crate::engine::Engine;
use crate::failure::Failure;
use crate::founding::split_urls;

pub(crate) struct Members {
    engine: Arc<Engine>,
}

impl Members {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[async_trait]
impl Cluster for Members {
    async fn status(&self) -> Result<ClusterStatus> {
        let status = self.engine.node.status();
        Ok(ClusterStatus {
            cluster_id: status.cluster_id,
            local: MemberId(status.local),
            leader: status.leader.map(MemberId),
            term: status.term,
            last_index: status.last_index,
            committed_index: status.committed_index,
            applied_index: status.applied_index,
            members: status.peers.iter().map(member).collect(),
        })
    }

    async fn remove_member(&self, id: MemberId) -> Result<()> {
        self.engine.node.remove(id.0).await.map_err(refused)
    }

    async fn transfer_leadership(&self, to: Option<MemberId>) -> Result<()> {
        let status = self.engine.node.status();
        if status.leader != Some(status.local) {
            return Err(Error::Invalid("this member does not lead".to_owned()));
        }
        let transfer = self.engine.node.transfer_leadership(to.map(|id| id.0));
        match tokio::time::timeout(self.engine.timing.request, transfer).await {
            Ok(outcome) => outcome.map_err(refused),
            Err(_) => Err(Error::Unavailable {
                reason: "handing leadership over took too long".to_owned(),
                retry_after: None,
                effect: Effect::Unknown,
            }),
        }
    }
}

fn refused(error: raft::Error) -> Error {
    Failure::Raft(error).into()
}

fn member(status: &PeerStatus) -> Member {
    Member {
        id: MemberId(status.peer.id),
        name: status.peer.name.clone(),
        peer_urls: split_urls(&status.peer.peer_url),
        client_urls: split_urls(&status.peer.client_url),
        role: match status.role {
            PeerRole::Voter => MemberRole::Voter,
            PeerRole::Learner | PeerRole::VoterToBe => MemberRole::Learner,
        },
        matched_index: status.matched_index,
        last_contact: status.last_contact,
    }
}
