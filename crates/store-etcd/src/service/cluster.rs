//! Membership.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use trivet_raft_node::{self as raft, NodeStatus, Peer, PeerRole, PeerStatus};

use super::status::Refusal;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::lease::{Question, decode_progress};
use crate::limits::{LEARNER_READY_PERCENT, MAX_LEARNERS};
use crate::proto::etcdserverpb as pb;

const UNSTARTED: &str = "unstarted@";

pub(crate) struct ClusterService {
    engine: Arc<Engine>,
}

impl ClusterService {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    fn members(&self) -> Vec<pb::Member> {
        let mut members: Vec<_> = self.engine.node.status().peers.iter().map(member).collect();
        members.sort_by_key(|member| member.id);
        members
    }

    /// The membership as the cluster has it now, not as this member last heard.
    async fn settled(&self) -> Result<NodeStatus, Failure> {
        self.engine.barrier().await?;
        Ok(self.engine.node.status())
    }

    /// Runs a membership change within the time of a request.
    async fn change<F>(&self, change: F) -> Result<(), Status>
    where
        F: Future<Output = raft::Result<()>>,
    {
        match tokio::time::timeout(self.engine.timing.request, change).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "a membership change was refused");
                Err(Refusal::from(&error).into())
            }
            Err(_) => Err(Refusal::TimedOut.into()),
        }
    }
}

