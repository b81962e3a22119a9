//! Elections for clients that cannot or do not want to run the recipe themselves.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::ResponseStream;
use super::local::{Local, OnBehalf};
use super::queue::{Queue, as_unknown, attended, is_delete, wait};
use super::status::Refusal;
use crate::engine::Engine;
use crate::limits::STREAM_BUFFER;
use crate::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse, election_server::Election,
};

const NOT_LEADER: &str = "election: not leader";
const NO_LEADER: &str = "election: no leader";
const MISSING_LEADER_KEY: &str = "\"leader\" field must be provided";

pub(crate) struct ElectionService {
    engine: Arc<Engine>,
    local: Local,
}

impl ElectionService {
    pub(super) fn new(engine: Arc<Engine>, local: Local) -> Self {
        Self { engine, local }
    }
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let client = OnBehalf::of(&self.local, &request);
        let CampaignRequest { name, lease, value } = request.into_inner();
        let queue = Queue::new(client, &name);
        let response = attended(&self.engine.tasks, |gone| async move {
            let lease = queue.session(lease).await?;
            let place = queue.enter(lease, value.clone()).await?;
            if place.found.as_ref().is_some_and(|found| *found != value) {
                let (key, created) = (place.key.clone(), place.created);
                let assigned = queue.assign(key.clone(), created, lease, value).await;
                if !matches!(assigned, Ok(Some(_))) {
                    // What this says matters less than why it was tried.
                    let _ = queue.leave(key, created).await;
                    assigned?;
                    return Err(Status::unknown(NOT_LEADER));
                }
            }
            if !place.first {
                // etcd takes a candidate whose key is gone for elected; nobody could depose it.
                wait(&queue, &place, &gone)
                    .await?
                    .ok_or_else(|| Status::unknown(NOT_LEADER))?;
            }
            Ok(CampaignResponse {
                header: place.header,
                leader: Some(LeaderKey {
                    name,
                    key: place.key,
                    rev: place.created,
                    lease: place.lease,
                }),
            })
        })
        .await?;
        Ok(Response::new(response))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let client = OnBehalf::of(&self.local, &request);
        let ProclaimRequest { leader, value } = request.into_inner();
        let leader = leader.ok_or_else(|| Status::unknown(MISSING_LEADER_KEY))?;
        let queue = Queue::new(client, &leader.name);
        let work = async {
            let lease = queue.session(leader.lease).await?;
            queue.assign(leader.key, leader.rev, lease, value).await
        };
        match work.await.map_err(|e| as_unknown(&e))? {
            Some(header) => Ok(Response::new(ProclaimResponse { header })),
            None => Err(Status::unknown(NOT_LEADER)),
        }
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        let client = OnBehalf::of(&self.local, &request);
        let queue = Queue::new(client, &request.get_ref().name);
        match queue.holder().await.map_err(|e| as_unknown(&e))? {
            (_, None) => Err(Status::unknown(NO_LEADER)),
            (header, kv) => Ok(Response::new(LeaderResponse { header, kv })),
        }
    }

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<ResponseStream<LeaderResponse>>, Status> {
        let client = OnBehalf::of(&self.local, &request);
        let queue = Queue::new(client, &request.get_ref().name);
        let (out, responses) = mpsc::channel(STREAM_BUFFER);
        let engine = self.engine.clone();
        self.engine.tasks.spawn(async move {
            let last = tokio::select! {
                () = out.closed() => return,
                () = engine.stop.cancelled() => Refusal::Stopped.into(),
                Err(Some(status)) = observe(&queue, &out) => as_unknown(&status),
                else => return,
            };
            // Nobody listens any more: nothing to tell.
            let _ = out.try_send(Err(last));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        let client = OnBehalf::of(&self.local, &request);
        let leader = request.into_inner().leader;
        let leader = leader.ok_or_else(|| Status::unknown(MISSING_LEADER_KEY))?;
        let header = Queue::new(client, &leader.name)
            .leave(leader.key, leader.rev)
            .await
            .map_err(|e| as_unknown(&e))?;
        Ok(Response::new(ResignResponse { header }))
    }
}

/// Tells of the leader, of every change of its value, and of those after it. Ends with a status,
/// or without one when nobody listens.
async fn observe(
    queue: &Queue,
    out: &mpsc::Sender<Result<LeaderResponse, Status>>,
) -> Result<std::convert::Infallible, Option<Status>> {
    let send = |header, kv| async move {
        let response = LeaderResponse {
            header,
            kv: Some(kv),
        };
        out.send(Ok(response)).await.map_err(|_| None)
    };
    'leaders: loop {
        let (header, holder) = queue.holder().await?;
        let revision = header.map_or(0, |header| header.revision);
        let (header, kv) = match holder {
            Some(kv) => (header, kv),
            None => match queue.first_put(revision + 1).await? {
                Some(first) => first,
                None => continue,
            },
        };
        let key = kv.key.clone();
        let revision = header.map_or(0, |header| header.revision);
        send(header, kv).await?;
        let mut changes = queue.follow(key, revision + 1).await?;
        while let Some((header, events)) = changes.next().await? {
            for event in events {
                match event.kv {
                    _ if is_delete(&event) => continue 'leaders,
                    Some(kv) => send(header, kv).await?,
                    None => {}
                }
            }
        }
    }
}
