//! Plain HTTP: version, health and a few metrics under etcd's names.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::Service;
use tonic::body::Body;

use crate::engine::Engine;

/// The etcd version that clients are told. Kubernetes uses progress notifications from 3.5.13
/// on; the API offered here is that of the 3.5 line.
pub const SERVER_VERSION: &str = "3.5.21";
pub(crate) const CLUSTER_VERSION: &str = "3.5.0";

/// How long a health check may wait for a linearizable read.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// What the metrics address serves. Clones share it.
#[derive(Clone)]
pub(crate) struct Plain(pub(crate) Arc<Engine>);

impl Service<Request<Incoming>> for Plain {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let engine = self.0.clone();
        Box::pin(async move { Ok(answer(&engine, &request, true).await) })
    }
}

/// Answers a request that is not gRPC; `metrics` only where nobody needs a certificate.
pub(crate) async fn answer(
    engine: &Engine,
    request: &Request<Incoming>,
    metrics: bool,
) -> Response<Body> {
    let path = request.uri().path();
    let known = matches!(path, "/version" | "/health" | "/livez" | "/readyz")
        || (metrics && path == "/metrics");
    if !known {
        return text(
            StatusCode::NOT_FOUND,
            "text/plain; charset=utf-8",
            "404 page not found\n".to_owned(),
        );
    }
    if request.method() != Method::GET {
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain; charset=utf-8",
            "Method Not Allowed\n".to_owned(),
        );
    }
    match path {
        "/version" => text(
            StatusCode::OK,
            "application/json",
            format!(r#"{{"etcdserver":"{SERVER_VERSION}","etcdcluster":"{CLUSTER_VERSION}"}}"#),
        ),
        "/metrics" => text(
            StatusCode::OK,
            "text/plain; version=0.0.4",
            metrics_text(engine),
        ),
        "/health" => {
            let serializable = request
                .uri()
                .query()
                .is_some_and(|query| query.split('&').any(|pair| pair == "serializable=true"));
            let problem = if serializable {
                None
            } else {
                problem(engine).await
            };
            let (status, health, reason) = match problem {
                None => (StatusCode::OK, "true", String::new()),
                Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, "false", reason),
            };
            let body = format!(r#"{{"health":"{health}","reason":"{reason}"}}"#);
            text(status, "application/json", body)
        }
        "/livez" => checks(None),
        _ => checks(problem(engine).await),
    }
}

fn checks(problem: Option<String>) -> Response<Body> {
    match problem {
        None => text(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            "ok\n".to_owned(),
        ),
        Some(reason) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain; charset=utf-8",
            format!("[-]linearizable_read failed: {reason}\n"),
        ),
    }
}

/// Why a linearizable read does not work now.
async fn problem(engine: &Engine) -> Option<String> {
    if !engine.has_leader() {
        return Some("RAFT NO LEADER".to_owned());
    }
    match tokio::time::timeout(HEALTH_TIMEOUT, engine.barrier()).await {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(format!(
            "RANGE ERROR:{}",
            crate::service::Refusal::from(&failure).text()
        )),
        Err(_) => Some("RANGE ERROR:context deadline exceeded".to_owned()),
    }
}

fn metrics_text(engine: &Engine) -> String {
    let node = engine.node.status();
    let size = engine.shared.size();
    let learner = engine.is_learner();
    let mut out = String::with_capacity(4096);
    let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        );
    };
    let has_leader = node.leader.is_some();
    metric(
        "etcd_server_has_leader",
        "gauge",
        "Whether this member knows a leader.",
        has_leader.into(),
    );
    let is_leader = node.leader == Some(node.local);
    metric(
        "etcd_server_is_leader",
        "gauge",
        "Whether this member leads.",
        is_leader.into(),
    );
    metric(
        "etcd_server_is_learner",
        "gauge",
        "Whether this member is a learner.",
        learner.into(),
    );
    metric(
        "etcd_server_leader_changes_seen_total",
        "counter",
        "How often another leader was seen.",
        engine.leader_changes.load(Ordering::Relaxed),
    );
    metric(
        "etcd_server_proposals_committed_total",
        "gauge",
        "Index of the last committed log entry.",
        node.committed_index,
    );
    metric(
        "etcd_server_proposals_applied_total",
        "gauge",
        "Index of the last applied log entry.",
        node.applied_index,
    );
    metric(
        "etcd_mvcc_db_total_size_in_bytes",
        "gauge",
        "Bytes on disk.",
        size.total_bytes,
    );
    metric(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "gauge",
        "Bytes in use.",
        size.in_use_bytes,
    );
    metric(
        "etcd_debugging_mvcc_keys_total",
        "gauge",
        "Number of keys.",
        size.keys,
    );
    metric(
        "etcd_debugging_mvcc_current_revision",
        "gauge",
        "Newest revision.",
        engine.shared.revision().0,
    );
    metric(
        "etcd_debugging_mvcc_compact_revision",
        "gauge",
        "Last compaction.",
        engine.shared.compact_revision().0,
    );
    let labelled = [
        ("etcd_server_version", "server_version", SERVER_VERSION),
        ("etcd_cluster_version", "cluster_version", "3.5"),
    ];
    for (name, label, value) in labelled {
        let _ = writeln!(
            out,
            "# HELP {name} The version spoken.\n# TYPE {name} gauge\n{name}{{{label}=\"{value}\"}} 1"
        );
    }
    out
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(bytes::Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(content_type),
    );
    response
}
