//! Membership.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use trivet_raft_node::{self as raft, NodeStatus, Peer, PeerRole, PeerStatus};

use super::reconfig::{self, is_started, unstarted};
use super::status::Refusal;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::founding::{join_urls, split_urls};
use crate::lease::{Question, decode_progress};
use crate::limits::{LEARNER_READY_PERCENT, MAX_LEARNERS};
use crate::proto::etcdserverpb as pb;

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

    /// The URLs of a member that is to be added or changed: scheme, host and port, no path.
    fn peer_urls(&self, urls: &[String]) -> Result<Vec<String>, Refusal> {
        let plaintext = self.engine.rules.plaintext_urls;
        if urls.is_empty() || !urls.iter().all(|url| is_peer_url(url, plaintext)) {
            return Err(Refusal::MemberUrlsInvalid);
        }
        Ok(urls.to_vec())
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
        let urls = self.peer_urls(&request.peer_ur_ls)?;
        let status = self.settled().await?;
        if let Some(strict) = self.engine.rules.strict {
            reconfig::may_add(&status, request.is_learner, strict.connected)?;
        }
        if is_taken(&status, &urls, None) {
            return Err(Refusal::PeerUrlExists.into());
        }
        let learners = status
            .peers
            .iter()
            .filter(|peer| peer.role == PeerRole::Learner);
        if request.is_learner && learners.count() >= MAX_LEARNERS {
            return Err(Refusal::TooManyLearners.into());
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
            peer_url: join_urls(&urls),
            client_url: String::new(),
        };
        if request.is_learner {
            self.change(self.engine.node.add_learner(peer)).await?;
        } else {
            // It need not run yet; it counts towards the quorum once it has caught up.
            self.change(self.engine.node.add_voter(peer)).await?;
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
        if let Some(strict) = self.engine.rules.strict {
            reconfig::may_remove(&status, target, strict.connected)?;
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
        let status = self.settled().await?;
        let target = find(&status, request.id)?;
        let urls = self.peer_urls(&request.peer_ur_ls)?;
        if is_taken(&status, &urls, Some(request.id)) {
            return Err(Refusal::PeerUrlExists.into());
        }
        let peer = Peer {
            peer_url: join_urls(&urls),
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
        if self.engine.rules.strict.is_some() {
            reconfig::may_promote(&status)?;
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
    pb::Member {
        id: peer.peer.id,
        name: if is_started(&peer.peer) {
            peer.peer.name.clone()
        } else {
            String::new()
        },
        peer_ur_ls: split_urls(&peer.peer.peer_url),
        client_ur_ls: split_urls(&peer.peer.client_url),
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

/// Whether another member listens at one of these.
fn is_taken(status: &NodeStatus, urls: &[String], except: Option<u64>) -> bool {
    status
        .peers
        .iter()
        .filter(|peer| Some(peer.peer.id) != except)
        .flat_map(|peer| split_urls(&peer.peer.peer_url))
        .any(|known| urls.contains(&known))
}

fn is_peer_url(url: &str, plaintext: bool) -> bool {
    let host = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://").filter(|_| plaintext));
    host.is_some_and(|host| {
        !host.contains(['/', '?', '#', '@', ','])
            && host.parse::<http::uri::Authority>().is_ok_and(|authority| {
                !authority.host().is_empty() && authority.port_u16().is_some()
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_scheme_host_and_port() {
        for good in [
            "https://10.0.0.1:2380",
            "https://[::1]:2380",
            "https://node-1.example:2380",
        ] {
            assert!(is_peer_url(good, false), "{good}");
        }
        for bad in [
            "",
            "10.0.0.1:2380",
            "https://",
            "https://h",
            "https://h:2380/",
            "https://h:2380/x",
            "https://a:1,https://b:1",
            "http://h:1",
            "https://u@h:1",
            "https://h:port",
            "https://:2380",
        ] {
            assert!(!is_peer_url(bad, false), "{bad:?}");
        }
        assert!(is_peer_url("http://h:1", true));
        assert!(!is_peer_url("unix://h:1", true));
    }
}
