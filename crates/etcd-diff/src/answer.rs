//! What came back, with the server's own choices masked.

use tonic::{Code, Status};
use trivet_store_etcd::proto::{etcdserverpb as pb, mvccpb};

use crate::names::Names;

/// An answer as it is compared.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // named after the responses
pub enum Answer {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    Grant(pb::LeaseGrantResponse),
    Revoke(pb::LeaseRevokeResponse),
    TimeToLive(pb::LeaseTimeToLiveResponse),
    Leases(pb::LeaseLeasesResponse),
    /// The answers of a stream, and how it ended.
    KeepAlive(Vec<pb::LeaseKeepAliveResponse>, Box<Answer>),
    Watch(pb::WatchResponse),
    MemberList(pb::MemberListResponse),
    Status(pb::StatusResponse),
    Hash(pb::HashResponse),
    HashKv(pb::HashKvResponse),
    Alarm(pb::AlarmResponse),
    Defragment(pb::DefragmentResponse),
    MoveLeader(pb::MoveLeaderResponse),
    Bytes(Vec<u8>),
    Refused(Code, String),
    /// No answer in time.
    Silence,
    /// None is due.
    Nothing,
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        Self::Refused(status.code(), status.message().to_owned())
    }
}

impl Answer {
    /// The revision in the header, where there is one.
    #[must_use]
    pub fn revision(&self) -> Option<i64> {
        let header = match self {
            Self::Range(response) => &response.header,
            Self::Put(response) => &response.header,
            Self::Delete(response) => &response.header,
            Self::Txn(response) => &response.header,
            Self::Compact(response) => &response.header,
            Self::Grant(response) => &response.header,
            Self::Revoke(response) => &response.header,
            Self::TimeToLive(response) => &response.header,
            Self::Leases(response) => &response.header,
            Self::Alarm(response) => &response.header,
            _ => return None,
        };
        header.as_ref().map(|header| header.revision)
    }

    /// Code and text of a refusal.
    #[must_use]
    pub fn refusal(&self) -> Option<(Code, &str)> {
        match self {
            Self::Refused(code, text) => Some((*code, text)),
            _ => None,
        }
    }
}

/// Leaves of a number only whether it is set.
fn mask(number: &mut u64) {
    *number = u64::from(*number != 0);
}

fn mask_size(number: &mut i64) {
    *number = i64::from(*number > 0);
}

/// Ids and terms are the server's own; the revision is not.
pub(crate) fn header(header: &mut Option<pb::ResponseHeader>) {
    if let Some(header) = header {
        mask(&mut header.cluster_id);
        mask(&mut header.member_id);
        mask(&mut header.raft_term);
    }
}

pub(crate) fn key_value(names: &Names, pair: &mut mvccpb::KeyValue) {
    pair.lease = names.of(pair.lease);
}

pub(crate) fn event(names: &Names, event: &mut mvccpb::Event) {
    for pair in event.kv.iter_mut().chain(&mut event.prev_kv) {
        key_value(names, pair);
    }
}

pub(crate) fn range(names: &Names, mut response: pb::RangeResponse) -> pb::RangeResponse {
    header(&mut response.header);
    for pair in &mut response.kvs {
        key_value(names, pair);
    }
    response
}

pub(crate) fn put(names: &Names, mut response: pb::PutResponse) -> pb::PutResponse {
    header(&mut response.header);
    if let Some(pair) = &mut response.prev_kv {
        key_value(names, pair);
    }
    response
}

pub(crate) fn delete(
    names: &Names,
    mut response: pb::DeleteRangeResponse,
) -> pb::DeleteRangeResponse {
    header(&mut response.header);
    for pair in &mut response.prev_kvs {
        key_value(names, pair);
    }
    response
}

pub(crate) fn txn(names: &Names, mut response: pb::TxnResponse) -> pb::TxnResponse {
    use pb::response_op::Response;
    header(&mut response.header);
    for step in &mut response.responses {
        step.response = step.response.take().map(|step| match step {
            Response::ResponseRange(step) => Response::ResponseRange(range(names, step)),
            Response::ResponsePut(step) => Response::ResponsePut(put(names, step)),
            Response::ResponseDeleteRange(step) => {
                Response::ResponseDeleteRange(delete(names, step))
            }
            Response::ResponseTxn(step) => Response::ResponseTxn(txn(names, step)),
        });
    }
    response
}

/// The time left depends on the moment: what is compared is whether there is some.
pub(crate) fn time_to_live(
    names: &Names,
    mut response: pb::LeaseTimeToLiveResponse,
) -> pb::LeaseTimeToLiveResponse {
    header(&mut response.header);
    response.id = names.of(response.id);
    let (left, granted) = (response.ttl, response.granted_ttl);
    if left >= 0 && left <= granted && left >= granted.saturating_sub(600).min(granted - 1) {
        response.ttl = granted;
    }
    // A set, in any order.
    response.keys.sort();
    response
}

pub(crate) fn leases(
    names: &Names,
    mut response: pb::LeaseLeasesResponse,
) -> pb::LeaseLeasesResponse {
    header(&mut response.header);
    for lease in &mut response.leases {
        lease.id = names.of(lease.id);
    }
    // A set, in any order.
    response.leases.sort_by_key(|lease| lease.id);
    response
}

pub(crate) fn members(mut response: pb::MemberListResponse) -> pb::MemberListResponse {
    header(&mut response.header);
    for member in &mut response.members {
        mask(&mut member.id);
        for text in member
            .peer_ur_ls
            .iter_mut()
            .chain(&mut member.client_ur_ls)
            .chain([&mut member.name])
        {
            *text = if text.is_empty() { "" } else { "set" }.to_owned();
        }
    }
    response
}

/// Sizes and versions are the server's own, and fields newer than 3.5 may be there or not.
pub(crate) fn status(mut response: pb::StatusResponse) -> pb::StatusResponse {
    header(&mut response.header);
    for number in [
        &mut response.leader,
        &mut response.raft_index,
        &mut response.raft_term,
        &mut response.raft_applied_index,
    ] {
        mask(number);
    }
    mask_size(&mut response.db_size);
    mask_size(&mut response.db_size_in_use);
    pb::StatusResponse {
        header: response.header,
        version: "masked".to_owned(),
        db_size: response.db_size,
        leader: response.leader,
        raft_index: response.raft_index,
        raft_term: response.raft_term,
        raft_applied_index: response.raft_applied_index,
        errors: response.errors,
        db_size_in_use: response.db_size_in_use,
        is_learner: response.is_learner,
        ..Default::default()
    }
}

/// The hash depends on the encoding of the store; `hash_revision` is newer than 3.5.
pub(crate) fn hash_kv(mut response: pb::HashKvResponse) -> pb::HashKvResponse {
    header(&mut response.header);
    response.hash = u32::from(response.hash != 0);
    response.hash_revision = 0;
    response
}
