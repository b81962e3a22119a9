//! Connections to and from peers: TLS, or plain TCP where that was decided.

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
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tonic::transport::server::Connected;
use tower_service::Service;

use crate::api::PeerSecurity;

/// How long connecting and the handshake may take in all.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// Opens connections for the gRPC client; the scheme of the address decides between TLS and not.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    /// Whether `http://` may be followed at all.
    pub(crate) plaintext: bool,
}

impl Connector {
    async fn connect(self, uri: Uri) -> io::Result<PeerStream> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(2380);
        let tls = match uri.scheme_str() {
            Some("https") => match self.tls {
                Some(tls) => {
                    let name = ServerName::try_from(bare.to_owned())
                        .map_err(|_| invalid(format!("bad host {bare:?}")))?;
                    Some((TlsConnector::from(tls), name))
                }
                None => return Err(invalid("this member has no TLS settings for peers".into())),
            },
            Some("http") if self.plaintext => None,
            _ => return Err(invalid("peers are spoken to over TLS only".into())),
        };
        let tcp = TcpStream::connect((bare, port)).await?;
        tcp.set_nodelay(true)?;
        match tls {
            Some((tls, name)) => {
                let stream = tls.connect(name, tcp).await?;
                Ok(PeerStream::Tls(Box::new(TlsStream::Client(stream))))
            }
            None => Ok(PeerStream::Plaintext(tcp)),
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<PeerStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_DEADLINE, connector.connect(uri)).await {
                Ok(stream) => stream.map(TokioIo::new),
                Err(_) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "connecting took too long",
                )),
            }
        })
    }
}

/// What accepted connections must pass.
#[derive(Clone)]
pub(crate) enum Door {
    Tls {
        acceptor: TlsAcceptor,
        /// Whether nobody gets in without a certificate.
        certificate: bool,
    },
    Plaintext,
}

impl Door {
    pub(crate) fn new(security: &PeerSecurity) -> Self {
        match security {
            PeerSecurity::Mutual { server, .. } => Self::Tls {
                acceptor: TlsAcceptor::from(server.clone()),
                certificate: true,
            },
            PeerSecurity::Tls { server, .. } => Self::Tls {
                acceptor: TlsAcceptor::from(server.clone()),
                certificate: false,
            },
            PeerSecurity::Plaintext => Self::Plaintext,
        }
    }

    pub(crate) async fn admit(self, tcp: TcpStream) -> io::Result<PeerStream> {
        tcp.set_nodelay(true)?;
        let Self::Tls {
            acceptor,
            certificate,
        } = self
        else {
            return Ok(PeerStream::Plaintext(tcp));
        };
        let stream = tokio::time::timeout(CONNECT_DEADLINE, acceptor.accept(tcp))
            .await
            .map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")
            })??;
        // The configuration requires one; a wrong configuration must not open the door.
        let shown = stream.get_ref().1.peer_certificates();
        if certificate && shown.is_none_or(<[_]>::is_empty) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the peer has no certificate",
            ));
        }
        Ok(PeerStream::Tls(Box::new(TlsStream::Server(stream))))
    }
}

/// A connection to or from a peer.
pub(crate) enum PeerStream {
    Tls(Box<TlsStream<TcpStream>>),
    Plaintext(TcpStream),
}

impl Connected for PeerStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for PeerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Plaintext(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Plaintext(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Plaintext(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Plaintext(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Plaintext(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Plaintext(stream) => stream.is_write_vectored(),
        }
    }
}
