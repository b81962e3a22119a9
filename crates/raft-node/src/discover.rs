//! Asking members about their cluster before belonging to it.

use std::time::Duration;

use crate::api::{ClusterView, PeerRole, PeerSecurity};
use crate::consensus::{StoredMembership, codec};
use crate::peers::client::GrpcTransport;
use crate::peers::proto::{self, call_request, call_response};
use crate::peers::{PeerAddress, PeerTransport};

/// Asks each of `peer_urls` who belongs to its cluster, all at once, and waits up to `limit` for
/// the answers. They come in the order of the questions; an error says why there is none.
/// Changes nothing anywhere.
pub async fn ask_members(
    security: &PeerSecurity,
    peer_urls: &[String],
    limit: Duration,
) -> Vec<Result<ClusterView, String>> {
    let transport = GrpcTransport::new(security.clone(), Vec::new());
    ask_members_on(&transport, peer_urls, limit).await
}

/// [`ask_members`] on another network.
pub(crate) async fn ask_members_on(
    transport: &dyn PeerTransport,
    peer_urls: &[String],
    limit: Duration,
) -> Vec<Result<ClusterView, String>> {
    let questions = peer_urls.iter().map(|url| async move {
        let to = PeerAddress {
            id: 0,
            url: url.clone(),
        };
        let request = proto::CallRequest {
            header: Some(proto::Header::default()),
            body: Some(call_request::Body::Members(proto::Members {})),
        };
        match transport.call(&to, request, limit).await {
            Ok(proto::CallResponse {
                body: Some(call_response::Body::Members(answer)),
            }) => view(&answer).map_err(|error| error.to_string()),
            Ok(proto::CallResponse {
                body: Some(call_response::Body::Failure(failure)),
            }) => Err(failure.message),
            Ok(_) => Err("no usable answer".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    });
    futures_util::future::join_all(questions).await
}

fn view(answer: &proto::MembersAnswer) -> Result<ClusterView, codec::Invalid> {
    let stored = answer
        .membership
        .as_ref()
        .ok_or_else(|| codec::Invalid::new("answer", "no membership"))?;
    let stored = codec::stored_membership_from_proto(stored)?;
    let member =
        |(id, member): (&u64, &crate::consensus::Member)| (member.to_peer(*id), role(&stored, *id));
    Ok(ClusterView {
        cluster_id: answer.cluster_id,
        answered_by: answer.id,
        leader: (answer.leader != 0).then_some(answer.leader),
        membership_index: stored.log_id().map_or(0, |id| id.index),
        members: stored.nodes().map(member).collect(),
    })
}

/// The role of a member in a membership that lists it.
pub(crate) fn role(membership: &StoredMembership, id: u64) -> PeerRole {
    if membership.voter_ids().any(|voter| voter == id) {
        PeerRole::Voter
    } else if membership
        .get_node(&id)
        .is_some_and(|member| member.voter_to_be)
    {
        PeerRole::VoterToBe
    } else {
        PeerRole::Learner
    }
}
