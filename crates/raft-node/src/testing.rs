//! Several members in one process, on a network that breaks on demand.
//!
//! Part of the library and not behind a feature: the tests of the crates above use it as well,
//! and a feature would build everything twice. Messages are the seam, so no certificates and no
//! sockets are needed, and a fault is exactly what the test says.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio_util::sync::CancellationToken;

use crate::api::{LeaderQuery, Result, StateMachine};
use crate::node::RaftNode;
use crate::peers::{CallError, PeerAddress, PeerService, PeerTransport, proto};

pub use crate::start::Parts;
pub use crate::tasks::Retention;

/// How long a message into the void keeps its sender waiting, at most.
const VOID: Duration = Duration::from_millis(300);

/// Starts a member on a simulated network.
///
/// # Errors
/// As [`RaftNode::start`].
pub async fn start(
    parts: Parts,
    machine: Box<dyn StateMachine>,
    query: Arc<dyn LeaderQuery>,
    network: &Network,
) -> Result<Arc<RaftNode>> {
    let url = parts.local.peer_url.clone();
    RaftNode::start_on(
        parts,
        machine,
        query,
        Arc::new(Endpoint {
            network: network.clone(),
            url,
        }),
    )
    .await
}

/// [`crate::ask_members`] on a simulated network, asked by whoever has the address `from`.
pub async fn ask_members(
    network: &Network,
    from: &str,
    peer_urls: &[String],
    limit: Duration,
) -> Vec<Result<crate::ClusterView, String>> {
    let endpoint = Endpoint {
        network: network.clone(),
        url: from.to_owned(),
    };
    crate::discover::ask_members_on(&endpoint, peer_urls, limit).await
}

/// [`RaftNode::replaceable`] on a simulated network.
///
/// # Errors
/// As there.
pub async fn replaceable(
    parts: &Parts,
    network: &Network,
    old: u64,
    peer_urls: &[String],
) -> Result<()> {
    let endpoint = Endpoint {
        network: network.clone(),
        url: parts.local.peer_url.clone(),
    };
    crate::join::replaceable(&endpoint, parts.cluster_id, &parts.local, old, peer_urls).await
}

/// The last index that was purged from a member's log.
pub fn purged_index(node: &RaftNode) -> u64 {
    use openraft::async_runtime::watch::WatchReceiver;
    node.shared
        .raft
        .metrics()
        .borrow_watched()
        .purged
        .map_or(0, |id| id.index)
}

/// Lets somebody begin to wait for the library's end, and give up waiting.
pub fn give_up_waiting_for_the_end(node: &RaftNode) {
    use futures_util::FutureExt;
    let ended = node.shared.raft.shutdown().now_or_never();
    assert!(ended.is_none(), "the library ended at once");
}

/// Feeds arbitrary bytes to everything that decodes peer messages. For fuzzing; panics on a bug.
pub fn decode_anything(bytes: &[u8]) {
    crate::consensus::codec::decode_anything(bytes);
}

/// A well-formed message of a peer that lost its mind. Positions are (term, index).
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the fields of the protocol")]
pub enum Absurd {
    Vote {
        term: u64,
        last: (u64, u64),
        pre: bool,
        transfer: bool,
    },
    Transfer {
        term: u64,
        to: u64,
        last: (u64, u64),
    },
    Append {
        term: u64,
        previous: Option<(u64, u64)>,
        entries: Vec<(u64, u64)>,
        committed: (u64, u64),
    },
    Snapshot {
        term: u64,
        last: (u64, u64),
        membership: (u64, u64),
        data: bytes::Bytes,
    },
}

