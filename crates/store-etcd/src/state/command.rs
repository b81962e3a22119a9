//! What goes through the log, and what comes back.

use bytes::Bytes;
use trivet_etcd_auth::{AuthAnswer, AuthError, Caller};
use trivet_mvcc::{Error as Refusal, LeaseId, Revision, Txn, TxnResult};

use super::alarm::{Alarm, AlarmAction, AlarmMember};
use super::codec::{self, DecodeError};

/// A change of the replicated state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A transaction; single puts and deletes are transactions of one step.
    Txn(Txn),
    /// Creates a lease.
    LeaseGrant {
        /// Chosen by the proposer; not 0.
        id: LeaseId,
        /// Time to live in seconds.
        ttl_s: u64,
    },
    /// Ends a lease and deletes its keys.
    LeaseRevoke {
        /// Which.
        id: LeaseId,
    },
    /// Forgets superseded versions.
    Compact {
        /// Up to here, exclusive of what is current at it.
        revision: Revision,
    },
    /// Raises or ends an alarm.
    Alarm {
        /// Which of both.
        action: AlarmAction,
        /// What, and of whom.
        alarm: AlarmMember,
    },
    /// Notes how long leases had to live at a moment, for the leader after this one.
    LeaseCheckpoint {
        /// Seconds left; 0 for the full time. Leases that are gone do not count.
        remaining: Vec<(LeaseId, u64)>,
    },
    /// Changes users, roles or permissions: an encoded
    /// [`AuthCommand`](trivet_etcd_auth::AuthCommand).
    Auth(Bytes),
    /// A command that comes in somebody's name. Not nested. One that comes in nobody's is refused
    /// once callers have to be known.
    As {
        /// In whose name.
        caller: Caller,
        /// What.
        command: Box<Self>,
    },
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The newest revision after the command, whether it succeeded or not.
    pub revision: Revision,
    /// What it did, or why it did nothing.
    pub result: Result<Response, CommandError>,
}

/// The answer to a successful command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To [`Command::Txn`].
    Txn(TxnResult),
    /// To [`Command::LeaseGrant`].
    LeaseGranted {
        /// Which.
        id: LeaseId,
        /// Time to live in seconds.
        ttl_s: u64,
    },
    /// To [`Command::LeaseRevoke`].
    LeaseRevoked {
        /// Number of keys that went with it.
        deleted: u64,
    },
    /// To [`Command::Compact`].
    Compacted,
    /// To [`Command::Alarm`]: what was raised or ended; nothing if there was nothing to end.
    Alarmed(Option<AlarmMember>),
    /// To [`Command::LeaseCheckpoint`].
    LeasesCheckpointed,
    /// To [`Command::Auth`].
    Auth {
        /// What it did.
        answer: AuthAnswer,
        /// Index of the log entry that the command came in.
        index: u64,
    },
}

/// Why a command did nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An alarm is raised under which such a command changes nothing.
    #[error("alarm {}", .0.name())]
    Alarm(Alarm),
    /// The caller may not do this (any more), or users and roles do not allow it.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The bytes are not a command.
    #[error("malformed command")]
    Malformed,
}

impl Command {
    /// The command itself, in whoever's name it comes.
    #[must_use]
    pub fn inner(&self) -> &Self {
        match self {
            Self::As { command, .. } => command,
            command => command,
        }
    }

    /// The command as bytes (`docs/formats/state.md`, "Commands").
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encode_command(self)
    }

    /// The bytes of [`Command::As`] with this command in it.
    #[must_use]
    pub fn encode_as(&self, caller: &Caller) -> Bytes {
        codec::encode_command_as(caller, self)
    }

    /// Reads what [`Command::encode`] wrote. Never panics; keys and values share `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        codec::decode_command(bytes)
    }
}

impl Outcome {
    /// The outcome as bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encode_outcome(self)
    }

    /// Reads what [`Outcome::encode`] wrote. Never panics.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        codec::decode_outcome(bytes)
    }
}
