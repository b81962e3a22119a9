//! What goes through the log, and what comes back.

use bytes::Bytes;
use trivet_mvcc::{Error as Refusal, LeaseId, Revision, Txn, TxnResult};

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
}

/// Why a command did nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The state does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The bytes are not a command.
    #[error("malformed command")]
    Malformed,
}

impl Command {
    /// The command as bytes (`docs/formats/state.md`, "Commands").
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encode_command(self)
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
