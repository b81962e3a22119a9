//! Snapshots for etcd's clients: the database file as a stream.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};
use trivet_raft_node::PeerRole;

use super::{Refusal, ResponseStream};
use crate::engine::Engine;
use crate::etcd_snapshot::write::{Chunk, Content, Member, Receiver, SnapshotError};
use crate::failure::Failure;
use crate::limits::{MAX_SNAPSHOTS, SNAPSHOT_STALL};
use crate::proto::etcdserverpb as pb;

/// Chunks waiting for the client.
const BUFFERED_CHUNKS: usize = 16;

/// Hands out snapshots, a few at a time: each keeps files of the state from being removed.
#[derive(Clone)]
pub(super) struct Snapshots(Arc<Semaphore>);

impl Snapshots {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_SNAPSHOTS)))
    }

    /// The state of this member as of now, as etcd would send it: whatever this member has
    /// applied, without asking anybody else.
    pub(super) fn open(
        &self,
        engine: &Arc<Engine>,
    ) -> Result<Response<ResponseStream<pb::SnapshotResponse>>, Status> {
        let Ok(permit) = Arc::clone(&self.0).try_acquire_owned() else {
            return Err(Refusal::TooManyRequests.into());
        };
        let content = content(engine)?;
        let (sender, receiver) = mpsc::channel(BUFFERED_CHUNKS);
        let mut client = Client {
            engine: Arc::clone(engine),
            sender,
            runtime: Handle::current(),
        };
        engine.tasks.spawn_blocking(move || {
            let _permit = permit;
            let revision = content.image.view.revision;
            match content.send(&mut client) {
                Ok(()) => tracing::info!(revision = revision.0, "sent a snapshot to a client"),
                Err(SnapshotError::Cancelled) => {
                    let stopping = client.engine.is_stopping();
                    tracing::info!(revision = revision.0, "a snapshot was not sent to its end");
                    if stopping {
                        client.fail(Refusal::Stopped.into());
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "a snapshot failed");
                    client.fail(Failure::Damaged(error.to_string()).into());
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn content(engine: &Engine) -> Result<Content, Status> {
    let image = engine.shared.image().map_err(Failure::from)?;
    let peers = engine.node.status().peers.into_iter();
    let members = peers.map(|peer| Member {
        id: peer.peer.id,
        name: peer.peer.name,
        peer_url: peer.peer.peer_url,
        client_url: peer.peer.client_url,
        learner: peer.role == PeerRole::Learner,
    });
    Ok(Content {
        image,
        members: members.collect(),
    })
}

/// The other end of a stream, on a thread that may wait.
struct Client {
    engine: Arc<Engine>,
    sender: mpsc::Sender<Result<pb::SnapshotResponse, Status>>,
    runtime: Handle,
}

impl Client {
    /// Ends the stream with an error, if the client still listens.
    fn fail(&self, status: Status) {
        let send = self.sender.send(Err(status));
        // A client that is gone needs no error.
        drop(
            self.runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(1), send).await }),
        );
    }
}

impl Receiver for Client {
    fn wants_more(&mut self) -> bool {
        !self.sender.is_closed() && !self.engine.is_stopping()
    }

    fn take(&mut self, chunk: Chunk) -> bool {
        let response = pb::SnapshotResponse {
            header: None,
            remaining_bytes: chunk.remaining_bytes,
            blob: chunk.bytes,
            ..Default::default()
        };
        let response = match self.sender.try_send(Ok(response)) {
            Ok(()) => return !self.engine.is_stopping(),
            Err(mpsc::error::TrySendError::Closed(_)) => return false,
            Err(mpsc::error::TrySendError::Full(response)) => response,
        };
        let (engine, sender) = (&self.engine, &self.sender);
        self.runtime.block_on(async {
            tokio::select! {
                () = engine.stop.cancelled() => false,
                // Nobody is served by files kept for a client that has stopped reading.
                sent = tokio::time::timeout(SNAPSHOT_STALL, sender.send(response)) => {
                    matches!(sent, Ok(Ok(())))
                }
            }
        })
    }
}
