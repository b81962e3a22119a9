//! Users and roles as etcd keeps them in its database.

use bytes::Bytes;
use prost::Message as _;
use trivet_etcd_auth::{Access, AuthCommand, AuthError, AuthState, PasswordHash, Permission};

use super::schema;
use super::write::Records;
use crate::proto::authpb;
use crate::proto::authpb::permission::Type;

/// Entries of the buckets `auth`, `authRoles` and `authUsers`; none for a table that was never
/// changed.
pub(crate) struct AuthRecords {
    pub(crate) auth: Records,
    pub(crate) roles: Records,
    pub(crate) users: Records,
}

impl AuthRecords {
    pub(crate) fn of(state: &AuthState) -> Self {
        let mut auth = Vec::new();
        if *state != AuthState::default() {
            auth.push((
                schema::AUTH_ENABLED.to_vec(),
                vec![u8::from(state.enabled())],
            ));
            let revision = state.revision().to_be_bytes();
            auth.push((schema::AUTH_REVISION.to_vec(), revision.to_vec()));
        }
        let role = |name: &str| {
            let permissions = state.role_permissions(name).unwrap_or_default();
            let record = authpb::Role {
                name: Bytes::copy_from_slice(name.as_bytes()),
                key_permission: permissions.iter().map(permission_record).collect(),
            };
            (name.as_bytes().to_vec(), record.encode_to_vec())
        };
        let user = |name: &str| {
            let password = state.user_password(name).flatten();
            let roles = state.user_roles(name);
            let record = authpb::User {
                name: Bytes::copy_from_slice(name.as_bytes()),
                password: password.map_or_else(Bytes::new, |hash| {
                    Bytes::copy_from_slice(hash.expose().as_bytes())
                }),
                roles: roles.map_or_else(Vec::new, |roles| roles.map(str::to_owned).collect()),
                options: Some(authpb::UserAddOptions {
                    no_password: password.is_none(),
                }),
            };
            (name.as_bytes().to_vec(), record.encode_to_vec())
        };
        Self {
            auth,
            roles: state.roles().map(role).collect(),
            users: state.users().map(user).collect(),
        }
    }
}

fn permission_record(permission: &Permission) -> authpb::Permission {
    let kind = match permission.access {
        Access::Read => Type::Read,
        Access::Write => Type::Write,
        Access::ReadWrite => Type::Readwrite,
    };
    authpb::Permission {
        perm_type: kind.into(),
        key: permission.key.clone(),
        range_end: permission.range_end.clone(),
    }
}

/// Takes records of a database, roles before users.
#[derive(Default)]
pub(crate) struct AuthReader(AuthState);

/// Why users and roles cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthMisfit {
    #[error("not a user or role")]
    Malformed,
    #[error("{}", .0.text())]
    Refused(AuthError),
}

impl AuthReader {
    fn apply(&mut self, command: AuthCommand) -> Result<(), AuthMisfit> {
        match self.0.apply(command) {
            Ok(_) => Ok(()),
            Err(error) => Err(AuthMisfit::Refused(error)),
        }
    }

    pub(crate) fn role(&mut self, record: &[u8]) -> Result<(), AuthMisfit> {
        let record = authpb::Role::decode(record).map_err(|_| AuthMisfit::Malformed)?;
        let role = text(&record.name)?;
        self.apply(AuthCommand::RoleAdd { role: role.clone() })?;
        for permission in record.key_permission {
            let access = match Type::try_from(permission.perm_type) {
                Ok(Type::Read) => Access::Read,
                Ok(Type::Write) => Access::Write,
                Ok(Type::Readwrite) => Access::ReadWrite,
                Err(_) => return Err(AuthMisfit::Malformed),
            };
            self.apply(AuthCommand::RoleGrantPermission {
                role: role.clone(),
                permission: Permission {
                    access,
                    key: permission.key,
                    range_end: permission.range_end,
                },
            })?;
        }
        Ok(())
    }

