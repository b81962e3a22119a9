//! Between the library's types and the bytes on disk and wire.
//!
//! Decoding never trusts its input: a missing or contradictory field is an [`Invalid`], and
//! lengths are bounded by the input itself.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::EntryPayload;
use prost::Message as _;

use crate::consensus::types::{
    Commands, LogId, Member, Membership, StoredMembership, TypeConfig, Vote,
};
use crate::peers::proto;

/// The bytes do not make sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what}: {reason}")]
pub(crate) struct Invalid {
    what: &'static str,
    reason: String,
}

impl Invalid {
    pub(crate) fn new(what: &'static str, reason: impl Into<String>) -> Self {
        Self {
            what,
            reason: reason.into(),
        }
    }
}

impl From<Invalid> for std::io::Error {
    fn from(error: Invalid) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

type Result<T> = std::result::Result<T, Invalid>;
type Payload = EntryPayload<Commands, u64, Member>;
type Entry = <TypeConfig as openraft::RaftTypeConfig>::Entry;

pub(crate) fn log_id_to_proto(id: &LogId) -> proto::LogId {
    proto::LogId {
        term: id.leader_id.term,
        index: id.index,
    }
}

pub(crate) fn log_id_from_proto(id: &proto::LogId) -> LogId {
    LogId::new_term_index(id.term, id.index)
}

pub(crate) fn vote_to_proto(vote: &Vote) -> proto::Vote {
    proto::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_proto(vote: Option<&proto::Vote>) -> Result<Vote> {
    let vote = vote.ok_or_else(|| Invalid::new("message", "no vote"))?;
    Ok(if vote.committed {
        Vote::new_committed(vote.term, vote.node)
    } else {
        Vote::new(vote.term, vote.node)
    })
}

pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    vote_to_proto(vote).encode_to_vec().into()
}

pub(crate) fn decode_vote(bytes: Bytes) -> Result<Vote> {
    let vote =
        proto::Vote::decode(bytes).map_err(|error| Invalid::new("vote", error.to_string()))?;
    vote_from_proto(Some(&vote))
}

pub(crate) fn encode_log_id(id: &LogId) -> Bytes {
    log_id_to_proto(id).encode_to_vec().into()
}

pub(crate) fn decode_log_id(bytes: Bytes) -> Result<LogId> {
    let id = proto::LogId::decode(bytes)
        .map_err(|error| Invalid::new("log position", error.to_string()))?;
    Ok(log_id_from_proto(&id))
}

pub(crate) fn member_to_proto(id: u64, member: &Member) -> proto::Member {
    proto::Member {
        id,
        name: member.name.clone(),
        peer_url: member.peer_url.clone(),
        client_url: member.client_url.clone(),
        voter_to_be: member.voter_to_be,
    }
}

pub(crate) fn member_from_proto(member: &proto::Member) -> (u64, Member) {
    let proto::Member {
        id,
        name,
        peer_url,
        client_url,
        voter_to_be,
    } = member.clone();
    (
        id,
        Member {
            name,
            peer_url,
            client_url,
            voter_to_be,
        },
    )
}

fn membership_to_proto(membership: &Membership) -> proto::Membership {
    proto::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|ids| proto::VoterSet {
                ids: ids.iter().copied().collect(),
            })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, member)| member_to_proto(*id, member))
            .collect(),
    }
}

fn membership_from_proto(membership: &proto::Membership) -> Result<Membership> {
    let configs: Vec<BTreeSet<u64>> = membership
        .configs
        .iter()
        .map(|set| set.ids.iter().copied().collect())
        .collect();
    let members: BTreeMap<u64, Member> = membership.members.iter().map(member_from_proto).collect();
    if configs.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, members).map_err(|error| Invalid::new("membership", error.to_string()))
}

pub(crate) fn stored_membership_to_proto(stored: &StoredMembership) -> proto::StoredMembership {
    proto::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(stored.membership())),
    }
}

pub(crate) fn stored_membership_from_proto(
    stored: &proto::StoredMembership,
) -> Result<StoredMembership> {
    let membership = match &stored.membership {
        Some(membership) => membership_from_proto(membership)?,
        None => Membership::default(),
    };
    Ok(StoredMembership::new(
        stored.log_id.as_ref().map(log_id_from_proto),
        membership,
    ))
}

