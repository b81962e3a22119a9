//! Messages of other members.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, TransferLeaderRequest, VoteRequest};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::api::Error;
use crate::batch::Refusal;
use crate::consensus::network::{CHUNK_QUEUE, read_snapshot};
use crate::consensus::snapshot::{SnapshotData, Spool};
use crate::consensus::{LogId, SnapshotMeta, TypeConfig, Vote, codec};
use crate::line::Line;
use crate::peers::proto::failure::Kind;
use crate::peers::proto::{
    append_response, call_request, call_response, snapshot_chunk, snapshot_response,
};
use crate::peers::{CallError, PeerService, proto};
use crate::propose::COMMAND_BYTES_MAX;
use crate::shared::{Shared, error_to_failure, failure};

type Answer = Result<call_response::Body, proto::Failure>;

/// Terms that one message may skip. Elections come one at a time; a member that claims more would
/// bring the counter to its end, after which nobody can be elected.
const TERMS_SKIPPED_MAX: u64 = 1 << 32;
/// Largest log index that is believed: no log gets that far.
const INDEX_MAX: u64 = 1 << 60;

/// How long a member that asks for this one's state may wait for it to get far enough.
const LEND_WAIT: Duration = Duration::from_secs(4);

/// Serves peers of one node.
pub(crate) struct Service(pub(crate) Arc<Shared>);

#[allow(clippy::needless_pass_by_value, reason = "passed to map_err")]
fn invalid(error: impl ToString) -> proto::Failure {
    failure(Kind::Refused, error.to_string())
}

fn stopped() -> proto::Failure {
    failure(Kind::Stopped, "the member is stopping")
}

impl Service {
    /// Refuses what is meant for somebody else: another cluster, or a member that used to have
    /// this address.
    fn check(&self, header: Option<&proto::Header>, joining: bool) -> Result<(), proto::Failure> {
        let node = &self.0;
        let header = header.ok_or_else(|| failure(Kind::Refused, "a message without a header"))?;
        let stranger = joining && header.cluster_id == 0;
        if header.cluster_id != node.cluster_id && !stranger {
            let message = format!(
                "cluster {:x} asked member {:x} of cluster {:x}: they do not belong together; were they founded with different lists of members?",
                header.cluster_id, node.local.id, node.cluster_id
            );
            return Err(failure(Kind::Refused, message));
        }
        if header.to != node.local.id && !(joining && header.to == 0) {
            let message = format!(
                "member {:x} was asked here, but this is member {:x}",
                header.to, node.local.id
            );
            return Err(failure(Kind::Refused, message));
        }
        if node.failure.current().is_some() {
            return Err(stopped());
        }
        Ok(())
    }

    /// Refuses positions that no member comes to.
    fn plausible(
        &self,
        vote: &Vote,
        positions: impl IntoIterator<Item = Option<LogId>>,
    ) -> Result<(), proto::Failure> {
        let known = self.0.raft.metrics().borrow_watched().current_term;
        let term_max = known.saturating_add(TERMS_SKIPPED_MAX);
        if vote.leader_id.term > term_max {
            return Err(invalid(format_args!(
                "term {} is far beyond {known}",
                vote.leader_id.term
            )));
        }
        for position in positions.into_iter().flatten() {
            if position.index > INDEX_MAX || position.leader_id.term > vote.leader_id.term {
                return Err(invalid(format_args!(
                    "there is no position {position} in term {}",
                    vote.leader_id.term
                )));
            }
        }
        Ok(())
    }

    /// Refuses what would replace committed entries: no leader has it. `reaches` is a snapshot's
    /// end, which the library takes for more than entries.
    fn harmless(
        &self,
        entries: impl IntoIterator<Item = LogId>,
        reaches: Option<LogId>,
    ) -> Result<(), proto::Failure> {
        let Some(committed) = self.0.raft.metrics().borrow_watched().local_committed else {
            return Ok(());
        };
        let refuse = |position: LogId| {
            Err(invalid(format_args!(
                "{position} does not go with what is committed up to {committed}"
            )))
        };
        for position in entries.into_iter().chain(reaches) {
            let rewrites = position.index <= committed.index
                && position.leader_id.term > committed.leader_id.term;
            if rewrites || (position.index == committed.index && position != committed) {
                return refuse(position);
            }
        }
        match reaches {
            Some(end) if end.index > committed.index && end < committed => refuse(end),
            _ => Ok(()),
        }
    }

