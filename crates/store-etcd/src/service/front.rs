//! The client port: sorts requests to services and puts right what the framework words
//! differently from etcd.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::service::Service;
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service as _;

use super::status::Refusal;
use super::{ClusterService, KvService, LeaseService, MaintenanceService, WatchService};
use crate::engine::Engine;
use crate::http as plain;
use crate::limits::Bounds;
use crate::proto::etcdserverpb::{
    cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
    maintenance_server::MaintenanceServer, watch_server::WatchServer,
};

pub(super) type Request = http::Request<Incoming>;
pub(super) type Response = http::Response<Body>;

/// Everything served on the client port. Clones share it.
#[derive(Clone)]
pub(crate) struct Front(Arc<Services>);

struct Services {
    engine: Arc<Engine>,
    kv: KvServer<KvService>,
    watch: WatchServer<WatchService>,
    lease: LeaseServer<LeaseService>,
    cluster: ClusterServer<ClusterService>,
    maintenance: MaintenanceServer<MaintenanceService>,
}

impl Front {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        let receive_bytes = engine.bounds.message_bytes();
        Self(Arc::new(Services {
            kv: KvServer::new(KvService::new(engine.clone()))
                .max_decoding_message_size(receive_bytes)
                .max_encoding_message_size(usize::MAX),
            watch: WatchServer::new(WatchService::new(engine.clone()))
                .max_decoding_message_size(receive_bytes)
                .max_encoding_message_size(usize::MAX),
            lease: LeaseServer::new(LeaseService::new(engine.clone()))
                .max_decoding_message_size(receive_bytes)
                .max_encoding_message_size(usize::MAX),
            cluster: ClusterServer::new(ClusterService::new(engine.clone()))
                .max_decoding_message_size(receive_bytes),
            maintenance: MaintenanceServer::new(MaintenanceService::new(engine.clone()))
                .max_decoding_message_size(receive_bytes),
            engine,
        }))
    }
}

impl Services {
    async fn answer(&self, request: Request) -> Response {
        if !is_grpc(&request) {
            return plain::answer(&self.engine, &request, true).await;
        }
        let uri = request.uri().clone();
        let path = uri.path();
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/'))
        else {
            return refuse(&Status::unimplemented(format!(
                "malformed method name: {path:?}"
            )));
        };
        if let Err(status) = self.admit(service, method, &request) {
            return refuse(&status);
        }
        let answered = match service {
            "etcdserverpb.KV" => self.kv.clone().call(request).await,
            "etcdserverpb.Watch" => self.watch.clone().call(request).await,
            "etcdserverpb.Lease" => self.lease.clone().call(request).await,
            "etcdserverpb.Cluster" => self.cluster.clone().call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request).await,
            _ => return refuse(&Status::unimplemented(format!("unknown service {service}"))),
        };
        let Ok(response) = answered;
        corrected(response, service, method, self.engine.bounds)
    }

    /// What is refused before any service sees it.
    fn admit(&self, service: &str, method: &str, request: &Request) -> Result<(), Status> {
        if self.engine.is_stopping() {
            return Err(Refusal::Stopped.into());
        }
        // Whether a range is serializable only its handler can tell.
        let learners_may = matches!(
            (service, method),
            ("etcdserverpb.KV", "Range") | ("etcdserverpb.Maintenance", "Status" | "Snapshot")
        );
        if !learners_may && self.engine.is_learner() {
            return Err(Refusal::NotForLearner.into());
        }
        if requires_leader(request.headers()) && !self.engine.has_leader() {
            return Err(Refusal::NoLeader.into());
        }
        Ok(())
    }
}

impl Service<Request> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request) -> Self::Future {
        let services = self.0.clone();
        Box::pin(async move { Ok(services.answer(request).await) })
    }
}

/// Whether the caller would rather fail than wait for a leader.
fn requires_leader(headers: &http::HeaderMap) -> bool {
    headers
        .get("hasleader")
        .is_some_and(|value| value.as_bytes() == b"true")
}

pub(super) fn is_grpc(request: &Request) -> bool {
    request
        .headers()
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn refuse(status: &Status) -> Response {
    status.clone().into_http()
}

/// Rewords what the gRPC framework says itself: etcd's clients know grpc-go's texts.
fn corrected(mut response: Response, service: &str, method: &str, bounds: Bounds) -> Response {
    // A response that failed before its first message carries its status in the headers.
    let Some(status) = response.headers().get(Status::GRPC_STATUS) else {
        return response;
    };
    let code = Code::from_bytes(status.as_bytes());
    let replacement = match code {
        Code::Unimplemented => {
            Status::unimplemented(format!("unknown method {method} for service {service}"))
        }
        Code::OutOfRange => {
            match Status::from_header_map(response.headers()).and_then(|s| oversized(&s, bounds)) {
                Some(status) => status,
                None => return response,
            }
        }
        _ => return response,
    };
    for name in [Status::GRPC_STATUS, Status::GRPC_MESSAGE] {
        response.headers_mut().remove(name);
    }
    // Ours are plain text and always make valid headers.
    let _ = replacement.add_header(response.headers_mut());
    response
}

/// grpc-go's status for a message beyond the receive limit, if this is tonic's.
pub(super) fn oversized(status: &Status, bounds: Bounds) -> Option<Status> {
    let sizes = status
        .message()
        .strip_prefix("Error, decoded message length too large: found ")?;
    let size = sizes.split(' ').next()?;
    Some(Status::resource_exhausted(format!(
        "grpc: received message larger than max ({size} vs. {})",
        bounds.message_bytes()
    )))
}
