//! The state as bytes: a version byte, then a protobuf message.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::codec::{PermissionMessage, unversioned, versioned};
use crate::role::Role;
use crate::user::User;
use crate::{AuthState, DecodeError, PasswordHash, Permission};

#[derive(Clone, PartialEq, Message)]
struct StateMessage {
    #[prost(bool, tag = "1")]
    enabled: bool,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(message, repeated, tag = "3")]
    users: Vec<UserMessage>,
    #[prost(message, repeated, tag = "4")]
    roles: Vec<RoleMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct UserMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, optional, tag = "2")]
    password: Option<String>,
    #[prost(string, repeated, tag = "3")]
    roles: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct RoleMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    permissions: Vec<PermissionMessage>,
}

impl AuthState {
    /// The state as bytes (`docs/formats/auth.md`); none for one that was never changed.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        if *self == Self::default() {
            return Bytes::new();
        }
        let users = self.users.iter().map(|(name, user)| UserMessage {
            name: name.clone(),
            password: user.password.as_ref().map(|hash| hash.expose().to_owned()),
            roles: user.roles.iter().cloned().collect(),
        });
        let roles = self.roles.iter().map(|(name, role)| RoleMessage {
            name: name.clone(),
            permissions: role.permissions.iter().map(Into::into).collect(),
        });
        versioned(&StateMessage {
            enabled: self.enabled,
            revision: self.revision,
            users: users.collect(),
            roles: roles.collect(),
        })
    }

    /// Reads what [`AuthState::encode`] wrote. Never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let message: StateMessage = unversioned(bytes)?;
        let mut users = BTreeMap::new();
        for user in message.users {
            let kept = User {
                password: user.password.map(PasswordHash::from_text),
                roles: user.roles.into_iter().collect(),
            };
            if users.insert(user.name, kept).is_some() {
                return Err(DecodeError::Malformed);
            }
        }
        let mut roles = BTreeMap::new();
        for role in message.roles {
            let permissions: Vec<Permission> = role
                .permissions
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?;
            if !permissions.is_sorted_by_key(|permission| &permission.key)
                || roles.insert(role.name, Role { permissions }).is_some()
            {
                return Err(DecodeError::Malformed);
            }
        }
        Ok(Self::from_parts(
            message.enabled,
            message.revision,
            users,
            roles,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::command;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn states_survive_the_way_back(commands in prop::collection::vec(command(), 0..40)) {
            let mut state = AuthState::default();
            for command in commands {
                let _ = state.apply(command);
            }
            prop_assert_eq!(AuthState::decode(&state.encode()), Ok(state));
        }

        #[test]
        fn garbage_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = AuthState::decode(&bytes);
            let _ = AuthState::decode(&[&[1][..], &bytes].concat());
        }
    }

    #[test]
    fn a_fresh_state_takes_no_room() {
        assert!(AuthState::default().encode().is_empty());
        assert_eq!(AuthState::decode(&[]), Ok(AuthState::default()));
        assert_eq!(
            AuthState::decode(&[7]),
            Err(DecodeError::Unknown { version: 7 })
        );
    }
}
