//! Proposals, read points and questions, from any member.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::api::{Error, Result};
use crate::batch::Refusal;
use crate::consensus::{Commands, LogId, codec};
use crate::peers::proto::{call_request, call_response};
use crate::peers::{CallError, PeerAddress, proto};
use crate::shared::{ReadWaiter, Route, Shared, failure_to_error};

/// The largest command, in bytes.
pub(crate) const COMMAND_BYTES_MAX: usize = 16 << 20;

/// Batches being committed at once: one is being flushed while the next forms.
pub(crate) const PROPOSALS_IN_FLIGHT: usize = 2;

/// Forwarded batches on their way at once.
pub(crate) const FORWARDS_IN_FLIGHT: usize = 4;

/// Rounds of confirming the leadership for readers at once.
const READ_ROUNDS: usize = 4;

/// Readers waiting for a round.
pub(crate) const READERS_MAX: usize = 16 << 10;

/// How long a leader that has been replaced may still take to answer.
const REPLACED_LEADER_GRACE: std::time::Duration = std::time::Duration::from_millis(500);

/// Why the leader could not be asked.
pub(crate) enum AskError {
    /// Nothing happened; another try may succeed.
    Retry,
    /// The answer was lost.
    Lost(String),
    /// Final.
    Failed(Error),
}

impl Shared {
    pub(crate) async fn propose(&self, command: Bytes) -> Result<Bytes> {
        self.failure.check()?;
        if command.len() > COMMAND_BYTES_MAX {
            return Err(Error::Refused(format!(
                "a command has at most {COMMAND_BYTES_MAX} bytes"
            )));
        }
        let take_by = Instant::now() + self.patience.route;
        let answer_by = take_by + self.patience.outcome;
        loop {
            let batcher = match self.route(take_by).await? {
                Route::Local => &self.proposals,
                Route::Remote(_) => &self.forwards,
            };
            tokio::select! {
                answer = batcher.submit(command.clone(), take_by, answer_by) => match answer {
                    Ok(answer) => return Ok(answer),
                    Err(Refusal::Failed(error)) => return Err(error),
                    Err(Refusal::NotLeader) => self.pause(take_by).await?,
                },
                stop = self.failure.stopped() => {
                    return Err(Error::Unknown(stop.message().unwrap_or_else(|| "the member stopped".into())));
                }
            }
        }
    }

