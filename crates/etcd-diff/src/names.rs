//! Names for the ids that a server chooses: the n-th lease it named is the n-th on the other
//! side too.

use trivet_store_etcd::proto::etcdserverpb as pb;

use crate::op::LOCAL_MEMBER;

/// Names of chosen leases count from here.
pub(crate) const CHOSEN: i64 = 7_100_000_000_000_000_000;

/// The ids of one side.
#[derive(Debug)]
pub(crate) struct Names {
    /// Ids of leases that the server chose, in order.
    chosen: Vec<i64>,
    pub(crate) member: u64,
}

impl Names {
    pub(crate) fn new(member: u64) -> Self {
        Self {
            chosen: Vec::new(),
            member,
        }
    }

    /// Takes in an id that the server chose; its name.
    pub(crate) fn learn(&mut self, id: i64) -> i64 {
        self.chosen.push(id);
        CHOSEN + self.chosen.len() as i64 - 1
    }

    /// The name of a lease; leases named by the client keep their id.
    pub(crate) fn of(&self, id: i64) -> i64 {
        match self.chosen.iter().position(|&chosen| chosen == id) {
            Some(place) => CHOSEN + place as i64,
            None => id,
        }
    }

    /// The id behind a name.
    pub(crate) fn id(&self, name: i64) -> i64 {
        usize::try_from(name.wrapping_sub(CHOSEN))
            .ok()
            .and_then(|place| self.chosen.get(place).copied())
            .unwrap_or(name)
    }

    pub(crate) fn member(&self, id: u64) -> u64 {
        match id {
            LOCAL_MEMBER => self.member,
            other => other,
        }
    }

    /// Puts ids in the place of names.
    pub(crate) fn put(&self, mut request: pb::PutRequest) -> pb::PutRequest {
        request.lease = self.id(request.lease);
        request
    }

    /// The same for a transaction.
    pub(crate) fn txn(&self, mut request: pb::TxnRequest) -> pb::TxnRequest {
        use pb::request_op::Request;
        for compare in &mut request.compare {
            if let Some(pb::compare::TargetUnion::Lease(id)) = &mut compare.target_union {
                *id = self.id(*id);
            }
        }
        for step in request.success.iter_mut().chain(&mut request.failure) {
            step.request = match step.request.take() {
                Some(Request::RequestPut(put)) => Some(Request::RequestPut(self.put(put))),
                Some(Request::RequestTxn(txn)) => Some(Request::RequestTxn(self.txn(txn))),
                other => other,
            };
        }
        request
    }
}
