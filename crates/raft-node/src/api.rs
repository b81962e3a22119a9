//! The contract between a replicated store and its Raft node.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use trivet_env::Env;

/// Result of a node operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a member that was removed does not start any more.
pub const REMOVED: &str = "the member has been permanently removed from the cluster";

/// Why a node operation did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No leader is known; nothing was proposed.
    #[error("no leader{}", last_leader.map(|id| format!(" (last known: {id:x})")).unwrap_or_default())]
    NoLeader {
        /// The last leader this member knew.
        last_leader: Option<u64>,
    },
    /// The outcome is not known: the proposal was handed on and the answer was lost.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// Too many proposals are waiting; nothing was proposed.
    #[error("too many requests")]
    Overloaded,
    /// The node is shutting down or has stopped.
    #[error("the node has stopped")]
    Stopped,
    /// A membership change was refused.
    #[error("{0}")]
    Refused(String),
    /// What was durable once cannot be read back, or is missing. Nothing was changed on disk.
    #[error("{} is damaged at byte {offset}: {what}", file.display())]
    Damaged {
        /// The file, or the directory if a whole file is missing.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What was found or missed there.
        what: String,
    },
    /// The log or the state machine failed; the node serves nothing any more.
    #[error("storage failed: {0}")]
    Storage(String),
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogPosition {
    /// Term of the entry.
    pub term: u64,
    /// Index of the entry; the first real entry has index 1 or more, 0 is "before everything".
    pub index: u64,
}

/// Commands of one log entry, in order.
#[derive(Debug, Clone)]
pub struct AppliedBatch {
    /// Where the entry stands.
    pub position: LogPosition,
    /// What was proposed. Empty for entries that carry no command (a new leader's first entry,
    /// membership changes): the state machine only notes the position.
    pub commands: Vec<Bytes>,
}

/// A consistent logical image of a state machine, pinned while it is read.
pub trait SnapshotSource: Send + 'static {
    /// The next chunk of the stream (at most about 1 MiB), `None` at the end. Blocks on disk.
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>>;
}

/// What the log is applied to. All methods block and are called from one thread at a time.
///
/// The state machine makes its own state durable when it likes ([`StateMachine::durable`]);
/// after a restart the node replays the log from there. Applying is deterministic: same
/// entries, same state, same responses on every member; no clock, no randomness.
pub trait StateMachine: Send + 'static {
    /// The last position applied (after opening: the last one whose effects were recovered).
    fn applied(&self) -> LogPosition;

    /// Everything up to here survives a crash; the log before it may be purged.
    fn durable(&self) -> LogPosition;

    /// Applies one entry and answers each of its commands. An error is fatal for the node, except
    /// that one of kind `InvalidData` says that data on this member's disk is damaged: the node
    /// then installs a snapshot of another member's, if there is one, which includes the entry.
    fn apply(&mut self, batch: &AppliedBatch) -> io::Result<Vec<Bytes>>;

    /// Called now and then after applying, and before the log is purged: the place to write a
    /// checkpoint when one is due. `force` asks for one in any case. May start work on another
    /// thread and let [`StateMachine::durable`] move later.
    fn checkpoint(&mut self, force: bool) -> io::Result<()>;

    /// Starts a snapshot at the current position. Later applies do not change it.
    fn snapshot(&mut self) -> io::Result<(LogPosition, Box<dyn SnapshotSource>)>;

    /// Replaces the whole state by a snapshot taken at `position` elsewhere; durable on return.
    /// A failure leaves the old state in place. Chunks come in any size, in order. Must work on a
    /// state that failed because of damage, too.
    fn install(
        &mut self,
        position: LogPosition,
        chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> io::Result<()>;
}

/// Answers questions that only the leader can answer (for example: renew this lease). Called
/// on the leader, for its own members and forwarded ones alike.
#[async_trait]
pub trait LeaderQuery: Send + Sync + 'static {
    /// The answer; an error is carried to the asker as text.
    async fn answer(&self, question: Bytes) -> Result<Bytes, String>;

    /// The answer to a question that was put to this very member, see
    /// [`RaftNode::ask_member`](crate::RaftNode::ask_member).
    async fn answer_here(&self, _question: Bytes) -> Result<Bytes, String> {
        Err("this member answers no such question".to_owned())
    }
}

/// Voter or learner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRole {
    /// Counts towards the quorum.
    Voter,
    /// Added as a voter with [`crate::RaftNode::add_voter`]. Counts towards the quorum once it
    /// runs and has caught up, which the leader sees to.
    VoterToBe,
    /// Receives the log only.
    Learner,
}

/// A member as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Identity; never 0, never reused.
    pub id: u64,
    /// Name for people.
    pub name: String,
    /// `https://host:port` where the member listens for peers; several have commas between them.
    pub peer_url: String,
    /// Where clients reach it; opaque here.
    pub client_url: String,
}

