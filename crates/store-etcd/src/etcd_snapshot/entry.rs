//! One entry of a genuine etcd's log as a command of ours.

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use trivet_datastore::{LeaseId, Revision};
use trivet_mvcc::{Op, Txn};

use super::schema::AlarmRecord;
use crate::proto::etcdserverpb as pb;
use crate::service::convert;
use crate::state::{AlarmAction, Command};

/// Shortest lease that an etcd with default timing grants, in seconds.
const MIN_LEASE_S: i64 = 2;

/// Fields of a replicated request that mean nothing here: its header, requests of the old store,
/// authentication (a token for one client), and membership.
const IGNORED: [u32; 6] = [1, 2, 3, 100, 1012, 1013];
const CLUSTER: std::ops::RangeInclusive<u32> = 1300..=1302;
/// Requests that change users, roles, or whether they count.
const AUTH: std::ops::RangeInclusive<u32> = 1000..=1299;

/// The entry is of a kind that is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unknown;

/// What an entry changes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    Command(Command),
    /// Users and roles.
    Auth,
}

#[derive(Clone, PartialEq, Message)]
struct AlarmRequest {
    #[prost(int32, tag = "1")]
    action: i32,
    #[prost(uint64, tag = "2")]
    member: u64,
    #[prost(int32, tag = "3")]
    alarm: i32,
}

#[derive(Clone, PartialEq, Message)]
struct LeaseCheckpoint {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    remaining_ttl: i64,
}

#[derive(Clone, PartialEq, Message)]
struct LeaseCheckpoints {
    #[prost(message, repeated, tag = "1")]
    checkpoints: Vec<LeaseCheckpoint>,
}

/// Reads an entry. One that etcd would not have taken from a client is not known here.
pub(crate) fn decode(mut data: Bytes) -> Result<Option<Change>, Unknown> {
    let mut change = None;
    while data.has_remaining() {
        let (tag, wire) = decode_key(&mut data).map_err(|_| Unknown)?;
        if IGNORED.contains(&tag) || CLUSTER.contains(&tag) || wire != WireType::LengthDelimited {
            if !IGNORED.contains(&tag) && !CLUSTER.contains(&tag) {
                return Err(Unknown);
            }
            skip_field(wire, tag, &mut data, DecodeContext::default()).map_err(|_| Unknown)?;
            continue;
        }
        let length = decode_varint(&mut data).map_err(|_| Unknown)?;
        let length = usize::try_from(length).map_err(|_| Unknown)?;
        if length > data.len() {
            return Err(Unknown);
        }
        change = command(tag, data.split_to(length))?;
    }
    Ok(change)
}

fn command(tag: u32, data: Bytes) -> Result<Option<Change>, Unknown> {
    if AUTH.contains(&tag) {
        return Ok(Some(Change::Auth));
    }
    let command = match tag {
        4 => {
            let put = convert::put_op(parse(data)?).map_err(|_| Unknown)?;
            Some(Command::Txn(Txn::single(Op::Put(put))))
        }
        5 => {
            let delete = convert::delete_op(parse(data)?).map_err(|_| Unknown)?;
            Some(Command::Txn(Txn::single(Op::DeleteRange(delete))))
        }
        6 => {
            // However many steps were allowed there.
            let txn = convert::txn(parse(data)?, usize::MAX).map_err(|_| Unknown)?;
            Some(Command::Txn(txn))
        }
        7 => {
            let request: pb::CompactionRequest = parse(data)?;
            u64::try_from(request.revision)
                .ok()
                .map(|revision| Command::Compact {
                    revision: Revision(revision),
                })
        }
        8 => {
            let request: pb::LeaseGrantRequest = parse(data)?;
            let ttl = request.ttl.max(MIN_LEASE_S);
            (request.id != 0).then_some(Command::LeaseGrant {
                id: LeaseId(request.id),
                ttl_s: ttl.unsigned_abs(),
            })
        }
        9 => {
            let request: pb::LeaseRevokeRequest = parse(data)?;
            (request.id != 0).then_some(Command::LeaseRevoke {
                id: LeaseId(request.id),
            })
        }
        10 => alarm(&parse(data)?),
        11 => {
            let request: LeaseCheckpoints = parse(data)?;
            let remaining = request.checkpoints.into_iter().map(|checkpoint| {
                let left = u64::try_from(checkpoint.remaining_ttl).unwrap_or(0);
                (LeaseId(checkpoint.id), left)
            });
            Some(Command::LeaseCheckpoint {
                remaining: remaining.collect(),
            })
        }
        _ => return Err(Unknown),
    };
    Ok(command.map(Change::Command))
}

fn parse<T: Message + Default>(data: Bytes) -> Result<T, Unknown> {
    T::decode(data).map_err(|_| Unknown)
}

fn alarm(request: &AlarmRequest) -> Option<Command> {
    let action = match request.action {
        1 => AlarmAction::Activate,
        2 => AlarmAction::Deactivate,
        _ => return None,
    };
    let record = AlarmRecord {
        member: request.member,
        alarm: request.alarm,
    };
    let alarm = record.raised()?;
    Some(Command::Alarm { action, alarm })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn field(tag: u32, message: &impl Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        prost::encoding::encode_key(tag, WireType::LengthDelimited, &mut bytes);
        bytes.extend(message.encode_length_delimited_to_vec());
        bytes
    }

    fn decoded(bytes: Vec<u8>) -> Result<Option<Change>, Unknown> {
        decode(Bytes::from(bytes))
    }

    #[test]
    fn requests_become_commands() {
        let revoke = field(9, &pb::LeaseRevokeRequest { id: 5 });
        let expected = Command::LeaseRevoke { id: LeaseId(5) };
        assert_eq!(decoded(revoke), Ok(Some(Change::Command(expected))));
        let grant = field(8, &pb::LeaseGrantRequest { ttl: 1, id: 5 });
        let expected = Command::LeaseGrant {
            id: LeaseId(5),
            ttl_s: 2,
        };
        assert_eq!(decoded(grant), Ok(Some(Change::Command(expected))));
        // A header stands beside the request.
        let mut with_header = field(100, &pb::LeaseRevokeRequest { id: 9 });
        let raise = AlarmRequest {
            action: 1,
            member: 3,
            alarm: 1,
        };
        with_header.extend(field(10, &raise));
        assert!(matches!(
            decoded(with_header),
            Ok(Some(Change::Command(Command::Alarm { .. })))
        ));
        assert_eq!(decoded(Vec::new()), Ok(None));
    }

    #[test]
    fn what_is_not_known_is_not_passed_over() {
        assert_eq!(
            decoded(field(1100, &AlarmRequest::default())),
            Ok(Some(Change::Auth))
        );
        assert_eq!(decoded(field(12, &AlarmRequest::default())), Err(Unknown));
        assert_eq!(decoded(vec![0xff; 12]), Err(Unknown));
        let mut cut = field(9, &pb::LeaseRevokeRequest { id: 5 });
        cut.pop();
        assert_eq!(decoded(cut), Err(Unknown));
    }
}
