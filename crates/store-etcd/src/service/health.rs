//! The gRPC health service: whether this member serves at all.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tonic::{Request, Response, Status};

use super::ResponseStream;
use crate::engine::Engine;
use crate::proto::health::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health,
};

pub(crate) struct HealthService {
    engine: Arc<Engine>,
}

impl HealthService {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    /// Only the server as a whole has a status; its name is empty.
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match request.get_ref().service.as_str() {
            "" => Ok(Response::new(response(ServingStatus::Serving))),
            _ => Err(Status::not_found("unknown service")),
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<ResponseStream<HealthCheckResponse>>, Status> {
        let (now, then) = match request.get_ref().service.as_str() {
            "" => (ServingStatus::Serving, Some(ServingStatus::NotServing)),
            _ => (ServingStatus::ServiceUnknown, None),
        };
        let stop = self.engine.stop.clone();
        let end = stream::once(async move {
            stop.cancelled().await;
            stream::iter(then.map(|status| Ok(response(status))))
        });
        let statuses = stream::iter([Ok(response(now))]).chain(end.flatten());
        Ok(Response::new(Box::pin(statuses)))
    }
}