    /// Commits one batch on this member.
    pub(crate) async fn commit(&self, commands: Vec<Bytes>) -> Result<Vec<Bytes>, Refusal> {
        if self.failure.current().is_some() {
            return Err(Refusal::NotLeader);
        }
        let sent = commands.len();
        let written = tokio::time::timeout(
            self.patience.outcome,
            self.raft.client_write(Commands::new(commands)),
        )
        .await;
        let unknown = |reason: String| Err(Refusal::Failed(Error::Unknown(reason)));
        match written {
            Ok(Ok(written)) if written.data.0.len() != sent => unknown(
                "this member's state was replaced by another's, which has the outcome".into(),
            ),
            Ok(Ok(written)) => Ok(written.data.0),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(Refusal::NotLeader)
            }
            Ok(Err(RaftError::APIError(error))) => unknown(error.to_string()),
            Ok(Err(RaftError::Fatal(error))) => unknown(error.to_string()),
            Err(_) => unknown("no quorum answered in time".into()),
        }
    }

    /// Hands one batch to the leader, wherever it is by now.
    pub(crate) async fn forward(
        self: Arc<Self>,
        commands: Vec<Bytes>,
    ) -> Result<Vec<Bytes>, Refusal> {
        let now = *self.leadership.borrow();
        let address = match now.leader {
            // This member became the leader while the batch was forming.
            Some(id) if id == self.local.id => return self.commit(commands).await,
            Some(id) => self.peer_address(id),
            None => None,
        };
        let Some(address) = address else {
            return Err(Refusal::NotLeader);
        };
        let body = call_request::Body::Propose(proto::Propose { commands });
        let asked = self.ask_peer(&address, body);
        // A leader that hangs must not block the way to its successor for long.
        let replaced = async {
            self.leader_moved(address.id).await;
            tokio::time::sleep(REPLACED_LEADER_GRACE).await;
        };
        let answer = tokio::select! {
            answer = asked => answer,
            () = replaced => Err(AskError::Lost("another member leads by now".into())),
        };
        match answer {
            Ok(call_response::Body::Proposed(proposed)) => Ok(proposed.responses),
            Ok(_) => Err(Refusal::Failed(Error::Unknown(
                "the leader answered something else".into(),
            ))),
            Err(AskError::Retry) => Err(Refusal::NotLeader),
            Err(AskError::Lost(reason)) => Err(Refusal::Failed(Error::Unknown(reason))),
            Err(AskError::Failed(error)) => Err(Refusal::Failed(error)),
        }
    }

    pub(crate) async fn ask_peer(
        &self,
        to: &PeerAddress,
        body: call_request::Body,
    ) -> Result<call_response::Body, AskError> {
        let request = proto::CallRequest {
            header: Some(self.header(to.id)),
            body: Some(body),
        };
        match self
            .transport
            .call(to, request, self.patience.outcome)
            .await
        {
            Ok(proto::CallResponse {
                body: Some(call_response::Body::Failure(failure)),
            }) => Err(failure_to_error(&failure).map_or(AskError::Retry, AskError::Failed)),
            Ok(proto::CallResponse { body: Some(body) }) => Ok(body),
            Ok(proto::CallResponse { body: None }) => Err(AskError::Lost("an empty answer".into())),
            Err(CallError::NotSent(_)) => Err(AskError::Retry),
            Err(error @ CallError::Lost(_)) => Err(AskError::Lost(error.to_string())),
        }
    }

    pub(crate) async fn ask_leader(&self, question: Bytes) -> Result<Bytes> {
        let deadline = Instant::now() + self.patience.route;
        loop {
            let answer = match self.route(deadline).await? {
                Route::Local => return self.query.answer(question).await.map_err(Error::Refused),
                Route::Remote(to) => {
                    let body = call_request::Body::Ask(proto::Ask {
                        question: question.clone(),
                    });
                    self.ask_peer(&to, body).await
                }
            };
            match answer {
                Ok(call_response::Body::Answer(proto::Answer {
                    result: Some(result),
                })) => {
                    return match result {
                        proto::answer::Result::Answer(answer) => Ok(answer),
                        proto::answer::Result::Error(error) => Err(Error::Refused(error)),
                    };
                }
                Ok(_) => return Err(Error::Unknown("the leader answered something else".into())),
                Err(AskError::Retry) => self.pause(deadline).await?,
                Err(AskError::Lost(reason)) => return Err(Error::Unknown(reason)),
                Err(AskError::Failed(error)) => return Err(error),
            }
        }
    }

    /// Puts a question to one member.
    pub(crate) async fn ask_member(&self, id: u64, question: Bytes) -> Result<Bytes> {
        self.failure.check()?;
        if id == self.local.id {
            return self
                .query
                .answer_here(question)
                .await
                .map_err(Error::Refused);
        }
        let Some(address) = self.peer_address(id) else {
            return Err(Error::Refused(format!("there is no member {id:x}")));
        };
        let body = call_request::Body::AskMember(proto::Ask { question });
        match self.ask_peer(&address, body).await {
            Ok(call_response::Body::Answer(proto::Answer {
                result: Some(proto::answer::Result::Answer(answer)),
            })) => Ok(answer),
            Ok(call_response::Body::Answer(proto::Answer {
                result: Some(proto::answer::Result::Error(error)),
            })) => Err(Error::Refused(error)),
            Ok(_) => Err(Error::Unknown("the member answered something else".into())),
            Err(AskError::Retry) => Err(Error::Unknown("the member cannot be reached".into())),
            Err(AskError::Lost(reason)) => Err(Error::Unknown(reason)),
            Err(AskError::Failed(error)) => Err(error),
        }
    }

    pub(crate) async fn read_index(&self) -> Result<()> {
        self.failure.check()?;
        let (waiter, answer) = oneshot::channel();
        match self.reads.try_send(waiter) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(Error::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(Error::Stopped),
        }
        tokio::select! {
            answer = answer => answer.unwrap_or(Err(Error::Stopped)),
            stop = self.failure.stopped() => Err(stop.error()),
        }
    }

    /// Serves readers in rounds: everybody who waits when a round starts shares it.
    pub(crate) async fn read_rounds(self: Arc<Self>, mut waiting: mpsc::Receiver<ReadWaiter>) {
        let rounds = Arc::new(Semaphore::new(READ_ROUNDS));
        loop {
            // The semaphore is never closed.
            let Ok(round) = rounds.clone().acquire_owned().await else {
                return;
            };
            let Some(first) = waiting.recv().await else {
                return;
            };
            let mut waiters = vec![first];
            while let Ok(waiter) = waiting.try_recv() {
                waiters.push(waiter);
            }
            waiters.retain(|waiter| !waiter.is_closed());
            let this = self.clone();
            tokio::spawn(async move {
                let deadline = Instant::now() + this.patience.route;
                let point = this.read_point(deadline).await;
                drop(round);
                let result = match point {
                    Ok(id) => this.applied(&id, deadline).await,
                    Err(error) => Err(error),
                };
                for waiter in waiters {
                    // The reader may have gone away.
                    let _ = waiter.send(result.clone());
                }
            });
        }
    }

    /// The leader's commit point, confirmed by a quorum after this call began.
    async fn read_point(&self, deadline: Instant) -> Result<LogId> {
        loop {
            let point = match self.route(deadline).await? {
                Route::Local => self.local_read_point().await,
                Route::Remote(to) => {
                    let asked =
                        self.ask_peer(&to, call_request::Body::ReadIndex(proto::ReadIndex {}));
                    // Reading changes nothing: whatever goes wrong, it can be tried again.
                    tokio::select! {
                        answer = tokio::time::timeout_at(deadline, asked) => match answer {
                            Ok(Ok(call_response::Body::ReadPoint(proto::ReadPoint { log_id: Some(id) }))) => {
                                Some(codec::log_id_from_proto(&id))
                            }
                            _ => None,
                        },
                        () = self.leader_moved(to.id) => None,
                    }
                }
            };
            match point {
                Some(id) => return Ok(id),
                None => self.pause(deadline).await?,
            }
        }
    }

    /// Waits until a leader other than `id` is known.
    async fn leader_moved(&self, id: u64) {
        let mut leadership = self.leadership.subscribe();
        let moved = leadership
            .wait_for(|now| now.leader.is_some_and(|leader| leader != id))
            .await
            .is_ok();
        if !moved {
            // The node is being taken down; its stop is noticed elsewhere.
            std::future::pending::<()>().await;
        }
    }

    /// A read point from this member as the leader. Never from the lease alone: a process that
    /// was paused does not notice that its lease has run out.
    pub(crate) async fn local_read_point(&self) -> Option<LogId> {
        let linearizer = self
            .raft
            .get_read_linearizer(ReadPolicy::ReadIndex)
            .await
            .ok()?;
        Some(*linearizer.read_log_id().log_id())
    }
}

/// A [`crate::batch::Sink`] that works on a node that may be gone.
pub(crate) fn sink<F>(node: std::sync::Weak<Shared>, work: F) -> crate::batch::Sink
where
    F: Fn(Arc<Shared>, Vec<Bytes>) -> BoxFuture<'static, Result<Vec<Bytes>, Refusal>>
        + Send
        + Sync
        + 'static,
{
    Arc::new(move |commands| match node.upgrade() {
        Some(node) => work(node, commands),
        None => Box::pin(std::future::ready(Err(Refusal::Failed(Error::Stopped)))),
    })
}