/// How the node comes into being when its directory is empty. With data it always resumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartMode {
    /// Become the only voter of a new cluster.
    Found,
    /// Ask these peer URLs to be taken in: learner first, voter once caught up.
    Join {
        /// Members to ask; any one is enough.
        peer_urls: Vec<String>,
    },
    /// Found a cluster together with others: each of the members starts with the same list, in
    /// which it finds itself by its identity. The cluster lives once a quorum of them runs.
    Static {
        /// All founders.
        members: Vec<Peer>,
    },
    /// Become the member that was added to a running cluster before, with the identity that it
    /// was given there (see [`crate::ask_members`]). A learner is not waited for to become a voter.
    Added,
    /// Go on with the data here as the only member left. Everybody else is dropped from the
    /// membership without being asked: only for when the others are gone for good.
    StandAlone,
    /// The same server's member of identity `old` has lost its log and must never be heard of
    /// again: ask these peer URLs to remove it and to take this one in.
    Replace {
        /// The member that is replaced.
        old: u64,
        /// Members to ask; any one is enough.
        peer_urls: Vec<String>,
    },
    /// There must be data.
    Resume,
}

/// How members speak to each other.
#[derive(Clone)]
pub enum PeerSecurity {
    /// TLS with certificates on both ends; nothing else is spoken or believed.
    Mutual {
        /// Requires and verifies the certificates of peers.
        server: Arc<rustls::ServerConfig>,
        /// Shows a certificate to peers.
        client: Arc<rustls::ClientConfig>,
    },
    /// TLS towards peers with `https://` addresses, none towards those with `http://`; whether
    /// peers that connect must show a certificate is up to `server`.
    Tls {
        /// For those that connect.
        server: Arc<rustls::ServerConfig>,
        /// For connecting.
        client: Arc<rustls::ClientConfig>,
    },
    /// No TLS: whoever reaches the port can pass for a member.
    Plaintext,
}

impl PeerSecurity {
    /// Whether members may have `http://` addresses.
    pub(crate) fn plaintext_urls(&self) -> bool {
        !matches!(self, Self::Mutual { .. })
    }

    pub(crate) fn client(&self) -> Option<&Arc<rustls::ClientConfig>> {
        match self {
            Self::Mutual { client, .. } | Self::Tls { client, .. } => Some(client),
            Self::Plaintext => None,
        }
    }
}

/// What a member says about the cluster it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterView {
    /// Identity of the cluster.
    pub cluster_id: u64,
    /// Who answered.
    pub answered_by: u64,
    /// The leader, if it knows one.
    pub leader: Option<u64>,
    /// Log index of the membership; 0 is the founding one.
    pub membership_index: u64,
    /// Members and their roles.
    pub members: Vec<(Peer, PeerRole)>,
}

/// Settings of a node.
#[derive(Clone)]
pub struct NodeConfig {
    /// The world.
    pub env: Env,
    /// Directory of the log; created when missing.
    pub dir: PathBuf,
    /// This member. On `Found` and `Join` `id` is taken as given (chosen at random by the
    /// store); on resume it must equal the recorded one.
    pub local: Peer,
    /// Identity of the cluster on `Found`; a joining member learns it, a resuming one has it
    /// recorded. Peers of another cluster are refused.
    pub cluster_id: u64,
    /// Addresses to listen on for peers.
    pub listen: Vec<SocketAddr>,
    /// TLS, or none.
    pub security: PeerSecurity,
    /// Interval between heartbeats.
    pub heartbeat: Duration,
    /// Minimum election timeout; the maximum is twice that.
    pub election_timeout: Duration,
    /// What to do when there is no data.
    pub start: StartMode,
}

/// What a log on disk says about its member, see [`RaftNode::inspect`](crate::RaftNode::inspect).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFacts {
    /// Identity of the cluster.
    pub cluster_id: u64,
    /// Identity of the member.
    pub member_id: u64,
    /// Whether the member was founded or taken in.
    pub joined: bool,
    /// The last entry that is gone because the state had it; index 0 when the log is complete.
    pub purged: LogPosition,
    /// The members as last applied, this one too.
    pub members: Vec<Peer>,
}

/// One peer as this member sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub peer: Peer,
    /// Role.
    pub role: PeerRole,
    /// Last index it is known to hold (leader only).
    pub matched_index: Option<u64>,
    /// Time since it was last heard of (leader only).
    pub last_contact: Option<Duration>,
    /// For how long this member has been in contact with it without a break, as every member
    /// finds out for itself. `None` when it cannot be reached.
    pub connected_for: Option<Duration>,
}

/// The node as it sees itself; available without a quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// Identity of the cluster.
    pub cluster_id: u64,
    /// This member.
    pub local: u64,
    /// The leader, when known and recently heard of.
    pub leader: Option<u64>,
    /// Current term.
    pub term: u64,
    /// Last entry in the local log.
    pub last_index: u64,
    /// Last entry known to be committed.
    pub committed_index: u64,
    /// Last entry applied.
    pub applied_index: u64,
    /// Bytes of log on disk.
    pub log_size_bytes: u64,
    /// Members, in order of identity.
    pub peers: Vec<PeerStatus>,
    /// Why the node stopped serving, if it did.
    pub failed: Option<String>,
}
