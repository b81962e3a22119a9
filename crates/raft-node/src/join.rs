//! Joining, seen from the member that wants in.

use std::time::Duration;

use tokio::time::Instant;

use crate::api::{Error, Peer, Result};
use crate::change::{change, change_call, peer_to_proto};
use crate::peers::proto::{call_request, call_response, change::Kind};
use crate::peers::{CallError, PeerAddress, PeerTransport, proto};
use crate::propose::AskError;

/// A pause between two rounds through the listed members.
const PAUSE: Duration = Duration::from_millis(300);

/// How often waiting is spoken of.
const SPEAK: Duration = Duration::from_secs(10);

/// Limit for short questions.
const QUESTION: Duration = Duration::from_secs(10);

/// Limit for one turn at being taken in; the leader ends its turn before that.
const TURN: Duration = Duration::from_secs(60);

/// Says now and then for what this member waits.
struct Patience {
    since: Instant,
    spoken: Instant,
}

impl Patience {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            since: now,
            spoken: now,
        }
    }

    async fn wait(&mut self, why: &str) {
        if self.spoken.elapsed() >= SPEAK {
            self.spoken = Instant::now();
            tracing::warn!(
                waiting_s = self.since.elapsed().as_secs(),
                why,
                "still waiting to join the cluster"
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn request(cluster_id: u64, local: &Peer, body: call_request::Body) -> proto::CallRequest {
    let header = proto::Header {
        cluster_id,
        from: local.id,
        to: 0,
    };
    proto::CallRequest {
        header: Some(header),
        body: Some(body),
    }
}

/// Learns which cluster answers at `peer_urls`, and whether it would take this member in.
/// Changes nothing anywhere. Waits for as long as nobody can be reached.
pub(crate) async fn probe(
    transport: &dyn PeerTransport,
    local: &Peer,
    peer_urls: &[String],
) -> Result<u64> {
    let check = Kind::CheckJoin(peer_to_proto(local));
    first_answer(transport, local, peer_urls, 0, &check).await
}

/// Waits until the cluster would take `local` in the place of member `old`. Changes nothing
/// anywhere.
pub(crate) async fn replaceable(
    transport: &dyn PeerTransport,
    cluster_id: u64,
    local: &Peer,
    old: u64,
    peer_urls: &[String],
) -> Result<()> {
    let check = Kind::CheckReplace(replacement(old, local));
    first_answer(transport, local, peer_urls, cluster_id, &check)
        .await
        .map(drop)
}

fn replacement(old: u64, local: &Peer) -> proto::Replace {
    proto::Replace {
        old,
        member: Some(peer_to_proto(local)),
    }
}

/// The identity of the cluster in which a leader says yes to `check`. With `expected` other than
/// 0 no other cluster will do.
async fn first_answer(
    transport: &dyn PeerTransport,
    local: &Peer,
    peer_urls: &[String],
    expected: u64,
    check: &Kind,
) -> Result<u64> {
    if peer_urls.is_empty() {
        return Err(Error::Refused("no members to join were given".into()));
    }
    let mut patience = Patience::new();
    loop {
        let mut why = String::new();
        for url in peer_urls {
            let to = PeerAddress {
                id: 0,
                url: url.clone(),
            };
            let ping = request(0, local, call_request::Body::Ping(proto::Ping {}));
            let cluster_id = match transport.call(&to, ping, QUESTION).await {
                Ok(proto::CallResponse {
                    body: Some(call_response::Body::Pong(pong)),
                }) => pong.cluster_id,
                Ok(proto::CallResponse {
                    body: Some(call_response::Body::Failure(failure)),
                }) => {
                    why = format!("{url}: {}", failure.message);
                    continue;
                }
                Ok(_) => {
                    why = format!("{url} gave no usable answer");
                    continue;
                }
                Err(CallError::NotSent(reason) | CallError::Lost(reason)) => {
                    why = format!("{url}: {reason}");
                    continue;
                }
            };
            if expected != 0 && cluster_id != expected {
                why = format!("{url} belongs to cluster {cluster_id:x}, not to {expected:x}");
                continue;
            }
            let check = change(check.clone());
            let check = request(cluster_id, local, call_request::Body::Change(check));
            match change_call(transport, &to, check, QUESTION).await {
                Ok(()) => return Ok(cluster_id),
                Err(AskError::Failed(error @ Error::Refused(_))) => return Err(error),
                Err(AskError::Failed(error)) => why = format!("{url}: {error}"),
                Err(AskError::Lost(reason)) => why = format!("{url}: {reason}"),
                Err(AskError::Retry) => why = format!("{url}: the cluster has no leader"),
            }
        }
        patience.wait(&why).await;
    }
}

/// Asks to be taken in, in the place of `old` if there is one, until a leader has done so.
/// Returns early only when refused.
pub(crate) async fn ask(
    transport: &dyn PeerTransport,
    cluster_id: u64,
    local: &Peer,
    old: Option<u64>,
    peer_urls: &[String],
) -> Result<()> {
    let mut patience = Patience::new();
    loop {
        let mut why = String::new();
        for url in peer_urls {
            let to = PeerAddress {
                id: 0,
                url: url.clone(),
            };
            let join = change(match old {
                Some(old) => Kind::Replace(replacement(old, local)),
                None => Kind::Join(peer_to_proto(local)),
            });
            let join = request(cluster_id, local, call_request::Body::Change(join));
            match change_call(transport, &to, join, TURN).await {
                Ok(()) => return Ok(()),
                Err(AskError::Failed(error @ Error::Refused(_))) => return Err(error),
                Err(AskError::Failed(Error::Overloaded)) => {
                    why = "this member has not caught up yet".into();
                }
                Err(AskError::Failed(error)) => why = format!("{url}: {error}"),
                Err(AskError::Lost(reason)) => why = format!("{url}: {reason}"),
                Err(AskError::Retry) => {
                    why = format!("{url}: the cluster has no leader or cannot be reached");
                }
            }
        }
        patience.wait(&why).await;
    }
}
