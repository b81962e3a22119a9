//! Leases.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use trivet_datastore::LeaseId;
use trivet_etcd_auth::{Access, Caller, KeySpan, Need};

use super::front::oversized;
use super::status::Refusal;
use super::{LEASE_KEEP_ALIVE, ResponseStream, requires_leader};
use crate::auth::Credentials;
use crate::engine::{Engine, unexpected};
use crate::failure::Failure;
use crate::lease::{Question, decode_time};
use crate::limits::{MAX_LEASE_TTL_SECONDS, STREAM_BUFFER};
use crate::proto::etcdserverpb as pb;
use crate::state;

pub(crate) struct LeaseService {
    engine: Arc<Engine>,
}

impl LeaseService {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl pb::lease_server::Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let caller = self.engine.caller(&request);
        let request = request.into_inner();
        if request.ttl > MAX_LEASE_TTL_SECONDS {
            return Err(Refusal::LeaseTtlTooLarge.into());
        }
        let id = (request.id != 0).then_some(LeaseId(request.id));
        let (revision, id, ttl) = self
            .engine
            .grant_lease(&caller.await?, id, request.ttl)
            .await?;
        Ok(Response::new(pb::LeaseGrantResponse {
            header: Some(self.engine.header_at(revision)),
            id: id.0,
            ttl,
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let caller = self.engine.caller(&request).await?;
        let id = LeaseId(request.into_inner().id);
        let command = state::Command::LeaseRevoke { id };
        match self.engine.execute_as(&caller, &command).await? {
            (revision, state::Response::LeaseRevoked { .. }) => {
                let header = Some(self.engine.header_at(revision));
                Ok(Response::new(pb::LeaseRevokeResponse { header }))
            }
            (_, other) => Err(unexpected(&other).into()),
        }
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<ResponseStream<pb::LeaseKeepAliveResponse>>, Status> {
        let requires_leader = requires_leader(&request);
        let credentials = Credentials::of(&request);
        let inbound = request.into_inner();
        let (out, responses) = mpsc::channel(STREAM_BUFFER);
        let engine = self.engine.clone();
        self.engine.tasks.spawn(async move {
            let last = tokio::select! {
                () = out.closed() => return,
                () = engine.stop.cancelled() => Err(Refusal::Stopped.into()),
                () = engine.leaderless(), if requires_leader => Err(Refusal::NoLeader.into()),
                outcome = keep_alive(&engine, &credentials, inbound, &out) => outcome,
            };
            if let Err(status) = last {
                // Nobody listens any more: nothing to tell.
                let _ = out.try_send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let caller = self.engine.caller(&request).await?;
        let request = request.into_inner();
        let id = LeaseId(request.id);
        self.engine.check(&caller, Need::User)?;
        let answer = self
            .engine
            .ask_leader(Question::Remaining(id).encode())
            .await?;
        let remaining = decode_time(answer);
        // The leader has applied the lease, this member perhaps not yet.
        if remaining.is_some() {
            self.engine.barrier().await?;
        }
        if request.keys {
            lease_keys(&self.engine, &caller, id, Access::Read)?;
        }
        let lease = self.engine.shared.lease(id);
        let mut response = pb::LeaseTimeToLiveResponse {
            header: Some(self.engine.header()),
            id: id.0,
            ttl: -1,
            ..Default::default()
        };
        if let (Some(remaining), Some(lease)) = (remaining, lease) {
            response.ttl = i64::try_from(remaining.as_secs()).unwrap_or(i64::MAX);
            response.granted_ttl = i64::try_from(lease.ttl_s).unwrap_or(i64::MAX);
            if request.keys {
                response.keys = self.engine.shared.lease_keys(id).unwrap_or_default();
                // Keys that were attached meanwhile are among them.
                lease_keys(&self.engine, &caller, id, Access::Read)?;
            }
        }
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let caller = self.engine.caller(&request).await?;
        self.engine.check(&caller, Need::User)?;
        let leases = self.engine.shared.leases();
        if self.engine.shared.auth_enabled() {
            for lease in &leases {
                lease_keys(&self.engine, &caller, lease.id, Access::Read)?;
            }
        }
        Ok(Response::new(pb::LeaseLeasesResponse {
            header: Some(self.engine.header()),
            leases: leases
                .iter()
                .map(|lease| pb::LeaseStatus { id: lease.id.0 })
                .collect(),
        }))
    }
}

/// Whether a caller may do something with every key attached to a lease.
fn lease_keys(
    engine: &Engine,
    caller: &Caller,
    id: LeaseId,
    access: Access,
) -> Result<(), Failure> {
    if !engine.shared.auth_enabled() {
        return Ok(());
    }
    let keys = engine.shared.lease_keys(id).unwrap_or_default();
    keys.iter().try_for_each(|key| {
        let key = KeySpan::key(key);
        let need = match access {
            Access::Read => Need::Read(key),
            Access::Write | Access::ReadWrite => Need::Write(key),
        };
        engine.check(caller, need)
    })
}

/// Answers renewals in order until the client has no more.
async fn keep_alive(
    engine: &Engine,
    credentials: &Credentials,
    mut inbound: Streaming<pb::LeaseKeepAliveRequest>,
    out: &mpsc::Sender<Result<pb::LeaseKeepAliveResponse, Status>>,
) -> Result<(), Status> {
    loop {
        let request = match inbound.message().await {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(status) => return Err(oversized(&status, engine.bounds).unwrap_or(status)),
        };
        engine.metrics.rpc(LEASE_KEEP_ALIVE).received.increment();
        let id = LeaseId(request.id);
        if engine.shared.auth_enabled() {
            let caller = engine.identify(credentials).await?;
            engine.check(&caller, Need::User)?;
            lease_keys(engine, &caller, id, Access::Write)?;
        }
        // The header is that of the time before the renewal.
        let header = Some(engine.header());
        let answer = engine.ask_leader(Question::Renew(id).encode()).await?;
        // A lease that does not exist is not an error here: its time to live is 0.
        let ttl =
            decode_time(answer).map_or(0, |ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX));
        let response = pb::LeaseKeepAliveResponse {
            header,
            id: id.0,
            ttl,
        };
        if out.send(Ok(response)).await.is_err() {
            return Ok(());
        }
    }
}
