//! Membership of replicated stores.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::Result;

/// Identity of a member; etcd prints it in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRole {
    /// Counts towards the quorum.
    Voter,
    /// Receives the log but does not vote; becomes a voter once caught up.
    Learner,
}

/// One member of the cluster, as the replicated log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Identity.
    pub id: MemberId,
    /// Name, `<node name>-<8 hex>` in a Trivet cluster.
    pub name: String,
    /// `https://host:2380` URLs.
    pub peer_urls: Vec<String>,
    /// `https://host:2379` URLs.
    pub client_urls: Vec<String>,
    /// Voter or learner.
    pub role: MemberRole,
    /// Index of the last log entry this member is known to hold; only the leader knows it of
    /// others.
    pub matched_index: Option<u64>,
    /// Time since the member was last heard of; only the leader knows it, and only of others.
    pub last_contact: Option<Duration>,
}

/// The cluster as one member sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Identity of the cluster.
    pub cluster_id: u64,
    /// The answering member.
    pub local: MemberId,
    /// The leader, if this member knows one that it has heard of within an election timeout.
    pub leader: Option<MemberId>,
    /// Raft term.
    pub term: u64,
    /// Index of the last log entry on this member.
    pub last_index: u64,
    /// Index of the last entry known to be committed.
    pub committed_index: u64,
    /// Index of the last entry applied on this member.
    pub applied_index: u64,
    /// Every member.
    pub members: Vec<Member>,
}

impl ClusterStatus {
    /// Number of voters.
    pub fn voters(&self) -> usize {
        self.members
            .iter()
            .filter(|m| m.role == MemberRole::Voter)
            .count()
    }

    /// Voters that must agree on a write.
    pub fn quorum(&self) -> usize {
        self.voters() / 2 + 1
    }
}

/// Membership operations. Each returns when the change is committed.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Answers from this member alone, also without a quorum.
    async fn status(&self) -> Result<ClusterStatus>;

    /// Removes a member. Removing the last voter, or one without which the rest has no quorum,
    /// is refused.
    async fn remove_member(&self, id: MemberId) -> Result<()>;

    /// Hands leadership to another voter; without `to`, to the best one. Returns when the
    /// other leads. Only the leader can do it.
    async fn transfer_leadership(&self, to: Option<MemberId>) -> Result<()>;
}