    async fn answer(&self, request: proto::CallRequest) -> Answer {
        let body = request
            .body
            .ok_or_else(|| failure(Kind::Refused, "an unknown question"))?;
        let joining = matches!(
            body,
            call_request::Body::Ping(_)
                | call_request::Body::Change(_)
                | call_request::Body::Members(_)
        );
        self.check(request.header.as_ref(), joining)?;
        let from = request.header.map_or(0, |header| header.from);
        match body {
            call_request::Body::Vote(vote) => self.vote(from, &vote, false).await,
            call_request::Body::PreVote(vote) => self.vote(from, &vote, true).await,
            call_request::Body::Transfer(transfer) => self.transfer(&transfer).await,
            call_request::Body::Propose(propose) => self.propose(propose).await,
            call_request::Body::ReadIndex(_) => match self.0.local_read_point().await {
                Some(id) => {
                    let log_id = Some(codec::log_id_to_proto(&id));
                    Ok(call_response::Body::ReadPoint(proto::ReadPoint { log_id }))
                }
                None => Err(self.not_leader()),
            },
            call_request::Body::Ask(ask) => self.ask(ask).await,
            call_request::Body::AskMember(ask) => {
                let answer = self.0.query.answer_here(ask.question).await;
                Ok(answered(answer))
            }
            call_request::Body::Change(change) => match self.0.change(change).await {
                Ok(()) => Ok(call_response::Body::Done(proto::Done {})),
                Err(error) => Err(error_to_failure(&error)),
            },
            call_request::Body::Members(_) => Ok(self.members()),
            call_request::Body::Ping(_) => {
                self.0.heard_from(from);
                let now = *self.0.leadership.borrow();
                Ok(call_response::Body::Pong(proto::Pong {
                    cluster_id: self.0.cluster_id,
                    id: self.0.local.id,
                    leader: now.leader.unwrap_or(0),
                    term: now.term,
                }))
            }
        }
    }

    /// Anybody who may speak to this port may know who belongs to the cluster.
    fn members(&self) -> call_response::Body {
        let membership = self.0.membership();
        call_response::Body::Members(proto::MembersAnswer {
            cluster_id: self.0.cluster_id,
            id: self.0.local.id,
            leader: self.0.leadership.borrow().leader.unwrap_or(0),
            membership: Some(codec::stored_membership_to_proto(&membership)),
        })
    }

    fn not_leader(&self) -> proto::Failure {
        let mut answer = failure(Kind::NotLeader, "this member does not lead");
        answer.leader = self.0.leadership.borrow().leader.unwrap_or(0);
        answer
    }

    async fn vote(&self, from: u64, request: &proto::VoteRequest, pre: bool) -> Answer {
        let vote = codec::vote_from_proto(request.vote.as_ref()).map_err(invalid)?;
        let last_log_id = request.last.as_ref().map(codec::log_id_from_proto);
        self.plausible(&vote, [last_log_id])?;
        // A candidate whose log lacks a committed membership that no longer has it cannot win
        // here anyway; telling it why lets it stop.
        let committed = self.0.committed_membership();
        if let Some(since) = committed.log_id()
            && committed.get_node(&from).is_none()
            && last_log_id.as_ref() < Some(since)
        {
            let mut answer = failure(Kind::Removed, "this member was removed from the cluster");
            answer.membership = Some(codec::log_id_to_proto(since));
            return Err(answer);
        }
        let mut call = VoteRequest::<TypeConfig>::new(vote, last_log_id);
        call.leadership_transfer = request.leadership_transfer;
        let answer = if pre {
            self.0.raft.pre_vote(call).await
        } else {
            self.0.raft.vote(call).await
        };
        let answer = answer.map_err(|_| stopped())?;
        Ok(call_response::Body::Vote(proto::VoteResponse {
            vote: Some(codec::vote_to_proto(&answer.vote)),
            last: answer.last_log_id.as_ref().map(codec::log_id_to_proto),
            granted: answer.vote_granted,
        }))
    }

