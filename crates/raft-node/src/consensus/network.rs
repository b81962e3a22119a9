//! The library's network on top of [`PeerTransport`].

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderError, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkV2};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::consensus::snapshot::{CHUNK_BYTES_MAX, SnapshotData};
use crate::consensus::{LogId, Member, Snapshot, StoredMembership, TypeConfig, Vote, codec};
use crate::peers::proto::{call_request, call_response};
use crate::peers::{CallError, PeerAddress, PeerTransport, proto};

type C = TypeConfig;
type Rpc<T> = Result<T, RPCError<C>>;

/// Append requests that may wait for the wire, per stream.
const APPEND_QUEUE: usize = 4;

/// Snapshot chunks read ahead of the wire.
pub(crate) const CHUNK_QUEUE: usize = 4;

/// A snapshot that moves nothing for this long is given up.
const SNAPSHOT_STALL: Duration = Duration::from_secs(30);

/// How long a member may take to install a snapshot it has received.
const SNAPSHOT_INSTALL: Duration = Duration::from_secs(600);

/// What every connection to a peer needs.
pub(crate) struct NetworkContext {
    pub(crate) transport: Arc<dyn PeerTransport>,
    pub(crate) cluster_id: u64,
    pub(crate) local: u64,
    /// Limit for an answer to an append request, slow disks included.
    pub(crate) append_deadline: Duration,
    /// Where members are by now; they move.
    pub(crate) membership: watch::Receiver<StoredMembership>,
    /// A peer says that this membership no longer has this member.
    pub(crate) removed: watch::Sender<Option<LogId>>,
}

impl NetworkContext {
    pub(crate) fn header(&self, to: u64) -> proto::Header {
        proto::Header {
            cluster_id: self.cluster_id,
            from: self.local,
            to,
        }
    }
}

/// Makes clients for the library.
#[derive(Clone)]
pub(crate) struct Network(pub(crate) Arc<NetworkContext>);

impl RaftNetworkFactory<C> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, node: &Member) -> PeerClient {
        PeerClient {
            context: self.0.clone(),
            to: PeerAddress {
                id: target,
                url: node.peer_url.clone(),
            },
        }
    }
}

/// One of the library's lines to one peer.
pub(crate) struct PeerClient {
    context: Arc<NetworkContext>,
    to: PeerAddress,
}

