//! Asking a peer for a change of the membership.

use std::time::Duration;

use crate::api::{Peer, Result};
use crate::consensus::{Member, codec};
use crate::peers::proto::{call_response, change};
use crate::peers::{CallError, PeerAddress, PeerTransport, proto};
use crate::propose::AskError;
use crate::shared::failure_to_error;

/// Asks one peer for a change.
pub(crate) async fn change_call(
    transport: &dyn PeerTransport,
    to: &PeerAddress,
    request: proto::CallRequest,
    limit: Duration,
) -> Result<(), AskError> {
    match transport.call(to, request, limit).await {
        Ok(proto::CallResponse {
            body: Some(call_response::Body::Done(_)),
        }) => Ok(()),
        Ok(proto::CallResponse {
            body: Some(call_response::Body::Failure(failure)),
        }) => Err(failure_to_error(&failure).map_or(AskError::Retry, AskError::Failed)),
        Ok(_) => Err(AskError::Lost("the peer answered something else".into())),
        Err(CallError::NotSent(_)) => Err(AskError::Retry),
        Err(error @ CallError::Lost(_)) => Err(AskError::Lost(error.to_string())),
    }
}

/// The change that makes a peer do `kind`.
pub(crate) fn change(kind: change::Kind) -> proto::Change {
    proto::Change {
        kind: Some(kind),
        forwarded: false,
    }
}

pub(crate) fn peer_to_proto(peer: &Peer) -> proto::Member {
    codec::member_to_proto(peer.id, &Member::from(peer))
}