    pub(crate) fn user(&mut self, record: &[u8]) -> Result<(), AuthMisfit> {
        let record = authpb::User::decode(record).map_err(|_| AuthMisfit::Malformed)?;
        let user = text(&record.name)?;
        let without = record.options.is_some_and(|options| options.no_password);
        let password = match (without, &record.password[..]) {
            (true, _) => None,
            // Nothing in that place lets nobody in.
            (false, b"") => Some(PasswordHash::unusable()),
            (false, hash) => Some(PasswordHash::from_text(text(hash)?)),
        };
        self.apply(AuthCommand::UserAdd {
            user: user.clone(),
            password,
        })?;
        for role in record.roles {
            let user = user.clone();
            self.apply(AuthCommand::UserGrantRole { user, role })?;
        }
        Ok(())
    }

    /// The table as the state keeps it.
    pub(crate) fn finish(mut self, enabled: bool) -> Result<Bytes, AuthMisfit> {
        if enabled {
            self.apply(AuthCommand::Enable)?;
        }
        Ok(self.0.encode())
    }
}

fn text(bytes: &[u8]) -> Result<String, AuthMisfit> {
    let text = std::str::from_utf8(bytes).map_err(|_| AuthMisfit::Malformed)?;
    Ok(text.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sample() -> AuthState {
        let mut reader = AuthReader::default();
        let permission = |access, range_end: &'static [u8]| Permission {
            access,
            key: Bytes::from_static(b"k"),
            range_end: Bytes::from_static(range_end),
        };
        let (root, limited) = ("root".to_owned(), "limited".to_owned());
        for command in [
            AuthCommand::RoleAdd { role: root.clone() },
            AuthCommand::RoleAdd {
                role: limited.clone(),
            },
            AuthCommand::RoleGrantPermission {
                role: limited.clone(),
                permission: permission(Access::Read, b""),
            },
            AuthCommand::RoleGrantPermission {
                role: limited.clone(),
                permission: permission(Access::ReadWrite, b"\0"),
            },
            AuthCommand::UserAdd {
                user: root.clone(),
                password: Some(PasswordHash::from_text("$2a$10$hash")),
            },
            AuthCommand::UserAdd {
                user: limited.clone(),
                password: None,
            },
            AuthCommand::UserGrantRole {
                user: root.clone(),
                role: root,
            },
            AuthCommand::UserGrantRole {
                user: limited.clone(),
                role: limited,
            },
            AuthCommand::Enable,
        ] {
            reader.apply(command).unwrap();
        }
        reader.0
    }

    #[test]
    fn users_and_roles_survive_the_way_through_a_database() {
        let state = sample();
        let records = AuthRecords::of(&state);
        let enabled = &records.auth[0];
        assert_eq!(
            (&enabled.0[..], &enabled.1[..]),
            (schema::AUTH_ENABLED, &[1][..])
        );
        let mut reader = AuthReader::default();
        for (_, record) in &records.roles {
            reader.role(record).unwrap();
        }
        for (_, record) in &records.users {
            reader.user(record).unwrap();
        }
        let found = AuthState::decode(&reader.finish(true).unwrap()).unwrap();
        let again = AuthRecords::of(&found);
        assert_eq!(again.roles, records.roles);
        assert_eq!(again.users, records.users);
        assert!(found.enabled());
    }

    #[test]
    fn a_table_that_was_never_changed_has_no_records() {
        let records = AuthRecords::of(&AuthState::default());
        assert!(records.auth.is_empty() && records.roles.is_empty() && records.users.is_empty());
        assert!(AuthReader::default().finish(false).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut reader = AuthReader::default();
        assert!(reader.role(b"\xff").is_err());
        assert!(reader.user(b"\x0a\x02\xff\xfe").is_err(), "not a text");
        let records = AuthRecords::of(&sample());
        assert!(
            reader.user(&records.users[0].1).is_err(),
            "its role is missing"
        );
        assert!(
            AuthReader::default().finish(true).is_err(),
            "nobody could undo it"
        );
    }
}
