//! The client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use trivet_pki::Secret;

use crate::connect::{ConnectError, Connector};
use crate::error::chain;
use crate::{Error, Result, collect};

/// Longest part of an error answer that goes into [`Error::Status`].
const MESSAGE_CHARS_MAX: usize = 500;

/// What a client presents besides its certificate.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Nothing.
    None,
    /// HTTP basic authentication.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A bearer token.
    Bearer(Secret),
}

/// Settings of a [`Client`].
#[derive(Clone)]
pub struct ClientBuilder {
    url: String,
    host: String,
    port: u16,
    tls: Arc<rustls::ClientConfig>,
    auth: Auth,
    dial: Option<String>,
    server_name: Option<String>,
    connect_timeout: Duration,
    request_timeout: Duration,
    body_limit_bytes: usize,
}

impl ClientBuilder {
    /// Credentials for every request.
    #[must_use]
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// Connects to this `host:port` instead of the URL's.
    #[must_use]
    pub fn dial(mut self, address: impl Into<String>) -> Self {
        self.dial = Some(address.into());
        self
    }

    /// Expects this name (or address) in the server's certificate instead of the URL's host.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Time for TCP and again for TLS; 5 s unless set.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Time for a whole answer, or for the head of a streamed one; 10 s unless set.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Largest collected answer in bytes; 16 MiB unless set.
    #[must_use]
    pub fn body_limit_bytes(mut self, limit: usize) -> Self {
        self.body_limit_bytes = limit;
        self
    }

