//! One server: operations go in, masked answers come out.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb as pb;

use crate::answer::{self, Answer};
use crate::names::Names;
use crate::op::{Op, WatchStep};
use crate::stream::{Seen, WatchSide};

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A server under comparison.
pub struct Side {
    client: Client,
    address: SocketAddr,
    /// As the server tells it.
    pub version: String,
    genuine: bool,
    pub(crate) names: Names,
    pub(crate) streams: Vec<WatchSide>,
}

impl Side {
    /// Connects; `genuine` for a real etcd.
    pub async fn connect(address: SocketAddr, genuine: bool) -> Result<Self> {
        let client = Client::connect(&address.to_string()).await?;
        let status = client
            .maintenance()
            .status(pb::StatusRequest::default())
            .await?
            .into_inner();
        let member = status.header.context("a status has a header")?.member_id;
        Ok(Self {
            client,
            address,
            version: status.version,
            genuine,
            names: Names::new(member),
            streams: Vec::new(),
        })
    }

    /// Opens a watch stream outside of the comparison.
    pub(crate) fn observe(&self) -> WatchSide {
        WatchSide::open(&self.client)
    }

    /// Sends an operation; its answer.
    pub async fn perform(&mut self, op: &Op) -> Answer {
        let patience = match op {
            Op::Expiry(_) => PATIENCE * 2,
            _ => PATIENCE,
        };
        match timeout(patience, Box::pin(self.attempt(op))).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => status.into(),
            Err(_) => Answer::Silence,
        }
    }

    async fn attempt(&mut self, op: &Op) -> Result<Answer, Status> {
        let mut kv = self.client.kv();
        let mut lease = self.client.lease();
        let mut cluster = self.client.cluster();
        let mut maintenance = self.client.maintenance();
        Ok(match op {
            Op::Range(request) => {
                let response = kv.range(request.clone()).await?.into_inner();
                Answer::Range(answer::range(&self.names, response))
            }
            Op::RangeStream(request) => {
                kv.range_stream(request.clone()).await?;
                Answer::Nothing
            }
            Op::Put(request) => {
                let response = kv.put(self.names.put(request.clone())).await?.into_inner();
                Answer::Put(answer::put(&self.names, response))
            }
            Op::Delete(request) => {
                let response = kv.delete_range(request.clone()).await?.into_inner();
                Answer::Delete(answer::delete(&self.names, response))
            }
            Op::Txn(request) => {
                let response = kv.txn(self.names.txn(request.clone())).await?.into_inner();
                Answer::Txn(answer::txn(&self.names, response))
            }
            Op::Compact(request) => {
                let mut response = kv.compact(*request).await?.into_inner();
                answer::header(&mut response.header);
                Answer::Compact(response)
            }
            Op::Grant(request) => {
                let id = self.names.id(request.id);
                let request = pb::LeaseGrantRequest { id, ..*request };
                let mut response = lease.lease_grant(request).await?.into_inner();
                answer::header(&mut response.header);
                if id == 0 {
                    response.id = self.names.learn(response.id);
                }
                response.id = self.names.of(response.id);
                Answer::Grant(response)
            }
            Op::Revoke(id) => {
                let id = self.names.id(*id);
                let request = pb::LeaseRevokeRequest { id };
                let mut response = lease.lease_revoke(request).await?.into_inner();
                answer::header(&mut response.header);
                Answer::Revoke(response)
            }
            Op::TimeToLive(id, keys) => {
                let (id, keys) = (self.names.id(*id), *keys);
                let request = pb::LeaseTimeToLiveRequest { id, keys };
                let response = lease.lease_time_to_live(request).await?.into_inner();
                Answer::TimeToLive(answer::time_to_live(&self.names, response))
            }
            Op::Leases => {
                let response = lease.lease_leases(pb::LeaseLeasesRequest {}).await?;
                Answer::Leases(answer::leases(&self.names, response.into_inner()))
            }
            Op::KeepAlive(ids) => self.keep_alive(ids).await?,
            Op::Expiry(keys) => self.expiry(keys).await?,
            Op::Watch(stream, step) => self.watch(*stream, step).await,
            Op::MemberList(linearizable) => {
                let request = pb::MemberListRequest {
                    linearizable: *linearizable,
                };
                let response = cluster.member_list(request).await?.into_inner();
                Answer::MemberList(answer::members(response))
            }
            Op::MemberAdd(urls, is_learner) => {
                let request = pb::MemberAddRequest {
                    peer_ur_ls: urls.clone(),
                    is_learner: *is_learner,
                };
                cluster.member_add(request).await?;
                Answer::Nothing
            }
            Op::MemberRemove(id) => {
                let id = self.names.member(*id);
                cluster
                    .member_remove(pb::MemberRemoveRequest { id })
                    .await?;
                Answer::Nothing
            }
            Op::MemberUpdate(id, urls) => {
                let request = pb::MemberUpdateRequest {
                    id: self.names.member(*id),
                    peer_ur_ls: urls.clone(),
                };
                cluster.member_update(request).await?;
                Answer::Nothing
            }
            Op::MemberPromote(id) => {
                let id = self.names.member(*id);
                let request = pb::MemberPromoteRequest { id };
                cluster.member_promote(request).await?;
                Answer::Nothing
            }
            Op::Status => {
                let response = maintenance.status(pb::StatusRequest::default()).await?;
                Answer::Status(answer::status(response.into_inner()))
            }
            Op::Hash => {
                let mut response = maintenance.hash(pb::HashRequest {}).await?.into_inner();
                answer::header(&mut response.header);
                response.hash = u32::from(response.hash != 0);
                Answer::Hash(response)
            }
            Op::HashKv(revision) => {
                let request = pb::HashKvRequest {
                    revision: *revision,
                };
                let response = maintenance.hash_kv(request).await?.into_inner();
                Answer::HashKv(answer::hash_kv(response))
            }
            Op::Alarm(request) => {
                let mut request = *request;
                request.member_id = self.names.member(request.member_id);
                let mut response = maintenance.alarm(request).await?.into_inner();
                answer::header(&mut response.header);
                for alarm in &mut response.alarms {
                    alarm.member_id = u64::from(alarm.member_id == self.names.member);
                }
                Answer::Alarm(response)
            }
            Op::Defragment => {
                let request = pb::DefragmentRequest {};
                Answer::Defragment(maintenance.defragment(request).await?.into_inner())
            }
            Op::MoveLeader(id) => {
                let target_id = self.names.member(*id);
                let request = pb::MoveLeaderRequest { target_id };
                Answer::MoveLeader(maintenance.move_leader(request).await?.into_inner())
            }
            Op::Raw(path, body) => self.raw(path, body).await?,
        })
    }

    async fn keep_alive(&self, ids: &[i64]) -> Result<Answer, Status> {
        let requests: Vec<_> = ids
            .iter()
            .map(|id| pb::LeaseKeepAliveRequest {
                id: self.names.id(*id),
            })
            .collect();
        let mut lease = self.client.lease();
        let stream = lease.lease_keep_alive(tokio_stream::iter(requests)).await?;
        let mut stream = stream.into_inner();
        let mut answers = Vec::new();
        let end = loop {
            match stream.message().await {
                Ok(Some(mut response)) => {
                    answer::header(&mut response.header);
                    response.id = self.names.of(response.id);
                    answers.push(response);
                }
                Ok(None) => break Answer::Nothing,
                Err(status) => break status.into(),
            }
        };
        Ok(Answer::KeepAlive(answers, Box::new(end)))
    }

    /// The keys must all go in one revision, and not before their time.
    async fn expiry(&mut self, keys: &[&'static str]) -> Result<Answer, Status> {
        let (mut kv, mut lease) = (self.client.kv(), self.client.lease());
        let granted = lease
            .lease_grant(pb::LeaseGrantRequest { ttl: 1, id: 0 })
            .await?
            .into_inner();
        self.names.learn(granted.id);
        let start = Instant::now();
        for key in keys {
            kv.put(pb::PutRequest {
                key: (*key).into(),
                lease: granted.id,
                ..Default::default()
            })
            .await?;
        }
        let request = pb::RangeRequest {
            key: (*keys.first().unwrap_or(&"x")).into(),
            ..Default::default()
        };
        loop {
            let mut response = kv.range(request.clone()).await?.into_inner();
            if response.count == 0 {
                let granted_ttl = Duration::from_secs(granted.ttl.unsigned_abs());
                if start.elapsed() + Duration::from_millis(50) < granted_ttl {
                    return Err(Status::data_loss("the lease ended before its time"));
                }
                answer::header(&mut response.header);
                return Ok(Answer::Range(response));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn watch(&mut self, number: usize, step: &WatchStep) -> Answer {
        use pb::watch_request::RequestUnion;
        if *step == WatchStep::Open {
            self.streams.push(WatchSide::open(&self.client));
            return Answer::Nothing;
        }
        let names = &self.names;
        let Some(stream) = self.streams.get_mut(number) else {
            return Answer::Nothing;
        };
        match step {
            WatchStep::Open => {}
            WatchStep::Create(request) => {
                let created = stream.create(names, request.clone(), PATIENCE / 2).await;
                let Some(mut created) = created else {
                    return Answer::Silence;
                };
                answer::header(&mut created.header);
                return Answer::Watch(created);
            }
            WatchStep::Cancel(id) => {
                stream.send(Some(RequestUnion::CancelRequest(pb::WatchCancelRequest {
                    watch_id: *id,
                })));
            }
            WatchStep::Progress => {
                stream.send(Some(RequestUnion::ProgressRequest(
                    pb::WatchProgressRequest {},
                )));
            }
            WatchStep::Blank => stream.send(None),
            WatchStep::HalfClose => stream.half_close(),
        }
        Answer::Nothing
    }

    /// The answer to a cancel request that is due one.
    pub(crate) async fn canceled(&mut self, number: usize, id: i64) -> Answer {
        let names = &self.names;
        let Some(stream) = self.streams.get_mut(number) else {
            return Answer::Nothing;
        };
        stream
            .wait(names, PATIENCE / 2, |stream| {
                stream.canceled(id) || stream.has_ended()
            })
            .await;
        stream
            .take_canceled(id)
            .map_or(Answer::Silence, Answer::Watch)
    }

    /// The answer to a progress request that is due one.
    pub(crate) async fn progressed(&mut self, number: usize) -> Option<Seen> {
        let names = &self.names;
        let stream = self.streams.get_mut(number)?;
        stream
            .wait(names, PATIENCE / 2, |stream| {
                stream.progress_count() > 0 || stream.has_ended()
            })
            .await;
        stream.take_progress()
    }

    /// Returns once no watch of this server is catching up any more: what it has to deliver is
    /// visible from outside, that it has nothing to deliver is not.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        if !self.genuine {
            for stream in &mut self.streams {
                anyhow::ensure!(
                    stream.barrier(&self.names, PATIENCE).await,
                    "a watch stream of ours does not answer"
                );
            }
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let metrics = timeout(PATIENCE, plain_get(self.address, "/metrics")).await??;
            let behind = metrics
                .lines()
                .find_map(|line| line.strip_prefix("etcd_debugging_mvcc_slow_watcher_total "))
                .context("etcd no longer counts its slow watchers")?;
            if behind.trim() == "0" {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "watches of etcd never catch up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn raw(&self, path: &'static str, body: &[u8]) -> Result<Answer, Status> {
        let mut grpc = tonic::client::Grpc::new(self.client.channel());
        grpc.ready()
            .await
            .map_err(|error| Status::new(Code::Unknown, error.to_string()))?;
        let path = path
            .parse()
            .map_err(|_| Status::new(Code::Unknown, "not a path"))?;
        let response = grpc
            .unary(
                tonic::Request::new(bytes::Bytes::copy_from_slice(body)),
                path,
                crate::raw::RawCodec,
            )
            .await?;
        let response = response.into_inner();
        // Of the calls made like this only a range can succeed.
        Ok(match pb::RangeResponse::decode(response.clone()) {
            Ok(response) => Answer::Range(answer::range(&self.names, response)),
            Err(_) => Answer::Bytes(response.to_vec()),
        })
    }
}

/// The body of an HTTP answer.
async fn plain_get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
