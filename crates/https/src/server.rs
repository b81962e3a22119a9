//! The server loop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trivet_pki::PeerName;

use crate::BoxError;

/// How long to pause accepting when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds of a server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; further ones wait in the listen queue.
    pub connections: usize,
    /// Time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// Time to send a request's head (HTTP/1.1).
    pub header_timeout: Duration,
    /// Streams at once on one h2 connection.
    pub streams_per_connection: u32,
    /// Interval of h2 pings, which find peers that vanished.
    pub keepalive_interval: Duration,
    /// On shutdown, open requests get this long to end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(30),
            // What kube-apiserver allows; clients put all their watches on one connection.
            streams_per_connection: 1000,
            keepalive_interval: Duration::from_secs(30),
            drain: Duration::from_secs(5),
        }
    }
}

/// Who the client is, from its verified certificate. In the request's extensions when the
/// client showed one.
#[derive(Debug, Clone)]
pub struct PeerIdentity {
    /// Common name and organizations.
    pub name: PeerName,
    /// The leaf itself.
    pub certificate: CertificateDer<'static>,
}

/// Where the client connects from. In every request's extensions.
#[derive(Debug, Clone, Copy)]
pub struct RemoteAddress(pub SocketAddr);

/// A running server.
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    stop: CancellationToken,
    abort: CancellationToken,
    connections: TaskTracker,
    drain: Duration,
}

impl Server {
    /// The address that is bound; the port is never 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops accepting, lets open requests end within the drain time, then cuts the rest.
    /// Calling it twice is fine.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.connections.close();
        if tokio::time::timeout(self.drain, self.connections.wait())
            .await
            .is_err()
        {
            tracing::debug!(address = %self.local_addr, open = self.connections.len(), "cutting open connections");
            self.abort.cancel();
            self.connections.wait().await;
        }
    }

    /// Number of open connections (with the accepting task).
    pub fn open_connections(&self) -> usize {
        self.connections.len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.abort.cancel();
    }
}

/// Serves HTTPS on `listener`. Dropping the returned [`Server`] stops it at once.
///
/// The handler is called once per request, on the caller's runtime.
pub fn serve<F, Fut, B>(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    limits: &Limits,
    handler: F,
) -> io::Result<Server>
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let server = Server {
        local_addr: listener.local_addr()?,
        stop: CancellationToken::new(),
        abort: CancellationToken::new(),
        connections: TaskTracker::new(),
        drain: limits.drain,
    };
    let accepting = Accepting {
        tls: TlsAcceptor::from(tls),
        limits: limits.clone(),
        handler,
        stop: server.stop.clone(),
        abort: server.abort.clone(),
        connections: server.connections.clone(),
    };
    server.connections.spawn(accepting.run(listener));
    Ok(server)
}

struct Accepting<F> {
    tls: TlsAcceptor,
    limits: Limits,
    handler: F,
    stop: CancellationToken,
    abort: CancellationToken,
    connections: TaskTracker,
}

impl<F> Accepting<F> {
    async fn run<Fut, B>(self, listener: TcpListener)
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<B>> + Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        loop {
            let accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await.ok()?;
                Some((slot, listener.accept().await))
            };
            let accepted = tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = accepted => accepted,
            };
            let Some((slot, accepted)) = accepted else {
                break;
            };
            let (stream, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let connection = Connection {
                tls: self.tls.clone(),
                limits: self.limits.clone(),
                handler: self.handler.clone(),
                stop: self.stop.clone(),
                remote,
            };
            let abort = self.abort.clone();
            self.connections.spawn(async move {
                let _slot = slot;
                tokio::select! {
                    () = abort.cancelled() => {}
                    () = connection.run(stream) => {}
                }
            });
        }
    }
}

struct Connection<F> {
    tls: TlsAcceptor,
    limits: Limits,
    handler: F,
    stop: CancellationToken,
    remote: SocketAddr,
}

impl<F> Connection<F> {
    async fn run<Fut, B>(self, stream: TcpStream)
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<B>> + Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // Without it small answers wait for the client's acknowledgement. Failure only costs time.
        let _ = stream.set_nodelay(true);
        let handshake =
            tokio::time::timeout(self.limits.handshake_timeout, self.tls.accept(stream));
        let stream = tokio::select! {
            () = self.stop.cancelled() => return,
            result = handshake => match result {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(remote = %self.remote, %error, "TLS handshake failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!(remote = %self.remote, "TLS handshake took too long");
                    return;
                }
            },
        };
        let peer = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())
            .and_then(|leaf| {
                let name = trivet_pki::peer_name(leaf).ok()?;
                Some(PeerIdentity {
                    name,
                    certificate: leaf.clone().into_owned(),
                })
            });
        let (handler, remote) = (self.handler, self.remote);
        let service = service_fn(move |mut request: Request<Incoming>| {
            let extensions = request.extensions_mut();
            extensions.insert(RemoteAddress(remote));
            if let Some(peer) = &peer {
                extensions.insert(peer.clone());
            }
            let answer = handler(request);
            async move { Ok::<_, std::convert::Infallible>(answer.await) }
        });

        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.streams_per_connection)
            .keep_alive_interval(self.limits.keepalive_interval);
        let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut serving = std::pin::pin!(serving);
        let result = tokio::select! {
            result = serving.as_mut() => result,
            () = self.stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%remote, %error, "connection ended");
        }
    }
}
