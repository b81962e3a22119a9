//! What is sent to both servers.

use trivet_store_etcd::proto::etcdserverpb as pb;

/// The member that is asked, whatever its id.
pub(crate) const LOCAL_MEMBER: u64 = u64::MAX - 1;

/// One operation. Leases whose id a server chose appear under names (see `names`), the member
/// itself as [`LOCAL_MEMBER`]; everything else is sent as it stands.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // named after the calls
pub enum Op {
    Range(pb::RangeRequest),
    RangeStream(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    Revoke(i64),
    TimeToLive(i64, bool),
    Leases,
    /// One stream with these requests, then half-closed.
    KeepAlive(Vec<i64>),
    /// Keys on a lease of the shortest possible time; then waits for their end.
    Expiry(Vec<&'static str>),
    /// Something on the watch stream of this number.
    Watch(usize, WatchStep),
    MemberList(bool),
    MemberAdd(Vec<String>, bool),
    MemberRemove(u64),
    MemberUpdate(u64, Vec<String>),
    MemberPromote(u64),
    Status,
    Hash,
    HashKv(i64),
    Alarm(pb::AlarmRequest),
    Defragment,
    MoveLeader(u64),
    /// Bytes to a method, perhaps one that does not exist.
    Raw(&'static str, Vec<u8>),
}

/// One step on a watch stream.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // named after the requests
pub enum WatchStep {
    Open,
    Create(pb::WatchCreateRequest),
    Cancel(i64),
    Progress,
    /// A request with nothing in it.
    Blank,
    /// The client has no more requests; it goes on listening.
    HalfClose,
}

impl Op {
    /// The name of its kind, for counting.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Range(_) => "Range",
            Self::RangeStream(_) => "RangeStream",
            Self::Put(_) => "Put",
            Self::Delete(_) => "DeleteRange",
            Self::Txn(_) => "Txn",
            Self::Compact(_) => "Compact",
            Self::Grant(_) => "LeaseGrant",
            Self::Revoke(_) => "LeaseRevoke",
            Self::TimeToLive(..) => "LeaseTimeToLive",
            Self::Leases => "LeaseLeases",
            Self::KeepAlive(_) => "LeaseKeepAlive",
            Self::Expiry(_) => "lease expiry",
            Self::Watch(_, WatchStep::Open) => "watch stream",
            Self::Watch(_, WatchStep::Create(_)) => "watch create",
            Self::Watch(_, WatchStep::Cancel(_)) => "watch cancel",
            Self::Watch(_, WatchStep::Progress) => "watch progress",
            Self::Watch(_, WatchStep::Blank) => "watch blank",
            Self::Watch(_, WatchStep::HalfClose) => "watch half-close",
            Self::MemberList(_) => "MemberList",
            Self::MemberAdd(..) => "MemberAdd",
            Self::MemberRemove(_) => "MemberRemove",
            Self::MemberUpdate(..) => "MemberUpdate",
            Self::MemberPromote(_) => "MemberPromote",
            Self::Status => "Status",
            Self::Hash => "Hash",
            Self::HashKv(_) => "HashKV",
            Self::Alarm(_) => "Alarm",
            Self::Defragment => "Defragment",
            Self::MoveLeader(_) => "MoveLeader",
            Self::Raw(..) => "raw bytes",
        }
    }

    /// Whether the watches must have been compared first, because the operation would race with
    /// what they still have to deliver.
    pub(crate) fn needs_quiet_watches(&self) -> bool {
        matches!(
            self,
            Self::Compact(_)
                | Self::Expiry(_)
                | Self::Watch(
                    _,
                    WatchStep::Cancel(_) | WatchStep::Progress | WatchStep::HalfClose
                )
        )
    }
}
