//! Why something about users, roles or permissions was refused.

use bytes::Bytes;

use crate::DecodeError;

macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// A refusal in etcd's own words, without the `etcdserver: ` in front.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
        pub enum AuthError {
            $($(#[$doc])* #[error($text)] $name,)*
        }

        impl AuthError {
            /// Every error.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The text.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// Stands for the error in what members send each other.
            fn code(self) -> u8 {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }
    };
}

errors! {
    /// Authentication cannot be enabled without the user `root`.
    RootUserMissing = 1, "root user does not exist";
    /// Authentication cannot be enabled before `root` has the role `root`.
    RootRoleMissing = 2, "root user does not have root role";
    /// A user of that name exists.
    UserExists = 3, "user name already exists";
    /// A user must have a name; or nobody is named where somebody has to be.
    UserEmpty = 4, "user name is empty";
    /// There is no such user.
    UserNotFound = 5, "user name not found";
    /// A role of that name exists.
    RoleExists = 6, "role name already exists";
    /// A role must have a name.
    RoleEmpty = 7, "role name is empty";
    /// There is no such role.
    RoleNotFound = 8, "role name not found";
    /// The user does not have the role.
    RoleNotGranted = 9, "role is not granted to the user";
    /// The role does not have a permission for exactly that range.
    PermissionNotGranted = 10, "permission is not granted to the role";
    /// A permission was to be granted, and none was named.
    PermissionNotGiven = 11, "permission not given";
    /// Wrong name or wrong password; which of both stays untold.
    Failed = 12, "authentication failed, invalid user ID or password";
    /// The user has no password, so none can be right. etcd tells this one apart.
    NoPassword = 13, "authentication failed, password was given for no password user";
    /// Authentication is off.
    NotEnabled = 14, "authentication is not enabled";
    /// It would leave an enabled cluster without its administrator.
    InvalidManagement = 15, "invalid auth management";
    /// The caller's permissions were looked up before the last change; ask again.
    OldRevision = 16, "revision of auth store is old";
    /// The caller may not do this.
    Denied = 17, "permission denied";
    /// The token is unknown, expired or not signed by this cluster.
    InvalidToken = 18, "invalid auth token";
    /// Users and roles would take more room than there is for them.
    TooLarge = 19, "request is too large";
    /// The bytes are not a command.
    Malformed = 20, "malformed auth request";
}

impl AuthError {
    /// The error as bytes.
    #[must_use]
    pub fn encode(self) -> Bytes {
        Bytes::copy_from_slice(&[self.code()])
    }

    /// Reads what [`AuthError::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::ALL
            .iter()
            .copied()
            .find(|error| *bytes == [error.code()])
            .ok_or(DecodeError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_the_way_back_and_no_two_share_a_code() {
        for &error in AuthError::ALL {
            assert_eq!(AuthError::decode(&error.encode()), Ok(error));
            let same = AuthError::ALL
                .iter()
                .filter(|other| other.code() == error.code());
            assert_eq!(same.count(), 1, "{error:?}");
        }
        for garbage in [&[][..], &[0], &[1, 1], &[255]] {
            assert_eq!(AuthError::decode(garbage), Err(DecodeError::Malformed));
        }
    }
}
