//! Tokens: how a caller proves who it is after it has shown its password once.
//!
//! [`SimpleTokens`] are random and remembered by every member; a [`Jwt`] is signed and needs no
//! memory. [`TokenSpec`] is the setting that chooses between them.

mod jwt;
mod keys;
mod simple;
mod spec;

pub use jwt::{Jwt, JwtError};
pub use simple::{SimpleTokens, random_prefix};
pub use spec::{DEFAULT_JWT_TTL, JwtSpec, SignMethod, SpecError, TokenSpec};

/// A token longer than this is nobody's.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
