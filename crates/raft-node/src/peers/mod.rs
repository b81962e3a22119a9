//! Talking to other members.
//!
//! [`PeerTransport`] is the seam: messages go in, messages come out. The real one is gRPC
//! ([`client`], [`server`]); tests put a faulty network in its place, which is far cheaper to simulate
//! than byte streams and needs no certificates.

pub(crate) mod client;
pub(crate) mod server;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio_util::sync::CancellationToken;

/// The messages, generated from `proto/raft.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::large_futures,
    clippy::semicolon_if_nothing_returned,
    clippy::needless_pass_by_value,
    clippy::implicit_clone
)]
pub(crate) mod proto {
    tonic::include_proto!("trivet.raft.v1");
}

/// The largest message sent or accepted, in bytes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 48 << 20;

/// Where a member is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PeerAddress {
    /// Its identity; 0 when it is not known yet.
    pub(crate) id: u64,
    /// `https://host:port`, or several with commas between them.
    pub(crate) url: String,
}

/// Why a message was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// It did not reach the peer: the peer has done nothing.
    #[error("cannot reach the peer: {0}")]
    NotSent(String),
    /// It may have reached the peer.
    #[error("no answer from the peer: {0}")]
    Lost(String),
}

/// Carries messages to other members and theirs to this one.
#[async_trait]
pub(crate) trait PeerTransport: Send + Sync + 'static {
    /// One question, one answer, within `deadline`.
    async fn call(
        &self,
        to: &PeerAddress,
        request: proto::CallRequest,
        deadline: Duration,
    ) -> Result<proto::CallResponse, CallError>;

    /// A stream of log entries; answers come in the order of the requests. Dropping the answers
    /// ends the stream.
    async fn append(
        &self,
        to: &PeerAddress,
        requests: BoxStream<'static, proto::AppendRequest>,
    ) -> Result<BoxStream<'static, Result<proto::AppendResponse, CallError>>, CallError>;

    /// A whole snapshot, answered once it is installed.
    async fn snapshot(
        &self,
        to: &PeerAddress,
        chunks: BoxStream<'static, proto::SnapshotChunk>,
    ) -> Result<proto::SnapshotResponse, CallError>;

    /// A snapshot of what a peer has. Dropping the stream ends it.
    async fn fetch(
        &self,
        to: &PeerAddress,
        request: proto::FetchRequest,
    ) -> Result<BoxStream<'static, Result<proto::SnapshotChunk, CallError>>, CallError>;

    /// Whether nothing listens where the peer should be: its process has ended. `false` when that
    /// is not certain.
    async fn is_gone(&self, to: &PeerAddress) -> bool;

    /// Listens. Returns once it does, with the future that serves until `stop`.
    async fn serve(
        &self,
        service: Arc<dyn PeerService>,
        stop: CancellationToken,
    ) -> io::Result<BoxFuture<'static, ()>>;
}

/// The receiving end. Checks who a message is for and answers with a `Failure` where it must.
#[async_trait]
pub(crate) trait PeerService: Send + Sync + 'static {
    /// See [`PeerTransport::call`].
    async fn call(&self, request: proto::CallRequest) -> proto::CallResponse;

    /// See [`PeerTransport::append`].
    fn append(
        &self,
        requests: BoxStream<'static, proto::AppendRequest>,
    ) -> BoxStream<'static, proto::AppendResponse>;

    /// See [`PeerTransport::snapshot`]. An error in the stream means that it broke off.
    async fn snapshot(
        &self,
        chunks: BoxStream<'static, Result<proto::SnapshotChunk, CallError>>,
    ) -> proto::SnapshotResponse;

    /// See [`PeerTransport::fetch`].
    async fn fetch(&self, request: proto::FetchRequest)
    -> BoxStream<'static, proto::SnapshotChunk>;
}