    async fn transfer(&self, request: &proto::TransferRequest) -> Answer {
        let from = codec::vote_from_proto(request.from_leader.as_ref()).map_err(invalid)?;
        let last = request.last.as_ref().map(codec::log_id_from_proto);
        self.plausible(&from, [last])?;
        match self
            .0
            .raft
            .handle_transfer_leader(TransferLeaderRequest::new(from, request.to, last))
            .await
        {
            Ok(Ok(())) => Ok(call_response::Body::Done(proto::Done {})),
            Ok(Err(error)) => Err(invalid(error)),
            Err(_) => Err(stopped()),
        }
    }

    /// Commands of another member join those of this one, so that they share entries. They are
    /// not handed on: a chain of forwards would outlive its sender.
    async fn propose(&self, propose: proto::Propose) -> Answer {
        if !self.0.leadership.borrow().local {
            return Err(self.not_leader());
        }
        if propose
            .commands
            .iter()
            .any(|command| command.len() > COMMAND_BYTES_MAX)
        {
            return Err(failure(
                Kind::Refused,
                format!("a command has at most {COMMAND_BYTES_MAX} bytes"),
            ));
        }
        // All or nothing: the answer speaks for the whole batch.
        match self
            .0
            .commit_forwarded(propose.commands, Instant::now())
            .await
        {
            Ok(responses) => Ok(call_response::Body::Proposed(proto::Proposed { responses })),
            Err(Refusal::NotLeader) => Err(self.not_leader()),
            Err(Refusal::Failed(error)) => Err(error_to_failure(&error)),
        }
    }

    async fn ask(&self, ask: proto::Ask) -> Answer {
        if !self.0.leadership.borrow().local {
            return Err(self.not_leader());
        }
        Ok(answered(self.0.query.answer(ask.question).await))
    }

    /// What a peer with a damaged state may have: everything applied here, once that reaches far
    /// enough.
    async fn lend(
        &self,
        request: proto::FetchRequest,
    ) -> Result<mpsc::Receiver<proto::SnapshotChunk>, proto::Failure> {
        self.check(request.header.as_ref(), false)?;
        if let Some(at_least) = request.at_least.as_ref().map(codec::log_id_from_proto) {
            let deadline = Instant::now() + LEND_WAIT;
            self.0
                .applied(&at_least, deadline)
                .await
                .map_err(|_| failure(Kind::NotLeader, "this member is behind as well"))?;
        }
        let snapshot = tokio::time::timeout(LEND_WAIT, self.0.machine.snapshot())
            .await
            .map_err(|_| failure(Kind::Overloaded, "this member's state is busy"))?
            .map_err(invalid)?;
        let SnapshotData::Fresh(source) = snapshot.snapshot else {
            return Err(invalid("there is no state here yet"));
        };
        let head = proto::SnapshotHead {
            header: Some(
                self.0
                    .header(request.header.map_or(0, |header| header.from)),
            ),
            vote: None,
            last: snapshot
                .meta
                .last_log_id
                .as_ref()
                .map(codec::log_id_to_proto),
            membership: Some(codec::stored_membership_to_proto(
                &snapshot.meta.last_membership,
            )),
        };
        let (send, receive) = mpsc::channel(CHUNK_QUEUE);
        let moved = watch::Sender::new(false);
        tokio::task::spawn_blocking(move || read_snapshot(head, source, &send, &moved));
        Ok(receive)
    }