/// Lets `message` arrive at `node`, as if its peer `from` had sent it. Answers what
/// came back, for people.
pub async fn send(network: &Network, node: &RaftNode, from: u64, message: Absurd) -> String {
    use proto::{call_request::Body, snapshot_chunk::Part};
    let shared = &node.shared;
    let Ok(service) = network.service(&shared.local.peer_url) else {
        return "nobody listens".into();
    };
    let header = Some(proto::Header {
        cluster_id: shared.cluster_id,
        from,
        to: shared.local.id,
    });
    let position = |(term, index)| Some(proto::LogId { term, index });
    let vote = |term, committed| {
        Some(proto::Vote {
            term,
            node: from,
            committed,
        })
    };
    let body = match message {
        Absurd::Vote {
            term,
            last,
            pre,
            transfer,
        } => {
            let request = proto::VoteRequest {
                vote: vote(term, false),
                last: position(last),
                leadership_transfer: transfer,
            };
            if pre {
                Body::PreVote(request)
            } else {
                Body::Vote(request)
            }
        }
        Absurd::Transfer { term, to, last } => Body::Transfer(proto::TransferRequest {
            from_leader: vote(term, true),
            to,
            last: position(last),
        }),
        Absurd::Append {
            term,
            previous,
            entries,
            committed,
        } => {
            let entry = |at| proto::Entry {
                id: position(at),
                payload: bytes::Bytes::new(),
            };
            let request = proto::AppendRequest {
                header,
                vote: vote(term, true),
                previous: previous.and_then(position),
                entries: entries.into_iter().map(entry).collect(),
                committed: position(committed),
            };
            let requests = futures_util::stream::iter([request]).boxed();
            let answers: Vec<_> = service.append(requests).collect().await;
            return format!("{answers:?}");
        }
        Absurd::Snapshot {
            term,
            last,
            membership,
            data,
        } => {
            let end = proto::SnapshotEnd {
                chunks: 1,
                size_bytes: data.len() as u64,
                crc32c: crc32c::crc32c(&data),
            };
            let head = proto::SnapshotHead {
                header,
                vote: vote(term, true),
                last: position(last),
                membership: Some(proto::StoredMembership {
                    log_id: position(membership),
                    membership: None,
                }),
            };
            let parts = [Part::Head(head), Part::Data(data), Part::End(end)];
            let chunks = parts.map(|part| Ok(proto::SnapshotChunk { part: Some(part) }));
            let answer = service
                .snapshot(futures_util::stream::iter(chunks).boxed())
                .await;
            return format!("{answer:?}");
        }
    };
    let request = proto::CallRequest {
        header,
        body: Some(body),
    };
    format!("{:?}", service.call(request).await)
}

#[derive(Default)]
struct State {
    services: HashMap<String, Arc<dyn PeerService>>,
    /// Directed links that carry nothing.
    cut: HashSet<(String, String)>,
    /// Of 1000 messages, so many are lost.
    loss_permille: u64,
    /// Each message takes up to this long.
    delay: Duration,
    random: u64,
}

/// The network between the members of a test. Clones share it. Addresses are peer URLs.
#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

impl Network {
    /// A network without faults; `seed` decides which messages are lost once there is loss.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: seed | 1,
            ..State::default()
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing goes from `from` to `to` any more; the other way is not affected.
    pub fn cut(&self, from: &str, to: &str) {
        self.state().cut.insert((from.to_owned(), to.to_owned()));
    }

    /// Cuts every link of `url` to all `others`, both ways.
    pub fn isolate(&self, url: &str, others: &[&str]) {
        for other in others {
            self.cut(url, other);
            self.cut(other, url);
        }
    }

    /// Every link works again, without loss and delay.
    pub fn heal(&self) {
        let mut state = self.state();
        state.cut.clear();
        state.loss_permille = 0;
        state.delay = Duration::ZERO;
    }

    /// Loses some of 1000 messages and delays all by up to `delay`.
    pub fn disturb(&self, loss_permille: u64, delay: Duration) {
        let mut state = self.state();
        state.loss_permille = loss_permille;
        state.delay = delay;
    }

    /// The member at `url` answers nothing any more, as if its process were gone.
    pub fn remove(&self, url: &str) {
        self.state().services.remove(url);
    }

    fn service(&self, url: &str) -> Result<Arc<dyn PeerService>, CallError> {
        let service = self.state().services.get(url).cloned();
        service.ok_or_else(|| CallError::NotSent(format!("nobody listens at {url}")))
    }

    /// How long one message takes, or `None` if it never arrives.
    fn passage(&self, from: &str, to: &str) -> Option<Duration> {
        let mut state = self.state();
        if state.cut.contains(&(from.to_owned(), to.to_owned())) {
            return None;
        }
        // xorshift64: repeatable, and good enough to lose messages by.
        let mut random = state.random;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        state.random = random;
        if random % 1000 < state.loss_permille {
            return None;
        }
        let delay_us = u64::try_from(state.delay.as_micros()).unwrap_or(u64::MAX);
        Some(Duration::from_micros(if delay_us == 0 {
            0
        } else {
            (random >> 20) % delay_us
        }))
    }

