//! What goes through the log, and what comes back.

use bytes::Bytes;

use crate::{AuthError, DecodeError, PasswordHash, Permission, codec};

/// A change of users, roles and permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthCommand {
    /// From now on callers must be known and permitted.
    Enable,
    /// From now on everybody may do everything.
    Disable,
    /// A user has shown the right password to the member that proposes this.
    Authenticate {
        /// Who.
        user: String,
        /// The random part of a simple token, which every member is to know; empty for tokens
        /// that prove themselves.
        token_prefix: String,
    },
    /// Adds a user.
    UserAdd {
        /// Who.
        user: String,
        /// `None` for one without a password.
        password: Option<PasswordHash>,
    },
    /// Removes a user.
    UserDelete {
        /// Who.
        user: String,
    },
    /// Gives a user another password.
    UserChangePassword {
        /// Who.
        user: String,
        /// Which.
        password: PasswordHash,
    },
    /// Gives a user a role.
    UserGrantRole {
        /// Who.
        user: String,
        /// Which.
        role: String,
    },
    /// Takes a role from a user.
    UserRevokeRole {
        /// Who.
        user: String,
        /// Which.
        role: String,
    },
    /// Adds a role without permissions.
    RoleAdd {
        /// Which.
        role: String,
    },
    /// Removes a role, from its users too.
    RoleDelete {
        /// Which.
        role: String,
    },
    /// Gives a role a permission, or changes the one it has for exactly that range.
    RoleGrantPermission {
        /// Which role.
        role: String,
        /// Which permission.
        permission: Permission,
    },
    /// Takes from a role the permission for exactly that range.
    RoleRevokePermission {
        /// Which.
        role: String,
        /// The first key.
        key: Bytes,
        /// The end of the range, as it was granted.
        range_end: Bytes,
    },
}

/// The answer to a command that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthAnswer {
    /// Done.
    Done,
    /// To [`AuthCommand::Authenticate`].
    Authenticated {
        /// The revision of users and roles then.
        auth_revision: u64,
    },
}

/// What a command means for the simple tokens that a member keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenChange {
    /// Nothing.
    None,
    /// There is a new one.
    Assign {
        /// Whose.
        user: String,
        /// Its random part.
        prefix: String,
    },
    /// Those of a user are void.
    ForgetUser(String),
    /// All are void.
    ForgetAll,
}

impl AuthCommand {
    /// The command as bytes (`docs/formats/auth.md`).
    #[must_use]
    pub fn encode(&self) -> Bytes {
        codec::encode_command(self)
    }

    /// Reads what [`AuthCommand::encode`] wrote. Never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode_command(bytes)
    }
}

impl AuthAnswer {
    /// The answer as bytes.
    #[must_use]
    pub fn encode(self) -> Bytes {
        match self {
            Self::Done => Bytes::new(),
            Self::Authenticated { auth_revision } => {
                Bytes::copy_from_slice(&auth_revision.to_be_bytes())
            }
        }
    }

    /// Reads what [`AuthAnswer::encode`] wrote, and for a command that was refused the error.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes {
            [] => Ok(Self::Done),
            bytes => bytes
                .try_into()
                .map(|bytes| Self::Authenticated {
                    auth_revision: u64::from_be_bytes(bytes),
                })
                .map_err(|_| DecodeError::Malformed),
        }
    }
}

/// A command's outcome for the member that applies it.
pub type Applied = Result<(AuthAnswer, TokenChange), AuthError>;
