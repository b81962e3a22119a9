//! Accepting connections: TLS handshakes beside the accept loop, bounded, ending gracefully.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use trivet_pki::peer_name;

use super::authority::Lenient;
use super::coalesce::{Gathering, Turns};
use crate::auth::ClientName;
use crate::limits::{HANDSHAKE_TIMEOUT, MAX_CONCURRENT_STREAMS, MAX_CONNECTIONS};

/// Flow-control windows: a whole request of the largest size fits without waiting for updates.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// A connection that has vanished is noticed after the interval plus the timeout.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Pause after `accept` failed (out of file descriptors, usually).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// A service that may want to know who is at the other end of a connection.
pub(crate) trait ForClient {
    /// The service for a connection whose client has shown a certificate with this name, or none.
    #[must_use]
    fn for_client(&self, name: Option<ClientName>) -> Self;
}

/// An address that connections are accepted on.
pub(crate) struct Listener {
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    /// Binds `address`. Without TLS it must be a loopback address, unless `plaintext_anywhere`.
    pub(crate) async fn bind(
        address: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        plaintext_anywhere: bool,
    ) -> io::Result<Self> {
        if tls.is_none() && !plaintext_anywhere && !address.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "refusing to serve without TLS on {address}: only loopback addresses may do that"
                ),
            ));
        }
        let socket = TcpListener::bind(address).await.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
        })?;
        Ok(Self {
            socket,
            tls: tls.map(TlsAcceptor::from),
        })
    }

    /// The address bound to; tells the port when 0 was asked for.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop`; the connections open then are tracked by `tasks` and finish their
    /// requests.
    pub(crate) async fn serve<S>(self, service: S, stop: CancellationToken, tasks: TaskTracker)
    where
        S: Service<http::Request<Incoming>, Response = http::Response<Body>, Error = Infallible>
            + ForClient
            + Clone
            + Send
            + 'static,
        S::Future: Send,
    {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = async {
                    let slot = slots.clone().acquire_owned().await;
                    self.socket.accept().await.map(|(stream, _)| (stream, slot))
                } => accepted,
            };
            let (stream, slot) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a client connection failed");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            // Small answers must not wait for the acknowledgement of the one before. Where this
            // fails the connection is gone already, which serving it will find out.
            let _ = stream.set_nodelay(true);
            let (tls, service, stop) = (self.tls.clone(), service.clone(), stop.clone());
            tasks.spawn(async move {
                let _slot = slot;
                match tls {
                    None => connection(Lenient::new(stream), service, stop).await,
                    Some(tls) => {
                        if let Some(stream) = handshake(&tls, stream).await {
                            let service = service.for_client(name(&stream));
                            connection(stream, service, stop).await;
                        }
                    }
                }
            });
        }
    }
}

async fn handshake(
    tls: &TlsAcceptor,
    stream: TcpStream,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake with a client failed");
            None
        }
        Err(_) => {
            tracing::debug!("TLS handshake with a client took too long");
            None
        }
    }
}

/// The common name that the client has proven to have: certificates come here verified.
fn name(stream: &tokio_rustls::server::TlsStream<TcpStream>) -> Option<ClientName> {
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates()?.first()?;
    let name = peer_name(certificate).ok()?.common_name;
    (!name.is_empty()).then(|| ClientName(name.into()))
}

async fn connection<I, S>(io: I, service: S, stop: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<http::Request<Incoming>, Response = http::Response<Body>, Error = Infallible>
        + Send
        + 'static,
    S::Future: Send,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT);
    let stream = Gathering::new(io);
    let connection = builder.serve_connection(TokioIo::new(stream.handle()), service);
    let connection = std::pin::pin!(connection);
    let mut turns = Turns { stream, connection };
    let outcome = tokio::select! {
        outcome = &mut turns => outcome,
        () = stop.cancelled() => {
            turns.connection.as_mut().graceful_shutdown();
            turns.await
        }
    };
    if let Err(error) = outcome {
        tracing::trace!(%error, "client connection ended");
    }
}
