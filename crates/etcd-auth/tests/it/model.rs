//! Random commands: permission checks against a naive model that keeps nothing worked out.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use trivet_etcd_auth::{
    Access, AuthCommand as C, AuthState, Caller, KeySpan, Need, PasswordHash, Permission,
};

const USERS: [&str; 3] = ["root", "alice", "bob"];
const ROLES: [&str; 3] = ["root", "r", "s"];

#[derive(Default)]
struct Model {
    users: BTreeMap<String, BTreeSet<String>>,
    roles: BTreeMap<String, BTreeMap<(Vec<u8>, Vec<u8>), Access>>,
}

impl Model {
    fn apply(&mut self, command: &C) {
        match command {
            C::UserAdd { user, .. } => {
                self.users.insert(user.clone(), BTreeSet::new());
            }
            C::UserDelete { user } => {
                self.users.remove(user);
            }
            C::UserGrantRole { user, role } => {
                self.users.get_mut(user).unwrap().insert(role.clone());
            }
            C::UserRevokeRole { user, role } => {
                self.users.get_mut(user).unwrap().remove(role);
            }
            C::RoleAdd { role } => {
                self.roles.insert(role.clone(), BTreeMap::new());
            }
            C::RoleDelete { role } => {
                self.roles.remove(role);
                for roles in self.users.values_mut() {
                    roles.remove(role);
                }
            }
            C::RoleGrantPermission { role, permission } => {
                self.roles.get_mut(role).unwrap().insert(
                    (permission.key.to_vec(), permission.range_end.to_vec()),
                    permission.access,
                );
            }
            C::RoleRevokePermission {
                role,
                key,
                range_end,
            } => {
                self.roles
                    .get_mut(role)
                    .unwrap()
                    .remove(&(key.to_vec(), range_end.to_vec()));
            }
            _ => {}
        }
    }

    /// Asks for every short key of the range by itself. Keys of the commands have one letter, so
    /// between two of them all keys are alike.
    fn allows(&self, user: &str, wanted: Access, span: (&[u8], &[u8])) -> bool {
        let Some(roles) = self.users.get(user) else {
            return false;
        };
        if roles.contains("root") {
            return true;
        }
        keys().filter(|key| holds(span, key)).all(|key| {
            roles
                .iter()
                .filter_map(|role| self.roles.get(role))
                .any(|role| {
                    role.iter().any(|((start, end), access)| {
                        let fits = *access == Access::ReadWrite || *access == wanted;
                        fits && holds((start, end), &key)
                    })
                })
        })
    }
}

/// Every key of up to two of these letters, and one behind them all.
fn keys() -> impl Iterator<Item = Vec<u8>> {
    let letters = [0, 1, b'a', b'b', b'c', b'd', b'e'];
    let one = letters.into_iter().map(|letter| vec![letter]);
    let two = letters
        .into_iter()
        .flat_map(move |first| letters.into_iter().map(move |second| vec![first, second]));
    one.chain(two).chain([vec![0xff]])
}

fn holds((start, end): (&[u8], &[u8]), key: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

fn range() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let letter = prop::sample::select(vec![b'a', b'b', b'c', b'd', b'e']);
    (letter.clone(), letter, 0..4).prop_map(|(one, other, kind)| {
        let (start, end) = (one.min(other), one.max(other));
        match kind {
            0 => (vec![start], vec![]),
            1 => (vec![start], vec![0]),
            // A range from a letter to itself would be the key in a request and empty in a role.
            _ => (vec![start], vec![end + 1]),
        }
    })
}

fn access() -> impl Strategy<Value = Access> {
    prop::sample::select(vec![Access::Read, Access::Write, Access::ReadWrite])
}

fn command() -> impl Strategy<Value = C> {
    let user = || prop::sample::select(&USERS[..]).prop_map(str::to_owned);
    let role = || prop::sample::select(&ROLES[..]).prop_map(str::to_owned);
    prop_oneof![
        3 => user().prop_map(|user| C::UserAdd { user, password: Some(PasswordHash::unusable()) }),
        1 => user().prop_map(|user| C::UserDelete { user }),
        4 => (user(), role()).prop_map(|(user, role)| C::UserGrantRole { user, role }),
        1 => (user(), role()).prop_map(|(user, role)| C::UserRevokeRole { user, role }),
        2 => role().prop_map(|role| C::RoleAdd { role }),
        1 => role().prop_map(|role| C::RoleDelete { role }),
        6 => (role(), access(), range()).prop_map(|(role, access, (key, range_end))| {
            C::RoleGrantPermission {
                role,
                permission: Permission {
                    access,
                    key: key.into(),
                    range_end: range_end.into(),
                },
            }
        }),
        2 => (role(), range()).prop_map(|(role, (key, range_end))| C::RoleRevokePermission {
            role,
            key: Bytes::from(key),
            range_end: Bytes::from(range_end),
        }),
        1 => Just(C::Enable),
        1 => Just(C::Disable),
    ]
}

proptest! {
    #[test]
    fn checks_are_those_of_the_naive_model(
        commands in prop::collection::vec(command(), 0..60),
        wanted in prop::collection::vec(range(), 1..8),
    ) {
        let mut state = AuthState::default();
        let mut model = Model::default();
        for command in commands {
            let (revision, users) = (state.revision(), state.users().count());
            match state.apply(command.clone()) {
                Ok(_) => model.apply(&command),
                Err(_) => prop_assert_eq!((revision, users), (state.revision(), state.users().count())),
            }
        }
        prop_assert_eq!(state.users().collect::<Vec<_>>(), model.users.keys().collect::<Vec<_>>());
        // What is read back from bytes judges alike.
        let again = AuthState::decode(&state.encode()).unwrap();
        prop_assert_eq!(&again, &state);
        for user in USERS {
            let caller = Caller::User {
                name: user.to_owned(),
                auth_revision: state.revision(),
            };
            for (key, end) in &wanted {
                let span = KeySpan::from_wire(key, end);
                let off = !state.enabled();
                prop_assert_eq!(
                    state.check(&caller, Need::Read(span)).is_ok(),
                    off || model.allows(user, Access::Read, (key, end)),
                    "{} reads {:?} {:?}", user, key, end
                );
                prop_assert_eq!(
                    state.check(&caller, Need::Write(span)).is_ok(),
                    off || model.allows(user, Access::Write, (key, end)),
                    "{} writes {:?} {:?}", user, key, end
                );
            }
        }
    }
}
