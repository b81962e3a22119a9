//! Being a client of this member's own services, without a connection: what goes through here
//! meets the same checks as a call from outside.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll};

use futures_util::StreamExt as _;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status, Streaming};

use super::front::Services;
use super::rpc;
use super::status::Refusal;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::{
    kv_client::KvClient, lease_client::LeaseClient, watch_client::WatchClient,
};

/// A gRPC channel to the services of this member.
#[derive(Clone)]
pub(super) struct Local(pub(super) Weak<Services>);

impl tower_service::Service<http::Request<Body>> for Local {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let services = self.0.upgrade();
        Box::pin(async move {
            Ok(match services {
                Some(services) => match rpc::find(request.uri().path()) {
                    Ok(rpc) => services.call(rpc, request).await,
                    Err(_) => Status::unimplemented("no such call").into_http(),
                },
                None => Status::from(Refusal::Stopped).into_http(),
            })
        })
    }
}

/// What tells who a caller is, to be repeated in calls on its behalf.
const IDENTITY: [&str; 2] = ["token", "authorization"];

/// A client that acts for the caller of a request: with its token and its certificate.
#[derive(Clone)]
pub(super) struct OnBehalf {
    local: Local,
    metadata: MetadataMap,
    extensions: Extensions,
}

impl OnBehalf {
    pub(super) fn of<T>(local: &Local, request: &Request<T>) -> Self {
        let mut metadata = MetadataMap::new();
        for name in IDENTITY {
            if let Some(value) = request.metadata().get(name) {
                metadata.insert(name, value.clone());
            }
        }
        Self {
            local: local.clone(),
            metadata,
            extensions: request.extensions().clone(),
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    pub(super) async fn txn(&self, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        let mut kv = KvClient::new(self.local.clone()).max_decoding_message_size(usize::MAX);
        Ok(kv.txn(self.request(txn)).await?.into_inner())
    }

    pub(super) async fn range(&self, range: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        let mut kv = KvClient::new(self.local.clone()).max_decoding_message_size(usize::MAX);
        Ok(kv.range(self.request(range)).await?.into_inner())
    }

    pub(super) async fn delete(
        &self,
        delete: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Status> {
        let mut kv = KvClient::new(self.local.clone());
        Ok(kv.delete_range(self.request(delete)).await?.into_inner())
    }

    pub(super) async fn grant(&self, ttl_seconds: i64) -> Result<i64, Status> {
        let mut lease = LeaseClient::new(self.local.clone());
        let grant = pb::LeaseGrantRequest {
            ttl: ttl_seconds,
            id: 0,
        };
        Ok(lease
            .lease_grant(self.request(grant))
            .await?
            .into_inner()
            .id)
    }

    /// Watches on a stream of their own, which ends when it is dropped.
    pub(super) async fn watch(
        &self,
        creates: Vec<pb::WatchCreateRequest>,
    ) -> Result<Streaming<pb::WatchResponse>, Status> {
        let requests = creates.into_iter().map(|create| pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
        });
        let requests = futures_util::stream::iter(requests).chain(futures_util::stream::pending());
        let mut watch = WatchClient::new(self.local.clone()).max_decoding_message_size(usize::MAX);
        Ok(watch.watch(self.request(requests)).await?.into_inner())
    }
}