    /// The client. Does no I/O.
    pub fn build(self) -> Result<Client> {
        let bad = |reason| Error::Url {
            url: self.url.clone(),
            reason,
        };
        let authority = authority(&self.host, self.port);
        let server_name = self.server_name.as_deref().unwrap_or(&self.host);
        let server_name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| bad("its host is neither a DNS name nor an address"))?;
        let authorization = match &self.auth {
            Auth::None => None,
            Auth::Basic { user, password } => Some(format!(
                "Basic {}",
                STANDARD.encode(format!("{user}:{}", password.expose()))
            )),
            Auth::Bearer(token) => Some(format!("Bearer {}", token.expose())),
        };
        let authorization = authorization
            .map(|text| {
                let mut value = HeaderValue::try_from(text).map_err(|_| {
                    Error::Request("the credentials contain control characters".to_owned())
                })?;
                value.set_sensitive(true);
                Ok(value)
            })
            .transpose()?;
        let dial = self.dial.unwrap_or_else(|| authority.clone());
        let connector = Connector {
            dial: dial.clone(),
            server_name,
            tls: self.tls.into(),
            timeout: self.connect_timeout,
        };
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(4)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(10))
            .build(connector);
        Ok(Client(Arc::new(Inner {
            http,
            authority,
            address: dial,
            authorization,
            request_timeout: self.request_timeout,
            body_limit_bytes: self.body_limit_bytes,
        })))
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// An HTTPS client of one server. Cheap to clone; connections are reused.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: legacy::Client<Connector, Full<Bytes>>,
    authority: String,
    address: String,
    authorization: Option<HeaderValue>,
    request_timeout: Duration,
    body_limit_bytes: usize,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("address", &self.0.address)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of `https://host[:port]` (port 443 unless given; a path is not allowed).
    pub fn builder(url: &str, tls: Arc<rustls::ClientConfig>) -> Result<ClientBuilder> {
        let (host, port) = split_url(url)?;
        Ok(ClientBuilder {
            url: url.to_owned(),
            host,
            port,
            tls,
            auth: Auth::None,
            dial: None,
            server_name: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            body_limit_bytes: 16 << 20,
        })
    }

    /// The `host:port` that is dialled.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// The server's URL, `https://host:port`.
    pub fn url(&self) -> String {
        format!("https://{}", self.0.authority)
    }

    /// Sends a request (its URI is a path with or without a query) and returns the answer,
    /// whatever its status, with a body that streams. Only the head is bounded in time.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Incoming>> {
        let (mut parts, body) = request.into_parts();
        let path = parts
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        parts.uri = Uri::builder()
            .scheme("https")
            .authority(self.0.authority.as_str())
            .path_and_query(path)
            .build()
            .map_err(|error| Error::Request(error.to_string()))?;
        // The version is the connection's affair, and so is the host.
        parts.version = http::Version::default();
        parts.headers.remove(HOST);
        if let Some(value) = &self.0.authorization
            && !parts.headers.contains_key(AUTHORIZATION)
        {
            parts.headers.insert(AUTHORIZATION, value.clone());
        }
        let after = self.0.request_timeout;
        let request = Request::from_parts(parts, Full::new(body));
        match tokio::time::timeout(after, self.0.http.request(request)).await {
            Err(_) => Err(Error::Timeout {
                address: self.0.address.clone(),
                after,
            }),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.error(&error)),
        }
    }

    /// Sends a request and collects the whole answer, whatever its status.
    pub async fn fetch(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let after = self.0.request_timeout;
        let whole = async {
            let (parts, body) = self.send(request).await?.into_parts();
            let bytes =
                collect(body, self.0.body_limit_bytes)
                    .await
                    .map_err(|error| match error {
                        Error::Request(reason) => Error::Connection {
                            address: self.0.address.clone(),
                            reason,
                        },
                        other => other,
                    })?;
            Ok(Response::from_parts(parts, bytes))
        };
        tokio::time::timeout(after, whole)
            .await
            .unwrap_or_else(|_| {
                Err(Error::Timeout {
                    address: self.0.address.clone(),
                    after,
                })
            })
    }

    /// Sends a request and returns the body of a 2xx answer; other statuses are
    /// [`Error::Status`].
    pub async fn call(&self, request: Request<Bytes>) -> Result<Bytes> {
        let path = request.uri().path().to_owned();
        let response = self.fetch(request).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let text = String::from_utf8_lossy(response.body());
        Err(Error::Status {
            address: self.0.address.clone(),
            path,
            status: response.status(),
            message: text.trim().chars().take(MESSAGE_CHARS_MAX).collect(),
        })
    }

    /// GET; the body of a 2xx answer.
    pub async fn get(&self, path: &str) -> Result<Bytes> {
        self.call(request(Method::GET, path, None, Bytes::new())?)
            .await
    }

    /// POST; the body of a 2xx answer.
    pub async fn post(&self, path: &str, content_type: &str, body: Bytes) -> Result<Bytes> {
        self.call(request(Method::POST, path, Some(content_type), body)?)
            .await
    }

    /// GET of a JSON document.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let bytes = self.get(path).await?;
        self.decode(path, &bytes)
    }

    /// A request with a JSON body and a JSON answer. For patches pass their content type.
    pub async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|error| Error::Request(error.to_string()))?;
        let bytes = self
            .call(request(method, path, Some(content_type), body.into())?)
            .await?;
        self.decode(path, &bytes)
    }

    fn decode<T: DeserializeOwned>(&self, path: &str, bytes: &[u8]) -> Result<T> {
        serde_json::from_slice(bytes).map_err(|error| Error::Malformed {
            address: self.0.address.clone(),
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    fn error(&self, error: &legacy::Error) -> Error {
        let address = self.0.address.clone();
        let mut current: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(part) = current {
            if let Some(connect) = part.downcast_ref::<ConnectError>() {
                return match connect {
                    ConnectError::Tcp(source) => Error::Connect {
                        address,
                        source: copy(source),
                    },
                    ConnectError::Tls(source) => Error::Tls {
                        address,
                        source: copy(source),
                    },
                };
            }
            current = part.source();
        }
        Error::Connection {
            address,
            reason: chain(error),
        }
    }
}

fn request(
    method: Method,
    path: &str,
    content_type: Option<&str>,
    body: Bytes,
) -> Result<Request<Bytes>> {
    let mut builder = Request::builder().method(method).uri(path);
    if let Some(content_type) = content_type {
        builder = builder.header(CONTENT_TYPE, content_type);
    }
    builder
        .body(body)
        .map_err(|error| Error::Request(error.to_string()))
}

/// I/O errors cannot be cloned; this keeps the kind, and what TLS said.
fn copy(error: &std::io::Error) -> std::io::Error {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(tls) => std::io::Error::new(error.kind(), tls.clone()),
        None => std::io::Error::new(error.kind(), error.to_string()),
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn split_url(url: &str) -> Result<(String, u16)> {
    let bad = |reason| Error::Url {
        url: url.chars().take(200).collect(),
        reason,
    };
    let uri: Uri = url
        .trim_end_matches('/')
        .parse()
        .map_err(|_| bad("it is not a URL"))?;
    if uri.scheme_str() != Some("https") {
        return Err(bad("it must start with https://"));
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(bad("it must not contain a path"));
    }
    let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
    if authority.as_str().contains('@') {
        return Err(bad("it must not contain credentials"));
    }
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    if host.is_empty() {
        return Err(bad("it names no host"));
    }
    let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
        None => 443,
        Some(port) => port.parse().map_err(|_| bad("its port is not a number"))?,
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(
            split_url("https://10.0.0.1:6443").unwrap(),
            ("10.0.0.1".to_owned(), 6443)
        );
        assert_eq!(
            split_url("https://a.example/").unwrap(),
            ("a.example".to_owned(), 443)
        );
        assert_eq!(
            split_url("https://[::1]:6443").unwrap(),
            ("::1".to_owned(), 6443)
        );
        for bad in [
            "",
            "http://a",
            "https://",
            "https://a/b",
            "a:6443",
            "https://u:p@a",
            "https://a:b",
        ] {
            assert!(split_url(bad).is_err(), "{bad}");
        }
    }
}
