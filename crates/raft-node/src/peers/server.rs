//! Listening for peers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::peers::client::GrpcTransport;
use crate::peers::proto::peer_server::{Peer, PeerServer};
use crate::peers::stream::{Door, PeerStream};
use crate::peers::{CallError, MESSAGE_BYTES_MAX, PeerService, proto};

/// Handshakes at the same time, over all addresses.
const HANDSHAKES_MAX: usize = 64;

/// Calls at the same time on one connection.
const CALLS_PER_CONNECTION_MAX: u32 = 1024;

/// How long open streams may take to end when the server stops.
const DRAIN: Duration = Duration::from_millis(500);

/// A pause after a failed accept: out of file descriptors is not cured by trying at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

struct Grpc(Arc<dyn PeerService>);

#[tonic::async_trait]
impl Peer for Grpc {
    async fn call(
        &self,
        request: Request<proto::CallRequest>,
    ) -> Result<Response<proto::CallResponse>, Status> {
        Ok(Response::new(self.0.call(request.into_inner()).await))
    }

    type AppendStream = BoxStream<'static, Result<proto::AppendResponse, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        // A broken stream simply ends: there is nobody left to tell.
        let requests = request
            .into_inner()
            .scan((), |(), item| std::future::ready(item.ok()));
        Ok(Response::new(
            self.0.append(requests.boxed()).map(Ok).boxed(),
        ))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotChunk>>,
    ) -> Result<Response<proto::SnapshotResponse>, Status> {
        let chunks = request
            .into_inner()
            .map(|item| item.map_err(|status| CallError::Lost(status.to_string())));
        Ok(Response::new(self.0.snapshot(chunks.boxed()).await))
    }

    type FetchStream = BoxStream<'static, Result<proto::SnapshotChunk, Status>>;

    async fn fetch(
        &self,
        request: Request<proto::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let chunks = self.0.fetch(request.into_inner()).await;
        Ok(Response::new(chunks.map(Ok).boxed()))
    }
}

/// Binds every address, then serves until `stop`.
pub(super) async fn serve(
    transport: &GrpcTransport,
    service: Arc<dyn PeerService>,
    stop: CancellationToken,
) -> io::Result<BoxFuture<'static, ()>> {
    let door = Door::new(&transport.security);
    let (accepted, streams) = mpsc::channel::<io::Result<PeerStream>>(16);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut loops = Vec::new();
    for address in &transport.listen {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot listen for peers on {address}: {error}"),
            )
        })?;
        loops.push(accept(
            listener,
            door.clone(),
            handshakes.clone(),
            accepted.clone(),
        ));
    }
    drop(accepted);
    let peer = PeerServer::new(Grpc(service))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .serve_with_incoming_shutdown(
            peer,
            ReceiverStream::new(streams),
            stop.clone().cancelled_owned(),
        );
    Ok(Box::pin(async move {
        let accepting = futures_util::future::join_all(loops);
        let deadline = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            ended = server => {
                if let Err(error) = ended {
                    tracing::error!(%error, "the peer listener failed");
                }
            }
            _ = accepting => {}
            () = deadline => {}
        }
    }))
}

/// Accepts connections for ever. Handshakes run beside each other, so that one slow or hostile
/// caller delays nobody.
async fn accept(
    listener: TcpListener,
    door: Door,
    handshakes: Arc<Semaphore>,
    accepted: mpsc::Sender<io::Result<PeerStream>>,
) {
    loop {
        // The semaphore is never closed.
        let Ok(permit) = handshakes.clone().acquire_owned().await else {
            return;
        };
        let (tcp, from): (TcpStream, _) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a peer connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let door = door.clone();
        let accepted = accepted.clone();
        tokio::spawn(async move {
            let _permit = permit;
            match door.admit(tcp).await {
                // The server has stopped when nobody receives.
                Ok(stream) => drop(accepted.send(Ok(stream)).await),
                Err(error) => tracing::warn!(%from, %error, "refused a peer connection"),
            }
        });
    }
}
