//! Status, leadership, hashes.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use trivet_datastore::Revision;
use trivet_raft_node::PeerRole;

use super::ResponseStream;
use super::snapshot::Snapshots;
use super::status::Refusal;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::http::SERVER_VERSION;
use crate::proto::etcdserverpb as pb;
use crate::service::wire;

pub(crate) struct MaintenanceService {
    engine: Arc<Engine>,
    snapshots: Snapshots,
}

impl MaintenanceService {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            snapshots: Snapshots::new(),
        }
    }
}

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for MaintenanceService {
    /// There are no alarms: space is not limited here, and damage stops the member.
    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        use pb::alarm_request::AlarmAction;
        let action = AlarmAction::try_from(request.into_inner().action);
        if !matches!(action, Ok(AlarmAction::Get | AlarmAction::Deactivate)) {
            return Err(Status::unimplemented("raising alarms is not supported"));
        }
        self.engine.barrier().await?;
        Ok(Response::new(pb::AlarmResponse {
            header: Some(self.engine.header()),
            alarms: Vec::new(),
        }))
    }

    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let node = self.engine.node.status();
        let size = self.engine.shared.size();
        let mut errors = Vec::new();
        if node.leader.is_none() {
            errors.push(Refusal::NoLeader.text().to_owned());
        }
        errors.extend(node.failed);
        for raised in self.engine.alarms().iter() {
            // The text of a message, trailing space included.
            errors.push(format!(
                "memberID:{} alarm:{} ",
                raised.member,
                raised.alarm.name()
            ));
        }
        Ok(Response::new(pb::StatusResponse {
            header: Some(self.engine.header()),
            version: SERVER_VERSION.to_owned(),
            db_size: size.total_bytes as i64,
            leader: node.leader.unwrap_or(0),
            raft_index: node.committed_index,
            raft_term: node.term,
            raft_applied_index: node.applied_index,
            errors,
            db_size_in_use: size.in_use_bytes as i64,
            is_learner: self.engine.is_learner(),
            ..Default::default()
        }))
    }

    /// Nothing to do: space is given back to the file system as it falls empty.
    async fn defragment(
        &self,
        _: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<ResponseStream<pb::SnapshotResponse>>, Status> {
        self.snapshots.open(&self.engine)
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let revision = u64::try_from(request.into_inner().revision).unwrap_or(0);
        let at = (revision > 0).then_some(Revision(revision));
        let hash = self.engine.shared.hash(at).await.map_err(Failure::from)?;
        Ok(Response::new(pb::HashKvResponse {
            header: Some(self.engine.header_at(hash.revision)),
            hash: hash.hash,
            // "Never compacted" is below every revision in etcd.
            compact_revision: if hash.compact_revision.0 == 0 {
                -1
            } else {
                wire(hash.compact_revision)
            },
            hash_revision: wire(hash.hash_revision),
        }))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let target = request.into_inner().target_id;
        let node = &self.engine.node;
        let status = node.status();
        if status.leader != Some(status.local) {
            return Err(Refusal::NotLeader.into());
        }
        let votes = |id| {
            status
                .peers
                .iter()
                .any(|peer| peer.peer.id == id && peer.role == PeerRole::Voter)
        };
        if !votes(target) {
            return Err(Refusal::BadTransferee.into());
        }
        if target != status.local {
            let transfer = node.transfer_leadership(Some(target));
            match tokio::time::timeout(self.engine.timing.request, transfer).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "handing leadership over failed");
                    return Err(Refusal::TransferTimedOut.into());
                }
                Err(_) => return Err(Refusal::TransferTimedOut.into()),
            }
        }
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }
}
