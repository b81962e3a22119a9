//! The place of users, roles and permissions in the replicated state.
//!
//! The log, the checkpoints and the snapshot streams carry commands and the table as opaque
//! bytes; what they mean is known here alone.

use bytes::Bytes;
use trivet_mvcc::LeaseTable;

use super::codec::DecodeError;
use super::command::Command;

/// In whose name a command was proposed, to be checked again when it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Name of the user.
    pub user: String,
    /// Revision of the table by which the user was checked when the command was proposed.
    pub auth_revision: u64,
}

/// Users, roles and permissions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthTable {
    image: Bytes,
}

impl AuthTable {
    /// Applies a command's payload; the answer goes back to the proposer as it is.
    pub(super) fn apply(&mut self, command: &Bytes) -> Bytes {
        self.image = Bytes::copy_from_slice(command);
        self.image.clone()
    }

    /// Whether a caller may run a command now. The error goes back to the proposer as it is.
    pub(super) fn authorize(
        &self,
        _caller: &Caller,
        _command: &Command,
        _leases: &LeaseTable,
    ) -> Result<(), Bytes> {
        Ok(())
    }

    /// The table as bytes, none of them for a table that was never changed.
    pub(super) fn encode(&self) -> Bytes {
        self.image.clone()
    }

    /// Reads what [`AuthTable::encode`] wrote.
    pub(super) fn decode(image: Bytes) -> Result<Self, DecodeError> {
        Ok(Self { image })
    }
}
