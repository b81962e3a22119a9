//! The encoding of commands: a version byte, then a protobuf message with one field set.

use bytes::{BufMut, Bytes, BytesMut};
use prost::{Message, Oneof};

use crate::{Access, AuthCommand, DecodeError, PasswordHash, Permission};

const VERSION: u8 = 1;

/// No command is longer; the log does not take a longer one.
const MAX_COMMAND_BYTES: usize = 2 << 20;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PermissionMessage {
    /// 1 reads, 2 writes, 3 both.
    #[prost(uint32, tag = "1")]
    access: u32,
    #[prost(bytes = "bytes", tag = "2")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    range_end: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct Names {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(string, tag = "2")]
    role: String,
}

#[derive(Clone, PartialEq, Message)]
struct Secretive {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(string, optional, tag = "2")]
    secret: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct RolePermission {
    #[prost(string, tag = "1")]
    role: String,
    #[prost(message, optional, tag = "2")]
    permission: Option<PermissionMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct CommandMessage {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Enable(Empty),
    #[prost(message, tag = "2")]
    Disable(Empty),
    #[prost(message, tag = "3")]
    Authenticate(Secretive),
    #[prost(message, tag = "4")]
    UserAdd(Secretive),
    #[prost(message, tag = "5")]
    UserDelete(Names),
    #[prost(message, tag = "6")]
    UserChangePassword(Secretive),
    #[prost(message, tag = "7")]
    UserGrantRole(Names),
    #[prost(message, tag = "8")]
    UserRevokeRole(Names),
    #[prost(message, tag = "9")]
    RoleAdd(Names),
    #[prost(message, tag = "10")]
    RoleDelete(Names),
    #[prost(message, tag = "11")]
    RoleGrantPermission(RolePermission),
    #[prost(message, tag = "12")]
    RoleRevokePermission(RolePermission),
}

impl From<&Permission> for PermissionMessage {
    fn from(permission: &Permission) -> Self {
        Self {
            access: match permission.access {
                Access::Read => 1,
                Access::Write => 2,
                Access::ReadWrite => 3,
            },
            key: permission.key.clone(),
            range_end: permission.range_end.clone(),
        }
    }
}

impl TryFrom<PermissionMessage> for Permission {
    type Error = DecodeError;

    fn try_from(message: PermissionMessage) -> Result<Self, DecodeError> {
        Ok(Self {
            access: match message.access {
                1 => Access::Read,
                2 => Access::Write,
                3 => Access::ReadWrite,
                _ => return Err(DecodeError::Malformed),
            },
            key: message.key,
            range_end: message.range_end,
        })
    }
}

/// A message behind its version.
pub(crate) fn versioned(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(VERSION);
    message
        .encode(&mut bytes)
        .expect("a BytesMut grows as needed");
    bytes.freeze()
}

/// Reads what [`versioned`] wrote.
pub(crate) fn unversioned<M: Message + Default>(bytes: &[u8]) -> Result<M, DecodeError> {
    match bytes.split_first() {
        Some((&VERSION, message)) => M::decode(message).map_err(|_| DecodeError::Malformed),
        None | Some((0, _)) => Err(DecodeError::Malformed),
        Some((&version, _)) => Err(DecodeError::Unknown { version }),
    }
}

pub(crate) fn encode_command(command: &AuthCommand) -> Bytes {
    let user_role = |user: &str, role: &str| Names {
        user: user.to_owned(),
        role: role.to_owned(),
    };
    let secretive = |user: &str, secret: Option<&str>| Secretive {
        user: user.to_owned(),
        secret: secret.map(str::to_owned),
    };
    let kind = match command {
        AuthCommand::Enable => Kind::Enable(Empty {}),
        AuthCommand::Disable => Kind::Disable(Empty {}),
        AuthCommand::Authenticate { user, token_prefix } => {
            Kind::Authenticate(secretive(user, Some(token_prefix)))
        }
        AuthCommand::UserAdd { user, password } => {
            Kind::UserAdd(secretive(user, password.as_ref().map(PasswordHash::expose)))
        }
        AuthCommand::UserDelete { user } => Kind::UserDelete(user_role(user, "")),
        AuthCommand::UserChangePassword { user, password } => {
            Kind::UserChangePassword(secretive(user, Some(password.expose())))
        }
        AuthCommand::UserGrantRole { user, role } => Kind::UserGrantRole(user_role(user, role)),
        AuthCommand::UserRevokeRole { user, role } => Kind::UserRevokeRole(user_role(user, role)),
        AuthCommand::RoleAdd { role } => Kind::RoleAdd(user_role("", role)),
        AuthCommand::RoleDelete { role } => Kind::RoleDelete(user_role("", role)),
        AuthCommand::RoleGrantPermission { role, permission } => {
            Kind::RoleGrantPermission(RolePermission {
                role: role.clone(),
                permission: Some(permission.into()),
            })
        }
        AuthCommand::RoleRevokePermission {
            role,
            key,
            range_end,
        } => Kind::RoleRevokePermission(RolePermission {
            role: role.clone(),
            permission: Some(PermissionMessage {
                access: 0,
                key: key.clone(),
                range_end: range_end.clone(),
            }),
        }),
    };
    versioned(&CommandMessage { kind: Some(kind) })
}

pub(crate) fn decode_command(bytes: &[u8]) -> Result<AuthCommand, DecodeError> {
    if bytes.len() > MAX_COMMAND_BYTES {
        return Err(DecodeError::Malformed);
    }
    let message: CommandMessage = unversioned(bytes)?;
    let malformed = || DecodeError::Malformed;
    // Members that know what this is have done it; it must not be passed over here.
    let unknown = DecodeError::Unknown { version: VERSION };
    let kind = match message.kind {
        Some(kind) => kind,
        None if bytes.len() > 1 => return Err(unknown),
        None => return Err(DecodeError::Malformed),
    };
    Ok(match kind {
        Kind::Enable(Empty {}) => AuthCommand::Enable,
        Kind::Disable(Empty {}) => AuthCommand::Disable,
        Kind::Authenticate(Secretive { user, secret }) => AuthCommand::Authenticate {
            user,
            token_prefix: secret.unwrap_or_default(),
        },
        Kind::UserAdd(Secretive { user, secret }) => AuthCommand::UserAdd {
            user,
            password: secret.map(PasswordHash::from_text),
        },
        Kind::UserDelete(Names { user, .. }) => AuthCommand::UserDelete { user },
        Kind::UserChangePassword(Secretive { user, secret }) => AuthCommand::UserChangePassword {
            user,
            password: PasswordHash::from_text(secret.unwrap_or_default()),
        },
        Kind::UserGrantRole(Names { user, role }) => AuthCommand::UserGrantRole { user, role },
        Kind::UserRevokeRole(Names { user, role }) => AuthCommand::UserRevokeRole { user, role },
        Kind::RoleAdd(Names { role, .. }) => AuthCommand::RoleAdd { role },
        Kind::RoleDelete(Names { role, .. }) => AuthCommand::RoleDelete { role },
        Kind::RoleGrantPermission(RolePermission { role, permission }) => {
            AuthCommand::RoleGrantPermission {
                role,
                permission: permission.ok_or_else(malformed)?.try_into()?,
            }
        }
        Kind::RoleRevokePermission(RolePermission { role, permission }) => {
            let PermissionMessage { key, range_end, .. } = permission.ok_or_else(malformed)?;
            AuthCommand::RoleRevokePermission {
                role,
                key,
                range_end,
            }
        }
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["", "root", "alice", "bob", "r1", "r2"]).prop_map(str::to_owned)
    }

    fn key() -> impl Strategy<Value = Bytes> {
        prop::sample::select(vec!["", "\0", "a", "b", "c"]).prop_map(Bytes::from_static_str)
    }

    /// `Bytes` from a literal, as a function for `prop_map`.
    trait FromStaticStr {
        fn from_static_str(text: &'static str) -> Bytes;
    }

    impl FromStaticStr for Bytes {
        fn from_static_str(text: &'static str) -> Bytes {
            Bytes::from_static(text.as_bytes())
        }
    }

    fn access() -> impl Strategy<Value = Access> {
        prop::sample::select(vec![Access::Read, Access::Write, Access::ReadWrite])
    }

    pub(crate) fn command() -> impl Strategy<Value = AuthCommand> {
        use AuthCommand as C;
        let hash = || name().prop_map(PasswordHash::from_text);
        prop_oneof![
            Just(C::Enable),
            Just(C::Disable),
            (name(), name())
                .prop_map(|(user, token_prefix)| C::Authenticate { user, token_prefix }),
            (name(), prop::option::of(hash()))
                .prop_map(|(user, password)| C::UserAdd { user, password }),
            name().prop_map(|user| C::UserDelete { user }),
            (name(), hash()).prop_map(|(user, password)| C::UserChangePassword { user, password }),
            (name(), name()).prop_map(|(user, role)| C::UserGrantRole { user, role }),
            (name(), name()).prop_map(|(user, role)| C::UserRevokeRole { user, role }),
            name().prop_map(|role| C::RoleAdd { role }),
            name().prop_map(|role| C::RoleDelete { role }),
            (name(), access(), key(), key()).prop_map(|(role, access, key, range_end)| {
                C::RoleGrantPermission {
                    role,
                    permission: Permission {
                        access,
                        key,
                        range_end,
                    },
                }
            }),
            (name(), key(), key()).prop_map(|(role, key, range_end)| C::RoleRevokePermission {
                role,
                key,
                range_end
            }),
        ]
    }

    proptest! {
        #[test]
        fn commands_survive_the_way_back(command in command()) {
            prop_assert_eq!(AuthCommand::decode(&command.encode()), Ok(command));
        }

        #[test]
        fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = AuthCommand::decode(&bytes);
            let framed = [&[VERSION][..], &bytes].concat();
            let _ = AuthCommand::decode(&framed);
        }
    }

    #[test]
    fn versions_and_sizes_are_checked() {
        assert_eq!(AuthCommand::decode(&[]), Err(DecodeError::Malformed));
        assert_eq!(AuthCommand::decode(&[0]), Err(DecodeError::Malformed));
        assert_eq!(
            AuthCommand::decode(&[9, 1, 2]),
            Err(DecodeError::Unknown { version: 9 })
        );
        assert_eq!(AuthCommand::decode(&[1]), Err(DecodeError::Malformed));
        // Field 13, empty: a command that is yet to be invented.
        assert_eq!(
            AuthCommand::decode(&[1, 0x6a, 0]),
            Err(DecodeError::Unknown { version: 1 })
        );
        let role = "x".repeat(MAX_COMMAND_BYTES);
        let long = AuthCommand::RoleAdd { role }.encode();
        assert_eq!(AuthCommand::decode(&long), Err(DecodeError::Malformed));
    }
}
