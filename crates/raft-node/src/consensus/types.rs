//! The library's type parameters, and their short names.

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_std;

use crate::api::{LogPosition, Peer};
use crate::consensus::machine::MachineAdapter;
use crate::consensus::snapshot::SnapshotData;

/// The commands of one log entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commands {
    pub(crate) items: Vec<Bytes>,
    /// The payload they were decoded from, which they are slices of: the entry goes on to the
    /// disk and to other members as it came.
    pub(crate) encoded: Option<Bytes>,
}

impl Commands {
    pub(crate) fn new(items: Vec<Bytes>) -> Self {
        Self {
            items,
            encoded: None,
        }
    }
}

impl PartialEq for Commands {
    fn eq(&self, other: &Self) -> bool {
        self.items == other.items
    }
}

impl Eq for Commands {}

impl fmt::Display for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands", self.items.len())
    }
}

/// The state machine's answers to the commands of one entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Responses(pub(crate) Vec<Bytes>);

impl fmt::Display for Responses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} responses", self.0.len())
    }
}

/// What the membership records about a member besides its identity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) peer_url: String,
    pub(crate) client_url: String,
    /// Added as a voter and not in the voter set yet: the leader sees to it once the member has
    /// caught up.
    pub(crate) voter_to_be: bool,
}

impl Member {
    pub(crate) fn to_peer(&self, id: u64) -> Peer {
        Peer {
            id,
            name: self.name.clone(),
            peer_url: self.peer_url.clone(),
            client_url: self.client_url.clone(),
        }
    }
}

impl From<&Peer> for Member {
    fn from(peer: &Peer) -> Self {
        Self {
            name: peer.name.clone(),
            peer_url: peer.peer_url.clone(),
            client_url: peer.client_url.clone(),
            voter_to_be: false,
        }
    }
}

openraft::declare_raft_types!(
    /// At most one leader per term, so that a term means what clients think it means.
    pub(crate) TypeConfig:
        D = Commands,
        R = Responses,
        Node = Member,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type CommittedLeader =
    <leader_id_std::LeaderId<u64, u64> as openraft::vote::RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<CommittedLeader>;
pub(crate) type Vote = openraft::Vote<leader_id_std::LeaderId<u64, u64>>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeader, u64, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeader, u64, Member>;
pub(crate) type Snapshot = openraft::Snapshot<CommittedLeader, u64, Member, SnapshotData>;
pub(crate) type Raft = openraft::Raft<TypeConfig, MachineAdapter>;

/// Index 0 holds the founding membership and no command: for the state machine it is "before
/// everything", so it stands for no position at all.
pub(crate) fn from_position(position: LogPosition) -> Option<LogId> {
    (position.index > 0).then(|| LogId::new_term_index(position.term, position.index))
}

pub(crate) fn to_position(id: &LogId) -> LogPosition {
    LogPosition {
        term: id.leader_id.term,
        index: id.index,
    }
}
