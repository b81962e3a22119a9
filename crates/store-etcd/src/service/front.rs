//! The client port: sorts requests to services and puts right what the framework words
//! differently from etcd.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use hyper::body::Incoming;
use hyper::service::Service;
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service as _;

use super::gateway;
use super::local::Local;
use super::rpc::{self, RpcId, Unknown};
use super::status::Refusal;
use super::{
    AuthService, ClusterService, ElectionService, ForClient, HealthService, KvService,
    LeaseService, LockService, MaintenanceService, WatchService,
};
use crate::auth::ClientName;
use crate::engine::Engine;
use crate::http::{self as plain, Offer};
use crate::limits::Bounds;
use crate::proto::etcdserverpb::{
    auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer,
    lease_server::LeaseServer, maintenance_server::MaintenanceServer, watch_server::WatchServer,
};
use crate::proto::health::health_server::HealthServer;
use crate::proto::v3electionpb::election_server::ElectionServer;
use crate::proto::v3lockpb::lock_server::LockServer;

pub(super) type Request = http::Request<Incoming>;
pub(super) type Response = http::Response<Body>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Everything served on the client port. Clones share it.
#[derive(Clone)]
pub(crate) struct Front {
    services: Arc<Services>,
    /// Who is at the other end of the connection.
    client: Option<ClientName>,
}

impl ForClient for Front {
    fn for_client(&self, client: Option<ClientName>) -> Self {
        Self {
            services: self.services.clone(),
            client,
        }
    }
}

pub(super) struct Services {
    pub(super) engine: Arc<Engine>,
    kv: KvServer<KvService>,
    watch: WatchServer<WatchService>,
    lease: LeaseServer<LeaseService>,
    cluster: ClusterServer<ClusterService>,
    maintenance: MaintenanceServer<MaintenanceService>,
    lock: LockServer<LockService>,
    election: ElectionServer<ElectionService>,
    health: HealthServer<HealthService>,
    auth: AuthServer<AuthService>,
}

impl Front {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        let receive_bytes = engine.bounds.message_bytes();
        let services = Arc::new_cyclic(|services: &Weak<Services>| Services {
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
            auth: AuthServer::new(AuthService::new(engine.clone()))
                .max_decoding_message_size(receive_bytes)
                .max_encoding_message_size(usize::MAX),
            maintenance: MaintenanceServer::new(MaintenanceService::new(engine.clone()))
                .max_decoding_message_size(receive_bytes),
            lock: LockServer::new(LockService::new(engine.clone(), Local(services.clone())))
                .max_decoding_message_size(receive_bytes),
            election: ElectionServer::new(ElectionService::new(
                engine.clone(),
                Local(services.clone()),
            ))
            .max_decoding_message_size(receive_bytes)
            .max_encoding_message_size(usize::MAX),
            health: HealthServer::new(HealthService::new(engine.clone()))
                .max_decoding_message_size(receive_bytes),
            engine,
        });
        Self {
            services,
            client: None,
        }
    }
}

impl Services {
    async fn answer(self: &Arc<Self>, request: Request) -> Response {
        if is_grpc(&request) {
            return self.grpc(request).await;
        }
        match gateway::route(request.uri().path()).map(Cow::into_owned) {
            Some(path) => gateway::answer(self, &path, request).await,
            None => plain::answer(&self.engine, &request, Offer::Clients).await,
        }
    }

