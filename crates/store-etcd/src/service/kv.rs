//! Reading and writing keys.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use trivet_datastore::Revision;
use trivet_etcd_auth::{Caller, Need};
use trivet_mvcc::{Op, OpResult, Txn};

use super::convert;
use super::status::Refusal;
use crate::engine::{Engine, unexpected};
use crate::failure::Failure;
use crate::proto::etcdserverpb as pb;
use crate::state::{self, span};

pub(crate) struct KvService {
    engine: Arc<Engine>,
}

impl KvService {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// Replicates a transaction of one step.
    async fn single(&self, caller: &Caller, op: Op) -> Result<(Revision, OpResult), Failure> {
        let mut result = self.engine.transact_as(caller, Txn::single(op)).await?;
        match result.results.pop() {
            Some(step) => Ok((result.revision, step)),
            None => Err(Failure::Damaged("a step has no result".to_owned())),
        }
    }
}

#[tonic::async_trait]
impl pb::kv_server::Kv for KvService {
    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let caller = self.engine.caller(&request);
        let request = request.into_inner();
        let serializable = request.serializable;
        let op = convert::range_op(request)?;
        if !serializable {
            if self.engine.is_learner() {
                return Err(Refusal::NotForLearner.into());
            }
            self.engine.barrier().await?;
        }
        let caller = caller.await?;
        self.engine.check(&caller, Need::Read(span(&op.range)))?;
        let result = self.engine.shared.range(&op).await.map_err(Failure::from)?;
        self.engine.check_still(&caller)?;
        let header = self.engine.header_at(result.revision);
        Ok(Response::new(convert::range_response(header, result)))
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let caller = self.engine.caller(&request);
        let op = convert::put_op(request.into_inner())?;
        let lease = op.lease;
        let outcome = self.single(&caller.await?, Op::Put(op)).await;
        // Outside of a transaction etcd looks for the lease before it looks for the key.
        if let (Err(Failure::Refused(trivet_mvcc::Error::KeyNotFound)), Some(lease)) =
            (&outcome, lease)
            && self.engine.shared.lease(lease).is_none()
        {
            return Err(Refusal::LeaseNotFound.into());
        }
        match outcome? {
            (revision, OpResult::Put { previous, .. }) => Ok(Response::new(convert::put_response(
                self.engine.header_at(revision),
                previous,
            ))),
            (_, other) => Err(wrong_step(&other).into()),
        }
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let caller = self.engine.caller(&request);
        let op = convert::delete_op(request.into_inner())?;
        match self.single(&caller.await?, Op::DeleteRange(op)).await? {
            (
                revision,
                OpResult::DeleteRange {
                    deleted, previous, ..
                },
            ) => {
                let header = self.engine.header_at(revision);
                Ok(Response::new(convert::delete_response(
                    header, deleted, previous,
                )))
            }
            (_, other) => Err(wrong_step(&other).into()),
        }
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let caller = self.engine.caller(&request);
        let request = request.into_inner();
        // A transaction without any step counts as serializable too, as in etcd.
        let serializable = request
            .success
            .iter()
            .chain(&request.failure)
            .all(is_serializable_range);
        let max_ops = self.engine.bounds.txn_ops;
        let txn = convert::txn(request, max_ops)?;
        txn.validate(max_ops).map_err(Failure::from)?;
        let result = if txn.is_read_only() {
            if !serializable {
                self.engine.barrier().await?;
            }
            let caller = caller.await?;
            self.engine.check_read_txn(&caller, &txn)?;
            let result = self.engine.shared.read_txn(&txn).await;
            let result = result.map_err(Failure::from)?;
            self.engine.check_still(&caller)?;
            result
        } else {
            self.engine.transact_as(&caller.await?, txn).await?
        };
        let header = self.engine.header_at(result.revision);
        Ok(Response::new(convert::txn_response(header, result)))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let caller = self.engine.caller(&request);
        // `physical` changes nothing here: the space is freed in the background either way.
        let Ok(revision) = u64::try_from(request.into_inner().revision) else {
            return Err(Refusal::Compacted.into());
        };
        let revision = Revision(revision);
        let command = state::Command::Compact { revision };
        match self.engine.execute_as(&caller.await?, &command).await? {
            (revision, state::Response::Compacted) => {
                let header = Some(self.engine.header_at(revision));
                Ok(Response::new(pb::CompactionResponse { header }))
            }
            (_, other) => Err(unexpected(&other).into()),
        }
    }
}

fn is_serializable_range(op: &pb::RequestOp) -> bool {
    matches!(&op.request, Some(pb::request_op::Request::RequestRange(range)) if range.serializable)
}

fn wrong_step(step: &OpResult) -> Failure {
    Failure::Damaged(format!("a step has a result of another kind: {step:?}"))
}