#[tonic::async_trait]
impl pb::cluster_server::Cluster for ClusterService {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let request = request.into_inner();
        let url = one_peer_url(request.peer_ur_ls)?;
        let status = self.settled().await?;
        if status.peers.iter().any(|peer| peer.peer.peer_url == url) {
            return Err(Refusal::PeerUrlExists.into());
        }
        if request.is_learner {
            if status
                .peers
                .iter()
                .filter(|peer| peer.role == PeerRole::Learner)
                .count()
                >= MAX_LEARNERS
            {
                return Err(Refusal::TooManyLearners.into());
            }
        } else if started_voters(&status, None) < quorum(voters(&status) + 1) && voters(&status) > 1
        {
            return Err(Refusal::NotEnoughStartedMembers.into());
        }
        let id = loop {
            let id = self.engine.env.rng.next_u64();
            if id != 0 && status.peers.iter().all(|peer| peer.peer.id != id) {
                break id;
            }
        };
        let peer = Peer {
            id,
            name: unstarted(id),
            peer_url: url,
            client_url: String::new(),
        };
        self.change(self.engine.node.add_learner(peer.clone()))
            .await?;
        if !request.is_learner
            && let Err(status) = self.change(self.engine.node.promote(id)).await
        {
            // A voter was asked for and cannot be had: leave the membership as it was.
            self.change(self.engine.node.remove(id)).await?;
            return Err(status);
        }
        let members = self.members();
        let added = members.iter().find(|member| member.id == id).cloned();
        Ok(Response::new(pb::MemberAddResponse {
            header: Some(self.engine.header_without_revision()),
            member: added,
            members,
        }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let id = request.into_inner().id;
        let status = self.settled().await?;
        let target = find(&status, id)?;
        if target.role == PeerRole::Voter
            && started_voters(&status, Some(id)) < quorum(voters(&status) - 1)
        {
            return Err(Refusal::NotEnoughStartedMembers.into());
        }
        self.change(self.engine.node.remove(id)).await?;
        Ok(Response::new(pb::MemberRemoveResponse {
            header: Some(self.engine.header_without_revision()),
            members: self.members(),
        }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let request = request.into_inner();
        let peer_url = one_peer_url(request.peer_ur_ls)?;
        let status = self.settled().await?;
        let target = find(&status, request.id)?;
        if status
            .peers
            .iter()
            .any(|peer| peer.peer.id != request.id && peer.peer.peer_url == peer_url)
        {
            return Err(Refusal::PeerUrlExists.into());
        }
        let peer = Peer {
            peer_url,
            ..target.peer.clone()
        };
        self.change(self.engine.node.update_peer(peer)).await?;
        Ok(Response::new(pb::MemberUpdateResponse {
            header: Some(self.engine.header_without_revision()),
            members: self.members(),
        }))
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.engine.barrier().await?;
        }
        Ok(Response::new(pb::MemberListResponse {
            header: Some(self.engine.header_without_revision()),
            members: self.members(),
        }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let id = request.into_inner().id;
        let status = self.settled().await?;
        if find(&status, id)?.role != PeerRole::Learner {
            return Err(Refusal::NotALearner.into());
        }
        if !learner_is_ready(&self.engine, id).await? {
            return Err(Refusal::LearnerNotReady.into());
        }
        self.change(self.engine.node.promote(id)).await?;
        Ok(Response::new(pb::MemberPromoteResponse {
            header: Some(self.engine.header_without_revision()),
            members: self.members(),
        }))
    }
}

/// Whether a learner holds enough of the leader's log to vote.
async fn learner_is_ready(engine: &Engine, id: u64) -> Result<bool, Failure> {
    let answer = engine.ask_leader(Question::Progress(id).encode()).await?;
    Ok(decode_progress(answer).is_some_and(|progress| {
        // 128 bits: a product of two 64-bit numbers.
        u128::from(progress.matched_index) * 100
            >= u128::from(progress.last_index) * u128::from(LEARNER_READY_PERCENT)
    }))
}

fn member(peer: &PeerStatus) -> pb::Member {
    let url = |url: &str| {
        if url.is_empty() {
            Vec::new()
        } else {
            vec![url.to_owned()]
        }
    };
    pb::Member {
        id: peer.peer.id,
        name: if is_started(&peer.peer) {
            peer.peer.name.clone()
        } else {
            String::new()
        },
        peer_ur_ls: url(&peer.peer.peer_url),
        client_ur_ls: url(&peer.peer.client_url),
        is_learner: peer.role == PeerRole::Learner,
    }
}

fn find(status: &NodeStatus, id: u64) -> Result<&PeerStatus, Refusal> {
    status
        .peers
        .iter()
        .find(|peer| peer.peer.id == id)
        .ok_or(Refusal::MemberNotFound)
}

fn voters(status: &NodeStatus) -> usize {
    status
        .peers
        .iter()
        .filter(|peer| peer.role == PeerRole::Voter)
        .count()
}

/// The name of a member that was added and never ran, until it tells its own. The log wants one;
/// etcd's clients know such a member by its empty name.
fn unstarted(id: u64) -> String {
    format!("{UNSTARTED}{id:x}")
}

fn is_started(peer: &Peer) -> bool {
    !peer.name.starts_with(UNSTARTED)
}

/// Voters that ever ran, without one that is to go.
fn started_voters(status: &NodeStatus, without: Option<u64>) -> usize {
    let counts = |peer: &&PeerStatus| {
        peer.role == PeerRole::Voter && is_started(&peer.peer) && Some(peer.peer.id) != without
    };
    status.peers.iter().filter(counts).count()
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// A member has one peer URL here, with TLS: scheme, host and port, no path.
fn one_peer_url(urls: Vec<String>) -> Result<String, Refusal> {
    let [url] = <[String; 1]>::try_from(urls).map_err(|_| Refusal::MemberUrlsInvalid)?;
    let host = url.strip_prefix("https://");
    let valid = host.is_some_and(|host| {
        !host.contains(['/', '?', '#', '@'])
            && host.parse::<http::uri::Authority>().is_ok_and(|authority| {
                !authority.host().is_empty() && authority.port_u16().is_some()
            })
    });
    if valid {
        Ok(url)
    } else {
        Err(Refusal::MemberUrlsInvalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_scheme_host_and_port() {
        let check = |url: &str| one_peer_url(vec![url.to_owned()]);
        for good in [
            "https://10.0.0.1:2380",
            "https://[::1]:2380",
            "https://node-1.example:2380",
        ] {
            assert_eq!(check(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "10.0.0.1:2380",
            "https://",
            "https://h",
            "https://h:2380/",
            "https://h:2380/x",
            "http://h:1",
            "https://u@h:1",
            "https://h:port",
            "https://:2380",
        ] {
            assert_eq!(check(bad), Err(Refusal::MemberUrlsInvalid), "{bad:?}");
        }
        assert_eq!(one_peer_url(Vec::new()), Err(Refusal::MemberUrlsInvalid));
    }
}