    fn append_request(
        &self,
        request: proto::AppendRequest,
    ) -> Result<AppendEntriesRequest<TypeConfig>, proto::Failure> {
        self.check(request.header.as_ref(), false)?;
        let vote = codec::vote_from_proto(request.vote.as_ref()).map_err(invalid)?;
        let prev_log_id = request.previous.as_ref().map(codec::log_id_from_proto);
        let entries =
            codec::entries_from_proto(prev_log_id.as_ref(), request.entries).map_err(invalid)?;
        let leader_commit = request.committed.as_ref().map(codec::log_id_from_proto);
        if !vote.committed {
            return Err(failure(
                Kind::Refused,
                "entries from a member that does not lead",
            ));
        }
        let last = entries.last().map(|entry| entry.log_id);
        self.plausible(&vote, [prev_log_id, last, leader_commit])?;
        let positions = entries.iter().map(|entry| entry.log_id);
        self.harmless(prev_log_id.into_iter().chain(positions), None)?;
        Ok(AppendEntriesRequest {
            vote,
            prev_log_id,
            entries,
            leader_commit,
        })
    }

    async fn receive(
        &self,
        mut chunks: BoxStream<'static, Result<proto::SnapshotChunk, CallError>>,
    ) -> Result<proto::Vote, proto::Failure> {
        let broken = |error: &dyn std::fmt::Display| {
            failure(Kind::Refused, format!("the snapshot broke off: {error}"))
        };
        let head = match chunks.next().await {
            Some(Ok(proto::SnapshotChunk {
                part: Some(snapshot_chunk::Part::Head(head)),
            })) => head,
            Some(Err(error)) => return Err(broken(&error)),
            _ => return Err(failure(Kind::Refused, "a snapshot without a head")),
        };
        self.check(head.header.as_ref(), false)?;
        let vote = codec::vote_from_proto(head.vote.as_ref()).map_err(invalid)?;
        let membership = head
            .membership
            .as_ref()
            .ok_or_else(|| invalid("a snapshot without a membership"))?;
        let meta = SnapshotMeta {
            last_log_id: head.last.as_ref().map(codec::log_id_from_proto),
            last_membership: codec::stored_membership_from_proto(membership).map_err(invalid)?,
        };
        self.plausible(&vote, [meta.last_log_id, *meta.last_membership.log_id()])?;
        if !vote.committed || meta.last_membership.log_id() > &meta.last_log_id {
            return Err(invalid("a snapshot that no leader sends"));
        }
        self.harmless([], meta.last_log_id)?;
        let (disk, dir) = (self.0.env.disk.clone(), self.0.dir.clone());
        let unique = self.0.env.rng.next_u64();
        let mut spool = blocking(move || Spool::create(disk, &dir, unique)).await?;
        loop {
            let part = match chunks.next().await {
                Some(Ok(chunk)) => chunk.part,
                Some(Err(error)) => return Err(broken(&error)),
                None => return Err(broken(&"no end")),
            };
            // A snapshot that is still moving comes from a leader that is alive.
            self.0.heard_leader();
            match part {
                Some(snapshot_chunk::Part::Data(data)) => {
                    spool = blocking(move || spool.push(&data).map(|()| spool)).await?;
                }
                Some(snapshot_chunk::Part::End(end)) => {
                    spool
                        .verify(end.chunks, end.size_bytes, end.crc32c)
                        .map_err(invalid)?;
                    break;
                }
                _ => return Err(invalid("an unexpected part of a snapshot")),
            }
        }
        let snapshot = openraft::Snapshot {
            meta,
            snapshot: SnapshotData::Received(spool),
        };
        let installed = self
            .0
            .raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(|_| stopped())?;
        Ok(codec::vote_to_proto(&installed.vote))
    }
}

fn answered(answer: Result<bytes::Bytes, String>) -> call_response::Body {
    let result = match answer {
        Ok(answer) => proto::answer::Result::Answer(answer),
        Err(error) => proto::answer::Result::Error(error),
    };
    call_response::Body::Answer(proto::Answer {
        result: Some(result),
    })
}

/// Runs what blocks on a thread where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, proto::Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result
            .map_err(|error| failure(Kind::Refused, format!("cannot spool a snapshot: {error}"))),
        Err(_) => Err(stopped()),
    }
}

#[async_trait]
impl PeerService for Service {
    async fn call(&self, request: proto::CallRequest) -> proto::CallResponse {
        let body = self
            .answer(request)
            .await
            .unwrap_or_else(call_response::Body::Failure);
        proto::CallResponse { body: Some(body) }
    }

