//! Why an operation of a member did not succeed, before it is put into words for etcd clients
//! or for the control plane.

use std::time::Duration;

use trivet_datastore::{Effect, Error};
use trivet_etcd_auth::{AuthError, PasswordError};
use trivet_mvcc as mvcc;
use trivet_raft_node as raft;

use crate::service::Refusal;
use crate::state::{Alarm, ReadError};

/// What a caller that finds no leader should wait before it tries again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The node could not do it.
    #[error(transparent)]
    Raft(#[from] raft::Error),
    /// The time for a request is over.
    #[error("the request timed out")]
    TimedOut {
        /// Whether a write may have taken effect.
        may_have_happened: bool,
    },
    /// The state does not allow it; nothing happened.
    #[error(transparent)]
    Refused(#[from] mvcc::Error),
    /// An alarm is raised under which this is not possible; nothing happened.
    #[error("alarm {}", .0.name())]
    Alarm(Alarm),
    /// The caller may not do this, or users and roles do not allow it; nothing happened.
    #[error(transparent)]
    Auth(AuthError),
    /// A password cannot be hashed.
    #[error(transparent)]
    Password(PasswordError),
    /// The encoded command is larger than the log takes.
    #[error("the request has {size_bytes} bytes, the limit is {limit_bytes}")]
    TooLarge {
        /// Size of the command.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// Too much is committed and not yet applied; nothing was proposed.
    #[error("too many requests")]
    Behind,
    /// Stored or replicated data does not read back.
    #[error("{0}")]
    Damaged(String),
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Refused(refused) => Self::Refused(refused),
            ReadError::Damaged(what) => Self::Damaged(what),
        }
    }
}

impl From<mvcc::Invalid> for Failure {
    fn from(invalid: mvcc::Invalid) -> Self {
        Self::Refused(mvcc::Error::Invalid(invalid))
    }
}

impl From<&Failure> for Refusal {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Raft(error) => Self::from(error),
            Failure::TimedOut { .. } => Self::TimedOut,
            Failure::Refused(error) => Self::from(error),
            Failure::Behind => Self::TooManyRequests,
            Failure::Alarm(Alarm::NoSpace) => Self::NoSpace,
            Failure::Auth(error) => Self::Auth(*error),
            Failure::Password(error) => Self::Password(*error),
            Failure::TooLarge { .. } => Self::RequestTooLarge,
            Failure::Alarm(Alarm::Corrupt) | Failure::Damaged(_) => Self::Corrupt,
        }
    }
}

impl From<Failure> for tonic::Status {
    fn from(failure: Failure) -> Self {
        if let Failure::Damaged(what) = &failure {
            tracing::error!(what, "the store is damaged");
        }
        Refusal::from(&failure).into()
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let unavailable = |reason: String, effect| Self::Unavailable {
            reason,
            retry_after: Some(RETRY_AFTER),
            effect,
        };
        match failure {
            Failure::Raft(raft::Error::Storage(what)) | Failure::Damaged(what) => {
                Self::Corrupt(what)
            }
            Failure::Raft(error @ raft::Error::Damaged { .. }) => Self::Corrupt(error.to_string()),
            Failure::Raft(error @ (raft::Error::Unknown(_) | raft::Error::Stopped)) => {
                unavailable(error.to_string(), Effect::Unknown)
            }
            Failure::Raft(raft::Error::Refused(what)) => Self::Invalid(what),
            Failure::Raft(error) => unavailable(error.to_string(), Effect::None),
            Failure::TimedOut { may_have_happened } => unavailable(
                "the request timed out".to_owned(),
                if may_have_happened {
                    Effect::Unknown
                } else {
                    Effect::None
                },
            ),
            Failure::Refused(mvcc::Error::Compacted { compact_revision }) => {
                Self::Compacted { compact_revision }
            }
            Failure::Refused(mvcc::Error::FutureRevision { requested, current }) => {
                Self::FutureRevision { requested, current }
            }
            Failure::Refused(mvcc::Error::LeaseNotFound) => Self::LeaseNotFound,
            Failure::Refused(
                error @ (mvcc::Error::LeaseExists
                | mvcc::Error::KeyNotFound
                | mvcc::Error::Invalid(_)),
            ) => Self::Invalid(error.to_string()),
            Failure::Alarm(Alarm::NoSpace) => Self::OutOfSpace,
            Failure::Alarm(Alarm::Corrupt) => unavailable(
                "alarm CORRUPT: the members' data differ".to_owned(),
                Effect::None,
            ),
            Failure::Auth(error) => Self::Invalid(error.to_string()),
            Failure::Password(error) => Self::Invalid(error.to_string()),
            Failure::Behind => unavailable("too many requests".to_owned(), Effect::None),
            Failure::TooLarge {
                size_bytes,
                limit_bytes,
            } => Self::TooLarge {
                size_bytes: size_bytes as u64,
                limit_bytes: limit_bytes as u64,
            },
        }
    }
}
