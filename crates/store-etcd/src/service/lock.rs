//! Locks for clients that cannot or do not want to run the recipe themselves.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::local::{Local, OnBehalf};
use super::queue::{Queue, as_unknown, attended, wait};
use crate::engine::Engine;
use crate::proto::etcdserverpb as pb;
use crate::proto::v3lockpb::{
    LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server::Lock,
};

/// The caller's lease ended before its turn came.
const EXPIRED: &str = "mutex: session is expired";

pub(crate) struct LockService {
    engine: Arc<Engine>,
    local: Local,
}

impl LockService {
    pub(super) fn new(engine: Arc<Engine>, local: Local) -> Self {
        Self { engine, local }
    }
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let client = OnBehalf::of(&self.local, &request);
        let LockRequest { name, lease } = request.into_inner();
        let queue = Queue::new(client, &name);
        let response = attended(&self.engine.tasks, |gone| async move {
            let lease = queue.session(lease).await?;
            let place = queue.enter(lease, bytes::Bytes::new()).await?;
            let header = match place.first {
                true => place.header,
                false => wait(&queue, &place, &gone)
                    .await?
                    .ok_or_else(|| Status::unknown(EXPIRED))?,
            };
            Ok(LockResponse {
                header,
                key: place.key,
            })
        })
        .await?;
        Ok(Response::new(response))
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        let client = OnBehalf::of(&self.local, &request);
        let delete = pb::DeleteRangeRequest {
            key: request.into_inner().key,
            ..Default::default()
        };
        let deleted = client.delete(delete).await.map_err(|e| as_unknown(&e))?;
        Ok(Response::new(UnlockResponse {
            header: deleted.header,
        }))
    }
}
