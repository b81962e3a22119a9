//! Plain HTTP: version, health, metrics, as etcd has them.

mod health;
mod metrics;
mod process;
mod query;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::Service;
use tonic::body::Body;

use crate::auth::ClientName;
use crate::engine::Engine;
use crate::service::ForClient;

pub(crate) use health::CHECKS;

/// The etcd version that clients are told. Kubernetes uses progress notifications from 3.5.13
/// on; the API offered here is that of the 3.5 line.
pub const SERVER_VERSION: &str = "3.5.21";
pub(crate) const CLUSTER_VERSION: &str = "3.5.0";

/// To whom an address is offered, which decides what is found there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Clients.
    Clients,
    /// Whoever watches over the member, without a certificate: health and metrics.
    Monitoring,
}

/// What the metrics address serves. Clones share it.
#[derive(Clone)]
pub(crate) struct Plain(pub(crate) Arc<Engine>);

impl ForClient for Plain {
    fn for_client(&self, _: Option<ClientName>) -> Self {
        self.clone()
    }
}

impl Service<Request<Incoming>> for Plain {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let engine = self.0.clone();
        Box::pin(async move { Ok(answer(&engine, &request, Offer::Monitoring).await) })
    }
}

/// Answers a request that is neither gRPC nor the gateway's.
pub(crate) async fn answer<B>(
    engine: &Engine,
    request: &Request<B>,
    offer: Offer,
) -> Response<Body> {
    let path = request.uri().path();
    let get = request.method() == Method::GET;
    let only_get = |answer: Response<Body>| if get { answer } else { not_allowed() };
    match path {
        "/version" if offer == Offer::Clients => only_get(with_type(
            StatusCode::OK,
            "application/json",
            format!(r#"{{"etcdserver":"{SERVER_VERSION}","etcdcluster":"{CLUSTER_VERSION}"}}"#),
        )),
        // Like etcd's, these do not look at the method.
        "/metrics" => with_type(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            metrics::page(engine),
        ),
        "/debug/vars" if offer == Offer::Clients => with_type(
            StatusCode::OK,
            "application/json; charset=utf-8",
            metrics::variables(engine),
        ),
        _ => match health::Question::parse(path, request.uri().query()) {
            Some(_) if !get => not_allowed(),
            Some(question) => question.answer(engine).await,
            None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        },
    }
}

fn not_allowed() -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    let get = HeaderValue::from_static("GET");
    response.headers_mut().insert(ALLOW, get);
    response
}

/// An answer in plain text.
pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Response<Body> {
    let mut response = with_type(status, "text/plain; charset=utf-8", body);
    response.headers_mut().insert(
        http::header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn with_type(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<String>,
) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(bytes::Bytes::from(body.into()))));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
