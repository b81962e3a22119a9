//! Errors as etcd puts them on the wire: clients match on code and text.

use tonic::{Code, Status};
use trivet_etcd_auth::{AuthError, PasswordError};
use trivet_raft_node as raft;

/// A refusal with etcd's own code and wording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    InvalidSortOption,
    InvalidClientVersion,
    RequestTooLarge,
    MemberUrlsInvalid,
    Compacted,
    FutureRevision,
    LeaseTtlTooLarge,
    NoSpace,
    UnknownMethod,
    WrongDowngradeVersion,
    InvalidDowngradeTarget,
    NoDowngradeJob,
    NotCapable,
    Auth(AuthError),
    Password(PasswordError),
    LeaseNotFound,
    MemberNotFound,
    LeaseExists,
    PeerUrlExists,
    NotALearner,
    LearnerNotReady,
    TooManyLearners,
    NotEnoughStartedMembers,
    UnhealthyCluster,
    NotLeader,
    BadTransferee,
    NotForLearner,
    Corrupt,
    NoLeader,
    Stopped,
    TimedOut,
    TimedOutLeaderFailed,
    TransferTimedOut,
    TooManyRequests,
}

impl Refusal {
    /// Code and full text.
    pub(crate) fn parts(self) -> (Code, &'static str) {
        use Code::*;
        match self {
            Self::EmptyKey => (InvalidArgument, "etcdserver: key is not provided"),
            Self::KeyNotFound => (InvalidArgument, "etcdserver: key not found"),
            Self::ValueProvided => (InvalidArgument, "etcdserver: value is provided"),
            Self::LeaseProvided => (InvalidArgument, "etcdserver: lease is provided"),
            Self::TooManyOps => (
                InvalidArgument,
                "etcdserver: too many operations in txn request",
            ),
            Self::DuplicateKey => (
                InvalidArgument,
                "etcdserver: duplicate key given in txn request",
            ),
            Self::InvalidSortOption => (InvalidArgument, "etcdserver: invalid sort option"),
            Self::InvalidClientVersion => {
                (InvalidArgument, "etcdserver: invalid client api version")
            }
            Self::RequestTooLarge => (InvalidArgument, "etcdserver: request is too large"),
            Self::MemberUrlsInvalid => {
                (InvalidArgument, "etcdserver: given member URLs are invalid")
            }
            Self::Compacted => (
                OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            Self::FutureRevision => (
                OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
            ),
            Self::LeaseTtlTooLarge => (OutOfRange, "etcdserver: too large lease TTL"),
            Self::NoSpace => (
                ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
            ),
            Self::UnknownMethod => (Unknown, "etcdserver: unknown method"),
            Self::WrongDowngradeVersion => (
                InvalidArgument,
                "etcdserver: wrong downgrade target version format",
            ),
            Self::InvalidDowngradeTarget => (
                InvalidArgument,
                "etcdserver: invalid downgrade target version",
            ),
            Self::NoDowngradeJob => (FailedPrecondition, "etcdserver: no inflight downgrade job"),
            Self::NotCapable => (FailedPrecondition, "etcdserver: not capable"),
            Self::Auth(error) => auth_parts(error),
            Self::Password(PasswordError::TooLong) => {
                (Unknown, "bcrypt: password length exceeds 72 bytes")
            }
            Self::Password(_) => (Unknown, "the password cannot be hashed"),
            Self::LeaseNotFound => (NotFound, "etcdserver: requested lease not found"),
            Self::MemberNotFound => (NotFound, "etcdserver: member not found"),
            Self::LeaseExists => (FailedPrecondition, "etcdserver: lease already exists"),
            Self::PeerUrlExists => (FailedPrecondition, "etcdserver: Peer URLs already exists"),
            Self::NotALearner => (
                FailedPrecondition,
                "etcdserver: can only promote a learner member",
            ),
            Self::LearnerNotReady => (
                FailedPrecondition,
                "etcdserver: can only promote a learner member which is in sync with leader",
            ),
            Self::TooManyLearners => (
                FailedPrecondition,
                "etcdserver: too many learner members in cluster",
            ),
            // Not FailedPrecondition: etcd's own mapping misses this one and the next-but-last,
            // and they arrive as Unknown.
            Self::NotEnoughStartedMembers => (
                Unknown,
                "etcdserver: re-configuration failed due to not enough started members",
            ),
            Self::UnhealthyCluster => (Unavailable, "etcdserver: unhealthy cluster"),
            Self::NotLeader => (FailedPrecondition, "etcdserver: not leader"),
            Self::BadTransferee => (FailedPrecondition, "etcdserver: bad leader transferee"),
            Self::NotForLearner => (
                FailedPrecondition,
                "etcdserver: rpc not supported for learner",
            ),
            Self::Corrupt => (DataLoss, "etcdserver: corrupt cluster"),
            Self::NoLeader => (Unavailable, "etcdserver: no leader"),
            Self::Stopped => (Unavailable, "etcdserver: server stopped"),
            Self::TimedOut => (Unavailable, "etcdserver: request timed out"),
            Self::TimedOutLeaderFailed => (
                Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            Self::TransferTimedOut => (
                Unknown,
                "etcdserver: request timed out, leader transfer took too long",
            ),
            Self::TooManyRequests => (Unknown, "etcdserver: too many requests"),
        }
    }

    /// The text alone.
    pub(crate) fn text(self) -> &'static str {
        self.parts().1
    }
}

/// [`Refusal::parts`] of what has to do with users and roles.
fn auth_parts(error: AuthError) -> (Code, &'static str) {
    use Code::*;
    match error {
        AuthError::RootUserMissing => (FailedPrecondition, "etcdserver: root user does not exist"),
        AuthError::RootRoleMissing => (
            FailedPrecondition,
            "etcdserver: root user does not have root role",
        ),
        AuthError::UserExists => (FailedPrecondition, "etcdserver: user name already exists"),
        AuthError::UserEmpty => (InvalidArgument, "etcdserver: user name is empty"),
        AuthError::UserNotFound => (FailedPrecondition, "etcdserver: user name not found"),
        AuthError::RoleExists => (FailedPrecondition, "etcdserver: role name already exists"),
        AuthError::RoleEmpty => (InvalidArgument, "etcdserver: role name is empty"),
        AuthError::RoleNotFound => (FailedPrecondition, "etcdserver: role name not found"),
        AuthError::RoleNotGranted => (
            FailedPrecondition,
            "etcdserver: role is not granted to the user",
        ),
        AuthError::PermissionNotGranted => (
            FailedPrecondition,
            "etcdserver: permission is not granted to the role",
        ),
        AuthError::PermissionNotGiven => (InvalidArgument, "etcdserver: permission not given"),
        AuthError::Failed => (
            InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password",
        ),
        // One that etcd's own mapping misses.
        AuthError::NoPassword => (
            Unknown,
            "auth: authentication failed, password was given for no password user",
        ),
        AuthError::NotEnabled => (
            FailedPrecondition,
            "etcdserver: authentication is not enabled",
        ),
        AuthError::InvalidManagement => (InvalidArgument, "etcdserver: invalid auth management"),
        AuthError::OldRevision => (InvalidArgument, "etcdserver: revision of auth store is old"),
        AuthError::Denied => (PermissionDenied, "etcdserver: permission denied"),
        AuthError::InvalidToken => (Unauthenticated, "etcdserver: invalid auth token"),
        AuthError::TooLarge => (InvalidArgument, "etcdserver: request is too large"),
        AuthError::Malformed => (InvalidArgument, "etcdserver: malformed auth request"),
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, text) = refusal.parts();
        Self::new(code, text)
    }
}

impl From<&raft::Error> for Refusal {
    fn from(error: &raft::Error) -> Self {
        match error {
            raft::Error::NoLeader { .. } => Self::NoLeader,
            // The answer of a leader that went away: the write may have happened.
            raft::Error::Unknown(_) => Self::TimedOutLeaderFailed,
            raft::Error::Overloaded => Self::TooManyRequests,
            raft::Error::Stopped | raft::Error::Storage(_) | raft::Error::Damaged { .. } => {
                Self::Stopped
            }
            // The node's own rules for membership, in etcd's words.
            raft::Error::Refused(why) if why.contains("not enough started") => {
                Self::NotEnoughStartedMembers
            }
            raft::Error::Refused(why) if why.contains("not in sync") => Self::LearnerNotReady,
            raft::Error::Refused(why) if why.contains("no member") => Self::MemberNotFound,
            raft::Error::Refused(_) => Self::UnhealthyCluster,
        }
    }
}