    fn append(
        &self,
        requests: BoxStream<'static, proto::AppendRequest>,
    ) -> BoxStream<'static, proto::AppendResponse> {
        let refused = Arc::new(Mutex::new(None));
        let decoded = {
            let (this, refused) = (Self(self.0.clone()), refused.clone());
            let line = Line::new(&self.0);
            requests.scan(line, move |line, request| {
                let from = request.header.map_or(0, |header| header.from);
                std::future::ready(match this.append_request(request) {
                    Ok(request) => {
                        line.leader = from;
                        Some(request)
                    }
                    Err(failure) => {
                        *refused
                            .lock()
                            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(failure);
                        None
                    }
                })
            })
        };
        let node = self.0.clone();
        let answers = self.0.raft.stream_append(decoded).map(move |answer| {
            use append_response::Result as Answer;
            let result = match answer {
                Ok(Ok(last)) => {
                    node.heard_leader();
                    Answer::Matched(proto::Matched {
                        last: last.as_ref().map(codec::log_id_to_proto),
                    })
                }
                Ok(Err(StreamAppendError::Conflict(id))) => {
                    node.heard_leader();
                    Answer::Conflict(codec::log_id_to_proto(&id))
                }
                Ok(Err(StreamAppendError::HigherVote(vote))) => {
                    Answer::HigherVote(codec::vote_to_proto(&vote))
                }
                Err(_) => Answer::Failure(stopped()),
            };
            proto::AppendResponse {
                result: Some(result),
            }
        });
        let last = stream::once(async move {
            let failure = refused
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .take()?;
            Some(proto::AppendResponse {
                result: Some(append_response::Result::Failure(failure)),
            })
        });
        answers.chain(last.filter_map(std::future::ready)).boxed()
    }

    async fn snapshot(
        &self,
        chunks: BoxStream<'static, Result<proto::SnapshotChunk, CallError>>,
    ) -> proto::SnapshotResponse {
        let result = match self.receive(chunks).await {
            Ok(vote) => snapshot_response::Result::Vote(vote),
            Err(failure) => snapshot_response::Result::Failure(failure),
        };
        proto::SnapshotResponse {
            result: Some(result),
        }
    }

    async fn fetch(
        &self,
        request: proto::FetchRequest,
    ) -> BoxStream<'static, proto::SnapshotChunk> {
        match self.lend(request).await {
            Ok(chunks) => ReceiverStream::new(chunks).boxed(),
            Err(failure) => stream::iter([proto::SnapshotChunk {
                part: Some(snapshot_chunk::Part::Failure(failure)),
            }])
            .boxed(),
        }
    }
}

impl Shared {
    /// Commits the commands of another member through the queue of this one. Either all were
    /// handed to consensus, or the outcome is reported as unknown; "not the leader" only when
    /// certainly none was proposed.
    async fn commit_forwarded(
        &self,
        commands: Vec<bytes::Bytes>,
        now: Instant,
    ) -> Result<Vec<bytes::Bytes>, Refusal> {
        let (take_by, answer_by) = (now + self.patience.route, now + self.patience.outcome);
        let all = commands
            .into_iter()
            .map(|command| self.proposals.submit(command, take_by, answer_by));
        let results = futures_util::future::join_all(all).await;
        let failed = results.iter().filter_map(|result| result.as_ref().err());
        let mut worst: Option<Refusal> = None;
        let mut failures = 0;
        for refusal in failed {
            failures += 1;
            let unknown = matches!(refusal, Refusal::Failed(Error::Unknown(_)));
            if worst.is_none() || unknown {
                worst = Some(refusal.clone());
            }
        }
        match worst {
            None => Ok(results.into_iter().flatten().collect()),
            // Some went through: what holds for one does not hold for all.
            Some(_) if failures < results.len() => Err(Refusal::Failed(Error::Unknown(
                "the leader changed in the middle of a batch".into(),
            ))),
            Some(refusal) => Err(refusal),
        }
    }
}
