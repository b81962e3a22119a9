//! Users.

use std::collections::BTreeSet;

use crate::PasswordHash;

/// A user as the state keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// `None` for one that has no password and is known by its certificate alone.
    pub(crate) password: Option<PasswordHash>,
    pub(crate) roles: BTreeSet<String>,
}

impl User {
    /// Rough size in memory and on disk.
    pub(crate) fn size_bytes(&self, name: &str) -> usize {
        let roles: usize = self.roles.iter().map(|role| 8 + role.len()).sum();
        let password = self.password.as_ref().map_or(0, PasswordHash::len);
        32 + name.len() + password + roles
    }
}
