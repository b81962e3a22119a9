//! The real transport: gRPC, over TLS unless it was decided otherwise.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{BoxFuture, FutureExt, Shared};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::api::PeerSecurity;
use crate::peers::proto::peer_client::PeerClient;
use crate::peers::stream::Connector;
use crate::peers::{CallError, MESSAGE_BYTES_MAX, PeerAddress, PeerService, PeerTransport, proto};

/// A silent connection is probed after this long, and given up when the probe is not answered.
/// A peer that was cut off must not look alive for longer than a few election timeouts.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Flow control windows: a few large entries may be on their way at once.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// How many connections are remembered; addresses of members that are long gone are dropped.
const CONNECTIONS_MAX: usize = 64;

/// How long a machine may take to say that nothing listens.
const PROBE: Duration = Duration::from_millis(200);

type Connecting = Shared<BoxFuture<'static, Result<Channel, CallError>>>;

/// gRPC, over TLS or not.
pub(crate) struct GrpcTransport {
    pub(super) security: PeerSecurity,
    pub(super) listen: Vec<SocketAddr>,
    connections: Mutex<HashMap<String, Connecting>>,
}

impl GrpcTransport {
    pub(crate) fn new(mut security: PeerSecurity, listen: Vec<SocketAddr>) -> Self {
        if let PeerSecurity::Mutual { server, client } | PeerSecurity::Tls { server, client } =
            &mut security
        {
            // gRPC speaks HTTP/2 only, and says so.
            Arc::make_mut(client).alpn_protocols = vec![b"h2".to_vec()];
            Arc::make_mut(server).alpn_protocols = vec![b"h2".to_vec()];
        }
        Self {
            security,
            listen,
            connections: Mutex::default(),
        }
    }

    fn connections(&self) -> std::sync::MutexGuard<'_, HashMap<String, Connecting>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn client(&self, to: &PeerAddress) -> Result<PeerClient<Channel>, CallError> {
        let connecting = {
            let mut connections = self.connections();
            if connections.len() >= CONNECTIONS_MAX && !connections.contains_key(&to.url) {
                connections.clear();
            }
            connections
                .entry(to.url.clone())
                .or_insert_with(|| self.connect(&to.url))
                .clone()
        };
        match connecting.await {
            Ok(channel) => Ok(PeerClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)),
            Err(error) => {
                self.forget(&to.url);
                Err(error)
            }
        }
    }

    /// Connects on a task of its own: callers with short deadlines come and go, and the
    /// handshake must get done all the same.
    fn connect(&self, urls: &str) -> Connecting {
        let connector = Connector {
            tls: self.security.client().cloned(),
            plaintext: self.security.plaintext_urls(),
        };
        let urls: Vec<String> = urls.split(',').map(str::to_owned).collect();
        let task = tokio::spawn(async move {
            let mut failed = CallError::NotSent("the peer has no address".into());
            for url in urls {
                match open(url, connector.clone()).await {
                    Ok(channel) => return Ok(channel),
                    Err(error) => failed = CallError::NotSent(describe(&error)),
                }
            }
            Err(failed)
        });
        async move {
            task.await
                .unwrap_or_else(|_| Err(CallError::NotSent("connecting was interrupted".into())))
        }
        .boxed()
        .shared()
    }

    fn forget(&self, url: &str) {
        self.connections().remove(url);
    }

    /// What a failed call means. A connection that broke is not used again.
    fn failed(&self, to: &PeerAddress, status: &tonic::Status) -> CallError {
        let mut source = std::error::Error::source(status);
        let mut connecting = false;
        while let Some(error) = source {
            connecting |= error.is::<tonic::ConnectError>();
            source = error.source();
        }
        if std::error::Error::source(status).is_some() || status.code() == tonic::Code::Unavailable
        {
            self.forget(&to.url);
        }
        let text = describe(status);
        if connecting {
            CallError::NotSent(text)
        } else {
            CallError::Lost(text)
        }
    }
}

async fn open(url: String, connector: Connector) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(url)?
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_with_connector(connector)
        .await
}

/// An error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A stream of requests under a name: the compiler gives up on the lifetimes of a bare trait
/// object inside the generated code.
struct Outgoing<T>(BoxStream<'static, T>);

impl<T> Stream for Outgoing<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.as_mut().poll_next(cx)
    }
}

#[async_trait]
impl PeerTransport for GrpcTransport {
    async fn call(
        &self,
        to: &PeerAddress,
        request: proto::CallRequest,
        deadline: Duration,
    ) -> Result<proto::CallResponse, CallError> {
        let start = tokio::time::Instant::now();
        let mut client = tokio::time::timeout(deadline, self.client(to))
            .await
            .map_err(|_| CallError::NotSent("connecting takes too long".into()))??;
        let mut request = tonic::Request::new(request);
        request.set_timeout(deadline);
        match tokio::time::timeout_at(start + deadline, client.call(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.failed(to, &status)),
            Err(_) => Err(CallError::Lost(format!("nothing within {deadline:?}"))),
        }
    }

    async fn append(
        &self,
        to: &PeerAddress,
        requests: BoxStream<'static, proto::AppendRequest>,
    ) -> Result<BoxStream<'static, Result<proto::AppendResponse, CallError>>, CallError> {
        let mut client = self.client(to).await?;
        match client.append(Outgoing(requests)).await {
            Ok(answers) => {
                let answers = answers.into_inner();
                Ok(answers
                    .map_err(|status| CallError::Lost(describe(&status)))
                    .boxed())
            }
            Err(status) => Err(self.failed(to, &status)),
        }
    }

    async fn snapshot(
        &self,
        to: &PeerAddress,
        chunks: BoxStream<'static, proto::SnapshotChunk>,
    ) -> Result<proto::SnapshotResponse, CallError> {
        let mut client = self.client(to).await?;
        match client.snapshot(Outgoing(chunks)).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(self.failed(to, &status)),
        }
    }

    async fn fetch(
        &self,
        to: &PeerAddress,
        request: proto::FetchRequest,
    ) -> Result<BoxStream<'static, Result<proto::SnapshotChunk, CallError>>, CallError> {
        let mut client = self.client(to).await?;
        match client.fetch(request).await {
            Ok(chunks) => {
                let chunks = chunks.into_inner();
                Ok(chunks
                    .map_err(|status| CallError::Lost(describe(&status)))
                    .boxed())
            }
            Err(status) => Err(self.failed(to, &status)),
        }
    }

    async fn is_gone(&self, to: &PeerAddress) -> bool {
        for url in to.url.split(',') {
            let Ok(uri) = url.parse::<http::Uri>() else {
                return false;
            };
            let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
                return false;
            };
            let connecting = TcpStream::connect((host.trim_matches(['[', ']']), port));
            match tokio::time::timeout(PROBE, connecting).await {
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                _ => return false,
            }
        }
        true
    }

    async fn serve(
        &self,
        service: Arc<dyn PeerService>,
        stop: CancellationToken,
    ) -> io::Result<BoxFuture<'static, ()>> {
        super::server::serve(self, service, stop).await
    }
}
