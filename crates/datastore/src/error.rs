//! Errors, sorted by what the caller can do.

use std::time::Duration;

use crate::Revision;

/// Result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whether a failed operation may have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing happened; the same request may be sent again.
    None,
    /// It may have happened, or may still happen. Never report it as "failed".
    Unknown,
}

/// Why a store operation did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Wait and try again: no leader, overloaded, shutting down on this member.
    #[error("the datastore is not available: {reason}")]
    Unavailable {
        /// What is missing.
        reason: String,
        /// A hint for the next attempt.
        retry_after: Option<Duration>,
        /// Whether the operation may have happened.
        effect: Effect,
    },
    /// The revision asked for was compacted away.
    #[error("revision is compacted; the oldest readable revision is {compact_revision}")]
    Compacted {
        /// Versions that were superseded at this revision are gone; it is the oldest that can
        /// be read or watched from.
        compact_revision: Revision,
    },
    /// The revision asked for does not exist yet.
    #[error("revision {requested} is in the future; the newest is {current}")]
    FutureRevision {
        /// Revision of the request.
        requested: Revision,
        /// Newest revision.
        current: Revision,
    },
    /// A watch reader was too slow and was cut off; open a new watch where it ended.
    #[error("the watcher fell behind and was closed after revision {last}")]
    WatchLagged {
        /// Last revision that was delivered.
        last: Revision,
    },
    /// The lease does not exist (any more).
    #[error("lease not found")]
    LeaseNotFound,
    /// The request can never succeed as it is.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The request or its value is larger than the store takes.
    #[error("request is too large: {size_bytes} bytes, the limit is {limit_bytes}")]
    TooLarge {
        /// Size of the request.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The store's space quota is used up; delete or compact first.
    #[error("the datastore is out of space")]
    OutOfSpace,
    /// Data on disk is damaged. Stop; nothing here gets better by trying again.
    #[error("the datastore is damaged: {0}")]
    Corrupt(String),
    /// The operation is not offered by this backend.
    #[error("{0} is not supported by this datastore")]
    Unsupported(&'static str),
}

impl Error {
    /// Whether the failed operation may have happened.
    pub fn effect(&self) -> Effect {
        match self {
            Self::Unavailable { effect, .. } => *effect,
            // A poisoned log may hold the write it failed to acknowledge.
            Self::Corrupt(_) => Effect::Unknown,
            _ => Effect::None,
        }
    }
}