pub(crate) fn encode_stored_membership(stored: &StoredMembership) -> Bytes {
    stored_membership_to_proto(stored).encode_to_vec().into()
}

pub(crate) fn decode_stored_membership(bytes: Bytes) -> Result<StoredMembership> {
    let stored = proto::StoredMembership::decode(bytes)
        .map_err(|error| Invalid::new("membership", error.to_string()))?;
    stored_membership_from_proto(&stored)
}

pub(crate) fn encode_payload(payload: &Payload) -> Bytes {
    let kind = match payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(Commands {
            encoded: Some(encoded),
            ..
        }) => return encoded.clone(),
        EntryPayload::Normal(commands) => Some(proto::payload::Kind::Commands(proto::Commands {
            items: commands.items.clone(),
        })),
        EntryPayload::Membership(membership) => Some(proto::payload::Kind::Membership(
            membership_to_proto(membership),
        )),
    };
    proto::Payload { kind }.encode_to_vec().into()
}

pub(crate) fn decode_payload(bytes: Bytes) -> Result<Payload> {
    let payload = proto::Payload::decode(bytes.clone())
        .map_err(|error| Invalid::new("log entry", error.to_string()))?;
    Ok(match payload.kind {
        None => EntryPayload::Blank,
        Some(proto::payload::Kind::Commands(commands)) => EntryPayload::Normal(Commands {
            items: commands.items,
            encoded: Some(bytes),
        }),
        Some(proto::payload::Kind::Membership(membership)) => {
            EntryPayload::Membership(membership_from_proto(&membership)?)
        }
    })
}

pub(crate) fn entry_to_proto(entry: &Entry) -> proto::Entry {
    proto::Entry {
        id: Some(log_id_to_proto(&entry.log_id)),
        payload: encode_payload(&entry.payload),
    }
}

/// Entries of an append request: each must directly follow the one before.
pub(crate) fn entries_from_proto(
    previous: Option<&LogId>,
    entries: Vec<proto::Entry>,
) -> Result<Vec<Entry>> {
    let mut before = previous.copied();
    let mut decoded = Vec::with_capacity(entries.len());
    for entry in entries {
        let id = entry
            .id
            .as_ref()
            .ok_or_else(|| Invalid::new("log entry", "no position"))?;
        let log_id = log_id_from_proto(id);
        let expected = match &before {
            Some(before) => before.index.checked_add(1),
            None => Some(0),
        };
        if expected != Some(log_id.index) {
            return Err(Invalid::new(
                "log entry",
                format!("index {} does not follow", log_id.index),
            ));
        }
        if before.is_some_and(|before| before.leader_id > log_id.leader_id) {
            return Err(Invalid::new("log entry", "terms run backwards"));
        }
        before = Some(log_id);
        decoded.push(Entry {
            log_id,
            payload: decode_payload(entry.payload)?,
        });
    }
    Ok(decoded)
}

/// See [`crate::testing::decode_anything`].
pub(crate) fn decode_anything(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    // Whatever comes out is fine; that something comes out is the point.
    drop(decode_vote(bytes.clone()));
    drop(decode_log_id(bytes.clone()));
    drop(decode_stored_membership(bytes.clone()));
    drop(decode_payload(bytes.clone()));
    drop(proto::CallRequest::decode(bytes.clone()));
    drop(proto::CallResponse::decode(bytes.clone()));
    drop(proto::AppendResponse::decode(bytes.clone()));
    drop(proto::SnapshotChunk::decode(bytes.clone()));
    if let Ok(head) = proto::SnapshotHead::decode(bytes.clone()) {
        drop(vote_from_proto(head.vote.as_ref()));
        drop(
            head.membership
                .map(|membership| stored_membership_from_proto(&membership)),
        );
    }
    if let Ok(append) = proto::AppendRequest::decode(bytes) {
        let previous = append.previous.as_ref().map(log_id_from_proto);
        drop(vote_from_proto(append.vote.as_ref()));
        drop(entries_from_proto(previous.as_ref(), append.entries));
    }
}
