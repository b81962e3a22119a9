//! Who asks, and for what.

use crate::KeySpan;

/// In whose name something is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Nobody has said who asks.
    Anonymous,
    /// The store itself, and those who share its process: may do everything.
    Root,
    /// A user who has proven to be that.
    User {
        /// Who.
        name: String,
        /// The revision of users and roles for which that was found out.
        auth_revision: u64,
    },
}

/// What something takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need<'a> {
    /// Reading a range.
    Read(KeySpan<'a>),
    /// Writing a range.
    Write(KeySpan<'a>),
    /// Being some user.
    User,
    /// Having the role `root`.
    Admin,
    /// Seeing which roles this user has.
    UserInfo(&'a str),
    /// Seeing which permissions this role has.
    RoleInfo(&'a str),
}
