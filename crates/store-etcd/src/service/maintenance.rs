//! Alarms, status, space, hashes, leadership.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use trivet_datastore::Revision;
use trivet_etcd_auth::Need;
use trivet_raft_node::PeerRole;

use super::ResponseStream;
use super::snapshot::Snapshots;
use super::status::Refusal;
use crate::engine::{Engine, unexpected};
use crate::failure::Failure;
use crate::http::{CLUSTER_VERSION, SERVER_VERSION};
use crate::proto::etcdserverpb as pb;
use crate::service::wire;
use crate::state::{self, Alarm, AlarmAction, AlarmMember, Command};

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

impl MaintenanceService {
    /// What is raised, of the kind that was asked for.
    fn alarms(
        &self,
        wanted: Result<pb::AlarmType, prost::UnknownEnumValue>,
    ) -> Vec<pb::AlarmMember> {
        let alarms = self.engine.alarms();
        alarms
            .iter()
            .map(wire_alarm)
            .filter(|raised| match wanted {
                Ok(pb::AlarmType::None) => true,
                Ok(wanted) => raised.alarm == i32::from(wanted),
                Err(_) => false,
            })
            .collect()
    }

    fn alarm_response(&self, alarms: Vec<pb::AlarmMember>) -> Response<pb::AlarmResponse> {
        Response::new(pb::AlarmResponse {
            header: Some(self.engine.header()),
            alarms,
        })
    }
}

fn wire_alarm(raised: AlarmMember) -> pb::AlarmMember {
    let alarm = match raised.alarm {
        Alarm::NoSpace => pb::AlarmType::Nospace,
        Alarm::Corrupt => pb::AlarmType::Corrupt,
    };
    pb::AlarmMember {
        member_id: raised.member,
        alarm: alarm.into(),
    }
}

/// Major and minor of `3.4` or of a semantic version.
fn minor_version(text: &str) -> Option<(u64, u64)> {
    let numbers = text.split(['-', '+']).next()?;
    let mut numbers = numbers.split('.').map(|part| part.parse::<u32>().ok());
    let (major, minor) = (numbers.next()??, numbers.next()??);
    match (numbers.next(), numbers.next()) {
        (None | Some(Some(_)), None) => Some((major.into(), minor.into())),
        _ => None,
    }
}

#[tonic::async_trait]
impl pb::maintenance_server::Maintenance for MaintenanceService {
    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        use pb::alarm_request::AlarmAction as Action;
        let caller = self.engine.caller(&request).await?;
        let request = request.into_inner();
        let asks = request.action == i32::from(Action::Get);
        let need = if asks { Need::User } else { Need::Admin };
        self.engine.check(&caller, need)?;
        let wanted = pb::AlarmType::try_from(request.alarm);
        let action = match Action::try_from(request.action) {
            Ok(Action::Get) => {
                self.engine.barrier().await?;
                return Ok(self.alarm_response(self.alarms(wanted)));
            }
            Ok(Action::Activate) => AlarmAction::Activate,
            Ok(Action::Deactivate) => AlarmAction::Deactivate,
            Err(_) => return Err(Refusal::UnknownMethod.into()),
        };
        let alarm = match wanted {
            Ok(pb::AlarmType::Nospace) => Alarm::NoSpace,
            Ok(pb::AlarmType::Corrupt) => Alarm::Corrupt,
            // Nothing to raise, and nothing there to end.
            Ok(pb::AlarmType::None) | Err(_) => {
                self.engine.barrier().await?;
                return Ok(self.alarm_response(Vec::new()));
            }
        };
        let alarm = AlarmMember {
            alarm,
            member: request.member_id,
        };
        let command = Command::Alarm { action, alarm };
        match self.engine.execute_as(&caller, &command).await? {
            (_, state::Response::Alarmed(changed)) => {
                tracing::warn!(
                    alarm = alarm.alarm.name(),
                    member = format_args!("{:x}", alarm.member),
                    ?action,
                    "alarm changed by a client"
                );
                Ok(self.alarm_response(changed.map(wire_alarm).into_iter().collect()))
            }
            (_, other) => Err(unexpected(&other).into()),
        }
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
        errors.extend(self.engine.shared.damage());
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

    /// Readers and writers go on meanwhile.
    async fn defragment(
        &self,
        _: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        let before = self.engine.shared.size();
        self.engine.defragment().await?;
        let after = self.engine.shared.size();
        tracing::info!(
            before_bytes = before.total_bytes,
            after_bytes = after.total_bytes,
            in_use_bytes = after.in_use_bytes,
            "defragmented"
        );
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<ResponseStream<pb::SnapshotResponse>>, Status> {
        self.snapshots.open(&self.engine)
    }

    /// Of this member's data, for diagnosis: unlike [`Self::hash_kv`] nothing that members must
    /// agree on.
    async fn hash(
        &self,
        _: Request<pb::HashRequest>,
    ) -> Result<Response<pb::HashResponse>, Status> {
        let hash = self.engine.shared.hash(None).await.map_err(Failure::from)?;
        Ok(Response::new(pb::HashResponse {
            header: Some(self.engine.header_at(hash.revision)),
            hash: hash.hash,
        }))
    }

    /// The version below has another format of its data, which is not written here: a downgrade
    /// is possible for etcd's own servers only. Its preparation answers as theirs does.
    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        use pb::downgrade_request::DowngradeAction as Action;
        let request = request.into_inner();
        let action = Action::try_from(request.action).map_err(|_| Refusal::UnknownMethod)?;
        self.engine.barrier().await?;
        if action == Action::Cancel {
            return Err(Refusal::NoDowngradeJob.into());
        }
        let target = minor_version(&request.version).ok_or(Refusal::WrongDowngradeVersion)?;
        let current = minor_version(CLUSTER_VERSION).unwrap_or_default();
        if (target.0, target.1 + 1) != current {
            return Err(Refusal::InvalidDowngradeTarget.into());
        }
        if action == Action::Enable {
            return Err(Refusal::NotCapable.into());
        }
        Ok(Response::new(pb::DowngradeResponse {
            header: Some(self.engine.header()),
            version: CLUSTER_VERSION.to_owned(),
        }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_etcd_reads_them() {
        for text in ["3.4", "3.4.0", "3.4.7", "3.4.0-rc.1", "3.4.0+git"] {
            assert_eq!(minor_version(text), Some((3, 4)), "{text}");
        }
        for text in ["", "3", "abc", "v3.4", "3.4.x", "3.4.5.6", "3.", "-3.4"] {
            assert_eq!(minor_version(text), None, "{text}");
        }
    }
}