    /// Answers a call from outside.
    pub(super) async fn grpc<B>(&self, request: http::Request<B>) -> Response
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let rpc = match rpc::find(request.uri().path()) {
            Ok(rpc) => rpc,
            Err(unknown) => return refuse(&unimplemented(&unknown, request.uri().path())),
        };
        let call = self.engine.metrics.start(rpc);
        call.answered(self.call(rpc, request).await)
    }

    /// Answers a call.
    pub(super) async fn call<B>(&self, rpc: RpcId, request: http::Request<B>) -> Response
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let rpc::Rpc {
            service, method, ..
        } = rpc.rpc();
        if let Err(status) = self.admit(rpc, &request) {
            return refuse(&status);
        }
        if self.engine.shared.auth_enabled() {
            let (headers, name) = (request.headers(), request.extensions().get());
            let call = (*service, *method);
            if let Err(failure) = self.engine.admit(call, headers, name).await {
                return refuse(&failure.into());
            }
        }
        let answered = match *service {
            "etcdserverpb.KV" => self.kv.clone().call(request).await,
            "etcdserverpb.Watch" => self.watch.clone().call(request).await,
            "etcdserverpb.Lease" => self.lease.clone().call(request).await,
            "etcdserverpb.Cluster" => self.cluster.clone().call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request).await,
            "v3lockpb.Lock" => self.lock.clone().call(request).await,
            "v3electionpb.Election" => self.election.clone().call(request).await,
            "grpc.health.v1.Health" => self.health.clone().call(request).await,
            "etcdserverpb.Auth" => self.auth.clone().call(request).await,
            _ => return refuse(&Status::unimplemented(format!("unknown service {service}"))),
        };
        let Ok(response) = answered;
        corrected(response, service, method, self.engine.bounds)
    }

    /// What is refused before any service sees it.
    fn admit<B>(&self, rpc: RpcId, request: &http::Request<B>) -> Result<(), Status> {
        let rpc::Rpc {
            service,
            method,
            kind,
        } = rpc.rpc();
        if let Some(encoding) = compression(request.headers()) {
            return Err(Status::unimplemented(format!(
                "grpc: Decompressor is not installed for grpc-encoding \"{encoding}\""
            )));
        }
        if self.engine.is_stopping() {
            return Err(Refusal::Stopped.into());
        }
        // Whether a range is serializable only its handler can tell.
        let learners_may = matches!(
            (*service, *method),
            ("etcdserverpb.KV", "Range") | ("etcdserverpb.Maintenance", "Status" | "Snapshot")
        );
        if !learners_may && self.engine.is_learner() {
            return Err(Refusal::NotForLearner.into());
        }
        let version = client_version(request.headers())?;
        self.engine.metrics.clients.count(version, *kind);
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

    fn call(&self, mut request: Request) -> Self::Future {
        let services = self.services.clone();
        if let Some(client) = &self.client
            && services.engine.shared.auth_enabled()
        {
            request.extensions_mut().insert(client.clone());
        }
        Box::pin(async move { Ok(services.answer(request).await) })
    }
}

/// Whether the caller would rather fail than wait for a leader.
fn requires_leader(headers: &http::HeaderMap) -> bool {
    headers
        .get("hasleader")
        .is_some_and(|value| value.as_bytes() == b"true")
}

/// What the caller's library says of its version.
fn client_version(headers: &http::HeaderMap) -> Result<&str, Refusal> {
    match headers.get("client-api-version") {
        None => Ok("unknown"),
        Some(version) => {
            std::str::from_utf8(version.as_bytes()).map_err(|_| Refusal::InvalidClientVersion)
        }
    }
}

/// How the caller's messages are compressed, if they are; nothing is understood here.
fn compression(headers: &http::HeaderMap) -> Option<String> {
    let encoding = headers.get("grpc-encoding")?;
    (encoding.as_bytes() != b"identity")
        .then(|| String::from_utf8_lossy(encoding.as_bytes()).into_owned())
}

/// grpc-go's words for a path that is no call.
fn unimplemented(unknown: &Unknown<'_>, path: &str) -> Status {
    Status::unimplemented(match unknown {
        Unknown::Malformed => format!("malformed method name: {path:?}"),
        Unknown::Service(service) => format!("unknown service {service}"),
        Unknown::Method { service, method } => {
            format!("unknown method {method} for service {service}")
        }
    })
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
        Code::Unimplemented => match Status::from_header_map(response.headers()) {
            Some(status) if is_default(status.message()) => {
                Status::unimplemented(format!("unknown method {method} for service {service}"))
            }
            _ => return response,
        },
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

/// Whether this is what the framework says for a call that a service does not have.
fn is_default(text: &str) -> bool {
    matches!(text, "" | "Not yet implemented")
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
