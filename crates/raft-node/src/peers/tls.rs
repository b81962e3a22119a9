//! TLS connections to and from peers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::server::Connected;
use tower_service::Service;

/// How long connecting and the handshake may take in all.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// Opens TLS connections for the gRPC client.
#[derive(Clone)]
pub(crate) struct Connector(pub(crate) Arc<rustls::ClientConfig>);

impl Service<Uri> for Connector {
    type Response = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = TlsConnector::from(self.0.clone());
        Box::pin(async move {
            let connect = async move {
                let host = uri.host().unwrap_or_default();
                let bare = host
                    .trim_start_matches('[')
                    .trim_end_matches(']')
                    .to_owned();
                let port = uri.port_u16().unwrap_or(2380);
                let name = ServerName::try_from(bare.clone()).map_err(|_| {
                    io::Error::new(io::ErrorKind::InvalidInput, format!("bad host {bare:?}"))
                })?;
                let tcp = TcpStream::connect((bare.as_str(), port)).await?;
                tcp.set_nodelay(true)?;
                connector.connect(name, tcp).await
            };
            match tokio::time::timeout(CONNECT_DEADLINE, connect).await {
                Ok(stream) => stream.map(TokioIo::new),
                Err(_) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "connecting took too long",
                )),
            }
        })
    }
}

/// An accepted connection of a peer with a verified certificate.
pub(crate) struct PeerStream(Box<tokio_rustls::server::TlsStream<TcpStream>>);

impl PeerStream {
    pub(crate) async fn accept(acceptor: TlsAcceptor, tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let stream = tokio::time::timeout(CONNECT_DEADLINE, acceptor.accept(tcp))
            .await
            .map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")
            })??;
        // The configuration requires one; a wrong configuration must not open the door.
        if stream
            .get_ref()
            .1
            .peer_certificates()
            .is_none_or(<[_]>::is_empty)
        {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the peer has no certificate",
            ));
        }
        Ok(Self(Box::new(stream)))
    }
}

impl Connected for PeerStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