    /// One message on its way.
    async fn carry(&self, from: &str, to: &str, patience: Duration) -> Result<(), CallError> {
        match self.passage(from, to) {
            Some(Duration::ZERO) => Ok(()),
            Some(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            None => {
                tokio::time::sleep(patience.min(VOID)).await;
                Err(CallError::Lost("the network lost it".into()))
            }
        }
    }
}

/// The way to nobody.
#[cfg(test)]
pub(crate) fn nowhere() -> Arc<dyn PeerTransport> {
    Arc::new(Endpoint {
        network: Network::new(1),
        url: String::new(),
    })
}

struct Endpoint {
    network: Network,
    url: String,
}

#[async_trait]
impl PeerTransport for Endpoint {
    async fn call(
        &self,
        to: &PeerAddress,
        request: proto::CallRequest,
        deadline: Duration,
    ) -> Result<proto::CallResponse, CallError> {
        let service = self.network.service(&to.url)?;
        self.network.carry(&self.url, &to.url, deadline).await?;
        // The receiver does its work whether or not the sender still waits.
        let answer = tokio::spawn(async move { service.call(request).await });
        let answer = match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => return Err(CallError::Lost("the peer broke off".into())),
            Err(_) => return Err(CallError::Lost(format!("nothing within {deadline:?}"))),
        };
        self.network.carry(&to.url, &self.url, deadline).await?;
        Ok(answer)
    }

    async fn append(
        &self,
        to: &PeerAddress,
        requests: BoxStream<'static, proto::AppendRequest>,
    ) -> Result<BoxStream<'static, Result<proto::AppendResponse, CallError>>, CallError> {
        let service = self.network.service(&to.url)?;
        let (network, here, there) = (self.network.clone(), self.url.clone(), to.url.clone());
        let requests = {
            let (network, here, there) = (network.clone(), here.clone(), there.clone());
            requests.then(move |request| {
                let (network, here, there) = (network.clone(), here.clone(), there.clone());
                async move {
                    network
                        .carry(&here, &there, VOID)
                        .await
                        .ok()
                        .map(|()| request)
                }
            })
        };
        // A stream that lost a message is over: order is all it promises.
        let requests = requests.scan((), |(), request| std::future::ready(request));
        let answers = service.append(requests.boxed()).then(move |answer| {
            let (network, here, there) = (network.clone(), here.clone(), there.clone());
            async move { network.carry(&there, &here, VOID).await.map(|()| answer) }
        });
        Ok(answers.boxed())
    }

    async fn snapshot(
        &self,
        to: &PeerAddress,
        chunks: BoxStream<'static, proto::SnapshotChunk>,
    ) -> Result<proto::SnapshotResponse, CallError> {
        let service = self.network.service(&to.url)?;
        let (network, here, there) = (self.network.clone(), self.url.clone(), to.url.clone());
        let chunks = {
            let (network, here, there) = (network.clone(), here.clone(), there.clone());
            chunks.then(move |chunk| {
                let (network, here, there) = (network.clone(), here.clone(), there.clone());
                async move { network.carry(&here, &there, VOID).await.map(|()| chunk) }
            })
        };
        let answer = service.snapshot(chunks.boxed()).await;
        network.carry(&there, &here, VOID).await?;
        Ok(answer)
    }

    async fn fetch(
        &self,
        to: &PeerAddress,
        request: proto::FetchRequest,
    ) -> Result<BoxStream<'static, Result<proto::SnapshotChunk, CallError>>, CallError> {
        let service = self.network.service(&to.url)?;
        self.network.carry(&self.url, &to.url, VOID).await?;
        let (network, here, there) = (self.network.clone(), self.url.clone(), to.url.clone());
        let chunks = service.fetch(request).await.then(move |chunk| {
            let (network, here, there) = (network.clone(), here.clone(), there.clone());
            async move { network.carry(&there, &here, VOID).await.map(|()| chunk) }
        });
        Ok(chunks.boxed())
    }

    async fn is_gone(&self, to: &PeerAddress) -> bool {
        let state = self.network.state();
        let line = (self.url.clone(), to.url.clone());
        // Whoever is cut off cannot tell.
        !state.services.contains_key(&to.url) && !state.cut.contains(&line)
    }

    async fn serve(
        &self,
        service: Arc<dyn PeerService>,
        stop: CancellationToken,
    ) -> io::Result<BoxFuture<'static, ()>> {
        self.network
            .state()
            .services
            .insert(self.url.clone(), service.clone());
        let (network, url) = (self.network.clone(), self.url.clone());
        Ok(Box::pin(async move {
            stop.cancelled().await;
            // A successor may have taken the address already.
            let mut state = network.state();
            if state
                .services
                .get(&url)
                .is_some_and(|current| Arc::ptr_eq(current, &service))
            {
                state.services.remove(&url);
            }
        }))
    }
}

/// Stops a member without handing anything over and without a checkpoint, and waits until its
/// files are closed. What the log has not synced yet is synced: a power loss is simulated by the
/// disk, not here.
pub async fn abort(node: &RaftNode) {
    node.abort().await;
}
