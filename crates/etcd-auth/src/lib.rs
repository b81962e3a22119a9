//! etcd's users, roles and permissions.
//!
//! - [`AuthState`]: the replicated part, a value to which [`AuthCommand`]s are applied and which
//!   answers whether a [`Caller`] may do what it [`Need`]s. The same commands make the same state
//!   everywhere.
//! - [`Hasher`]: passwords, as bcrypt hashes that are made before a command is replicated.
//! - [`token`]: how a caller proves who it is after it has shown its password once.
//!
//! **Invariants:** no I/O and no clock; a password in the clear is never part of a command, of the
//! state, of an error or of a `Debug` text; what comes from outside is an error, never a panic.

mod caller;
mod checkpoint;
mod codec;
mod command;
mod error;
mod password;
mod role;
mod span;
mod state;
pub mod token;
mod user;

pub use caller::{Caller, Need};
pub use command::{Applied, AuthAnswer, AuthCommand, TokenChange};
pub use error::AuthError;
pub use password::{Hasher, MAX_PASSWORD_BYTES, PasswordError, PasswordHash};
pub use role::{Access, Permission};
pub use span::{KeySpan, SpanEnd};
pub use state::{AuthState, MAX_STATE_BYTES, ROOT};

/// Why bytes could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not what was written by any version.
    #[error("malformed bytes")]
    Malformed,
    /// Written by a later version; this program is too old for it.
    #[error("version {version} of users and roles is not known to this program; update it")]
    Unknown {
        /// Version byte.
        version: u8,
    },
}