fn unreachable(reason: impl ToString) -> RPCError<C> {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

fn network(reason: impl ToString) -> RPCError<C> {
    RPCError::Network(NetworkError::from_string(reason))
}

fn call_error(error: &CallError) -> RPCError<C> {
    match error {
        CallError::NotSent(_) => unreachable(error),
        CallError::Lost(_) => network(error),
    }
}

impl PeerClient {
    /// Where the peer is: as the membership has it now, else as it was when this line was made.
    fn address(&self) -> PeerAddress {
        let membership = self.context.membership.borrow();
        match membership.get_node(&self.to.id) {
            Some(member) => PeerAddress {
                id: self.to.id,
                url: member.peer_url.clone(),
            },
            None => self.to.clone(),
        }
    }

    async fn call(&self, body: call_request::Body, option: &RPCOption) -> Rpc<call_response::Body> {
        let request = proto::CallRequest {
            header: Some(self.context.header(self.to.id)),
            body: Some(body),
        };
        let answer = self
            .context
            .transport
            .call(&self.address(), request, option.hard_ttl())
            .await
            .map_err(|error| call_error(&error))?;
        match answer.body {
            Some(call_response::Body::Failure(failure)) => Err(self.refused(&failure)),
            Some(body) => Ok(body),
            None => Err(network("an empty answer")),
        }
    }

    fn refused(&self, failure: &proto::Failure) -> RPCError<C> {
        if failure.kind() == proto::failure::Kind::Removed
            && let Some(id) = &failure.membership
        {
            self.context
                .removed
                .send_replace(Some(codec::log_id_from_proto(id)));
        }
        unreachable(&failure.message)
    }

    async fn ask_vote(
        &self,
        request: call_request::Body,
        option: &RPCOption,
    ) -> Rpc<VoteResponse<C>> {
        match self.call(request, option).await? {
            call_response::Body::Vote(answer) => {
                let vote = codec::vote_from_proto(answer.vote.as_ref()).map_err(network)?;
                let last = answer.last.as_ref().map(codec::log_id_from_proto);
                Ok(VoteResponse::new(vote, last, answer.granted))
            }
            _ => Err(network("an answer to something else")),
        }
    }

    fn append_request(&self, request: &AppendEntriesRequest<C>) -> proto::AppendRequest {
        proto::AppendRequest {
            header: Some(self.context.header(self.to.id)),
            vote: Some(codec::vote_to_proto(&request.vote)),
            previous: request.prev_log_id.as_ref().map(codec::log_id_to_proto),
            entries: request.entries.iter().map(codec::entry_to_proto).collect(),
            committed: request.leader_commit.as_ref().map(codec::log_id_to_proto),
        }
    }

    fn append_response(&self, answer: proto::AppendResponse) -> Rpc<StreamAppendResult<C>> {
        use proto::append_response::Result as Answer;
        match answer.result {
            Some(Answer::Matched(matched)) => {
                Ok(Ok(matched.last.as_ref().map(codec::log_id_from_proto)))
            }
            Some(Answer::Conflict(id)) => Ok(Err(StreamAppendError::Conflict(
                codec::log_id_from_proto(&id),
            ))),
            Some(Answer::HigherVote(vote)) => {
                let vote = codec::vote_from_proto(Some(&vote)).map_err(network)?;
                Ok(Err(StreamAppendError::HigherVote(vote)))
            }
            Some(Answer::Failure(failure)) => Err(self.refused(&failure)),
            None => Err(network("an empty answer")),
        }
    }
}

/// Requests on the wire: when each was sent, and whether it had a predecessor to conflict with.
type Inflight = Arc<Mutex<VecDeque<(Instant, bool)>>>;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RaftNetworkV2<C> for PeerClient {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<C>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<C>> {
        let input = stream::iter([request]);
        let mut answers = RaftNetworkV2::stream_append(self, input, option).await?;
        match answers.next().await {
            Some(answer) => answer.map(AppendEntriesResponse::from),
            None => Err(network("the peer closed the stream")),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<C>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + OptionalSend + Unpin + 'static,
    {
        let deadline = self.context.append_deadline;
        let this: &PeerClient = self;
        Box::pin(async move {
            // The library paces its retries by holding the first request back. Connecting before
            // there is one would try a dead peer again and again without any pause.
            let Some(first) = input.next().await else {
                return Ok(stream::empty().boxed());
            };
            // The library's input holds a lock while it is being polled. It is polled here, and
            // dropped the moment the answers are: a transport may keep its end for longer.
            let (send, receive) = mpsc::channel(APPEND_QUEUE);
            let inflight = Inflight::default();
            let stop = CancellationToken::new();
            let guard = stop.clone().drop_guard();
            let pump = PeerClient {
                context: this.context.clone(),
                to: this.to.clone(),
            };
            let sent = inflight.clone();
            tokio::spawn(stop.run_until_cancelled_owned(async move {
                let mut next = Some(first);
                while let Some(request) = next {
                    lock(&sent).push_back((Instant::now(), request.prev_log_id.is_some()));
                    if send.send(pump.append_request(&request)).await.is_err() {
                        break;
                    }
                    next = input.next().await;
                }
            }));
            let requests = ReceiverStream::new(receive).boxed();
            let to = this.address();
            let answers =
                tokio::time::timeout(deadline, this.context.transport.append(&to, requests))
                    .await
                    .map_err(|_| timeout(this, deadline))?
                    .map_err(|error| call_error(&error))?;
            let state = Answers {
                client: this,
                answers,
                inflight,
                deadline,
                _guard: guard,
            };
            let output = stream::unfold(Some(state), |state| async move {
                let mut state = state?;
                let item = state.next().await?;
                let more = matches!(item, Ok(Ok(_)));
                Some((item, more.then_some(state)))
            });
            Ok(output.boxed())
        })
    }

    async fn vote(&mut self, request: VoteRequest<C>, option: RPCOption) -> Rpc<VoteResponse<C>> {
        self.ask_vote(call_request::Body::Vote(vote_request(&request)), &option)
            .await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<C>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<C>> {
        self.ask_vote(call_request::Body::PreVote(vote_request(&request)), &option)
            .await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Rpc<Result<(), TransferLeaderError<C>>> {
        let body = call_request::Body::Transfer(proto::TransferRequest {
            from_leader: Some(codec::vote_to_proto(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(codec::log_id_to_proto),
        });
        match self.call(body, &option).await? {
            call_response::Body::Done(_) => Ok(Ok(())),
            _ => Err(network("an answer to something else")),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let SnapshotData::Fresh(source) = snapshot.snapshot else {
            return Err(StreamingError::Unreachable(Unreachable::from_string(
                "nothing to send yet",
            )));
        };
        let head = proto::SnapshotHead {
            header: Some(self.context.header(self.to.id)),
            vote: Some(codec::vote_to_proto(&vote)),
            last: snapshot
                .meta
                .last_log_id
                .as_ref()
                .map(codec::log_id_to_proto),
            membership: Some(codec::stored_membership_to_proto(
                &snapshot.meta.last_membership,
            )),
        };
        let moved = watch::Sender::new(false);
        let mut progress = moved.subscribe();
        let (send, receive) = mpsc::channel(CHUNK_QUEUE);
        tokio::task::spawn_blocking(move || read_snapshot(head, source, &send, &moved));
        let to = self.address();
        let sent = self
            .context
            .transport
            .snapshot(&to, ReceiverStream::new(receive).boxed());
        // Bytes must keep moving; the installation at the end may take its time.
        let watchdog = async {
            loop {
                let limit = if *progress.borrow_and_update() {
                    SNAPSHOT_INSTALL
                } else {
                    SNAPSHOT_STALL
                };
                match tokio::time::timeout(limit, progress.changed()).await {
                    Ok(Ok(())) => {}
                    // Everything is sent: what remains is the installation.
                    Ok(Err(_)) => return tokio::time::sleep(SNAPSHOT_INSTALL).await,
                    Err(_) => return,
                }
            }
        };
        let answer = tokio::select! {
            answer = sent => answer.map_err(|error| StreamingError::from(call_error(&error)))?,
            closed = cancel => return Err(StreamingError::Closed(closed)),
            () = watchdog => return Err(StreamingError::from(network("the snapshot does not move"))),
        };
        match answer.result {
            Some(proto::snapshot_response::Result::Vote(vote)) => {
                let vote = codec::vote_from_proto(Some(&vote))
                    .map_err(|e| StreamingError::from(network(e)))?;
                Ok(SnapshotResponse::new(vote))
            }
            Some(proto::snapshot_response::Result::Failure(failure)) => {
                Err(StreamingError::from(self.refused(&failure)))
            }
            None => Err(StreamingError::from(network("an empty answer"))),
        }
    }
}

fn vote_request(request: &VoteRequest<C>) -> proto::VoteRequest {
    proto::VoteRequest {
        vote: Some(codec::vote_to_proto(&request.vote)),
        last: request.last_log_id.as_ref().map(codec::log_id_to_proto),
        leadership_transfer: request.leadership_transfer,
    }
}

fn timeout(client: &PeerClient, timeout: Duration) -> RPCError<C> {
    RPCError::Timeout(Timeout {
        action: RPCTypes::AppendEntries,
        id: client.context.local,
        target: client.to.id,
        timeout,
    })
}

/// Reads a snapshot on a blocking thread and frames it. The stream just ends when the source
/// fails: without its end part the receiver refuses it.
pub(crate) fn read_snapshot(
    head: proto::SnapshotHead,
    mut source: Box<dyn crate::api::SnapshotSource>,
    send: &mpsc::Sender<proto::SnapshotChunk>,
    moved: &watch::Sender<bool>,
) {
    use proto::snapshot_chunk::Part;
    let mut end = proto::SnapshotEnd::default();
    let push = |part| {
        let sent = send
            .blocking_send(proto::SnapshotChunk { part: Some(part) })
            .is_ok();
        moved.send_replace(false);
        sent
    };
    if !push(Part::Head(head)) {
        return;
    }
    loop {
        match source.next_chunk() {
            Ok(Some(mut chunk)) => {
                while !chunk.is_empty() {
                    let piece = chunk.split_to(chunk.len().min(CHUNK_BYTES_MAX));
                    end.chunks += 1;
                    end.size_bytes += piece.len() as u64;
                    end.crc32c = crc32c::crc32c_append(end.crc32c, &piece);
                    if !push(Part::Data(piece)) {
                        return;
                    }
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "a snapshot cannot be read and is not sent");
                return;
            }
        }
    }
    if push(Part::End(end)) {
        moved.send_replace(true);
    }
}

/// The answers of one append stream, each within its deadline.
struct Answers<'a> {
    client: &'a PeerClient,
    answers: BoxStream<'static, Result<proto::AppendResponse, CallError>>,
    inflight: Inflight,
    deadline: Duration,
    _guard: DropGuard,
}

impl Answers<'_> {
    async fn next(&mut self) -> Option<Rpc<StreamAppendResult<C>>> {
        loop {
            match tokio::time::timeout(self.deadline / 2, self.answers.next()).await {
                Ok(None) => return None,
                Ok(Some(Err(error))) => return Some(Err(call_error(&error))),
                Ok(Some(Ok(answer))) => {
                    let request = lock(&self.inflight).pop_front();
                    let Some((_, has_previous)) = request else {
                        return Some(Err(network("an answer to nothing")));
                    };
                    let answer = self.client.append_response(answer);
                    // Nothing can conflict with "from the very beginning"; the library relies on it.
                    if !has_previous && matches!(answer, Ok(Err(StreamAppendError::Conflict(_)))) {
                        return Some(Err(network("a conflict with nothing")));
                    }
                    return Some(answer);
                }
                Err(_) => {
                    let oldest = lock(&self.inflight).front().map(|(sent, _)| sent.elapsed());
                    if oldest.is_some_and(|age| age >= self.deadline) {
                        return Some(Err(timeout(self.client, self.deadline)));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures_util::FutureExt;

    use super::*;
    use crate::peers::PeerService;

    /// Nobody is there; counts the attempts to find somebody.
    #[derive(Default)]
    struct Nobody(AtomicUsize);

    fn not_sent<T>() -> Result<T, CallError> {
        Err(CallError::NotSent("nobody is there".into()))
    }

    #[async_trait]
    impl PeerTransport for Nobody {
        async fn call(
            &self,
            _: &PeerAddress,
            _: proto::CallRequest,
            _: Duration,
        ) -> Result<proto::CallResponse, CallError> {
            not_sent()
        }

        async fn append(
            &self,
            _: &PeerAddress,
            _: BoxStream<'static, proto::AppendRequest>,
        ) -> Result<BoxStream<'static, Result<proto::AppendResponse, CallError>>, CallError>
        {
            self.0.fetch_add(1, Ordering::Relaxed);
            not_sent()
        }

        async fn snapshot(
            &self,
            _: &PeerAddress,
            _: BoxStream<'static, proto::SnapshotChunk>,
        ) -> Result<proto::SnapshotResponse, CallError> {
            not_sent()
        }

        async fn fetch(
            &self,
            _: &PeerAddress,
            _: proto::FetchRequest,
        ) -> Result<BoxStream<'static, Result<proto::SnapshotChunk, CallError>>, CallError>
        {
            not_sent()
        }

        async fn is_gone(&self, _: &PeerAddress) -> bool {
            false
        }

        async fn serve(
            &self,
            _: Arc<dyn PeerService>,
            _: CancellationToken,
        ) -> io::Result<BoxFuture<'static, ()>> {
            Ok(Box::pin(std::future::pending()))
        }
    }

    #[tokio::test]
    async fn a_peer_is_not_connected_to_before_the_library_hands_out_a_request() {
        let nobody = Arc::new(Nobody::default());
        let mut client = PeerClient {
            context: Arc::new(NetworkContext {
                transport: nobody.clone(),
                cluster_id: 1,
                local: 1,
                append_deadline: Duration::from_secs(1),
                membership: watch::Sender::new(StoredMembership::default()).subscribe(),
                removed: watch::Sender::new(None),
            }),
            to: PeerAddress {
                id: 2,
                url: "https://nobody:2380".into(),
            },
        };
        let option = || RPCOption::new(Duration::from_secs(1));
        // The pause between two attempts.
        let held_back = stream::pending::<AppendEntriesRequest<C>>();
        let waiting = RaftNetworkV2::stream_append(&mut client, held_back, option());
        assert!(waiting.now_or_never().is_none());
        assert_eq!(nobody.0.load(Ordering::Relaxed), 0);

        let request = AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        };
        let tried = RaftNetworkV2::stream_append(&mut client, stream::iter([request]), option());
        let failure = tried.await.map(drop);
        assert!(matches!(failure, Err(RPCError::Unreachable(_))));
        assert_eq!(nobody.0.load(Ordering::Relaxed), 1);

        // What ended meanwhile is nobody's error.
        let ended = RaftNetworkV2::stream_append(&mut client, stream::empty::<_>(), option());
        let answers = ended.await.map(|answers| answers.count().now_or_never());
        assert_eq!(answers.ok(), Some(Some(0)));
        assert_eq!(nobody.0.load(Ordering::Relaxed), 1);
    }
}
