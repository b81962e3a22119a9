//! The rules of etcd, one by one.

use bytes::Bytes;
use trivet_etcd_auth::{
    Access, AuthAnswer, AuthCommand as C, AuthError as E, AuthState, Caller, KeySpan,
    MAX_STATE_BYTES, Need, PasswordHash, Permission, TokenChange,
};

struct Book(AuthState);

impl Book {
    fn new() -> Self {
        Self(AuthState::default())
    }

    /// With `root`, `alice` who has the role `r`, and the role without permissions; enabled.
    fn enabled() -> Self {
        let mut book = Self::new();
        for command in [
            user_add("root"),
            grant_role("root", "root"),
            user_add("alice"),
            role_add("r"),
            grant_role("alice", "r"),
            C::Enable,
        ] {
            book.ok(command);
        }
        book
    }

    #[track_caller]
    fn ok(&mut self, command: C) -> TokenChange {
        let before = self.0.revision();
        let quiet = matches!(command, C::Enable | C::Authenticate { .. });
        let (_, tokens) = self.0.apply(command).unwrap();
        assert_eq!(self.0.revision(), before + u64::from(!quiet));
        tokens
    }

    #[track_caller]
    fn refuses(&mut self, command: C, error: E) {
        let before = self.0.clone();
        assert_eq!(self.0.apply(command), Err(error));
        assert_eq!(self.0, before, "what is refused changes nothing");
    }

    fn caller(&self, name: &str) -> Caller {
        Caller::User {
            name: name.to_owned(),
            auth_revision: self.0.revision(),
        }
    }

    fn check(&self, name: &str, need: Need<'_>) -> Result<(), E> {
        self.0.check(&self.caller(name), need)
    }
}

fn hash(text: &str) -> PasswordHash {
    PasswordHash::from_text(text)
}

fn user_add(user: &str) -> C {
    C::UserAdd {
        user: user.to_owned(),
        password: Some(hash("h")),
    }
}

fn role_add(role: &str) -> C {
    C::RoleAdd {
        role: role.to_owned(),
    }
}

fn grant_role(user: &str, role: &str) -> C {
    C::UserGrantRole {
        user: user.to_owned(),
        role: role.to_owned(),
    }
}

fn revoke_role(user: &str, role: &str) -> C {
    C::UserRevokeRole {
        user: user.to_owned(),
        role: role.to_owned(),
    }
}

fn user_delete(user: &str) -> C {
    C::UserDelete {
        user: user.to_owned(),
    }
}

fn role_delete(role: &str) -> C {
    C::RoleDelete {
        role: role.to_owned(),
    }
}

fn grant(role: &str, access: Access, key: &'static str, range_end: &'static str) -> C {
    C::RoleGrantPermission {
        role: role.to_owned(),
        permission: permission(access, key, range_end),
    }
}

fn permission(access: Access, key: &'static str, range_end: &'static str) -> Permission {
    Permission {
        access,
        key: Bytes::from_static(key.as_bytes()),
        range_end: Bytes::from_static(range_end.as_bytes()),
    }
}

fn revoke(role: &str, key: &'static str, range_end: &'static str) -> C {
    C::RoleRevokePermission {
        role: role.to_owned(),
        key: Bytes::from_static(key.as_bytes()),
        range_end: Bytes::from_static(range_end.as_bytes()),
    }
}

fn authenticate(user: &str, prefix: &str) -> C {
    C::Authenticate {
        user: user.to_owned(),
        token_prefix: prefix.to_owned(),
    }
}

fn read<'a>(key: &'a str, end: &'a str) -> Need<'a> {
    Need::Read(KeySpan::from_wire(key.as_bytes(), end.as_bytes()))
}

fn write<'a>(key: &'a str, end: &'a str) -> Need<'a> {
    Need::Write(KeySpan::from_wire(key.as_bytes(), end.as_bytes()))
}

#[test]
fn enabling_takes_a_root_user_with_the_root_role() {
    let mut book = Book::new();
    assert_eq!(book.0.revision(), 1);
    book.refuses(C::Enable, E::RootUserMissing);
    book.ok(user_add("root"));
    book.refuses(C::Enable, E::RootRoleMissing);
    // The role is built in and need not be added first.
    book.ok(grant_role("root", "root"));
    book.ok(C::Enable);
    assert!(book.0.enabled());
    book.ok(C::Enable);
    assert_eq!(book.0.revision(), 3, "enabling is no change of users");
    assert_eq!(book.ok(C::Disable), TokenChange::ForgetAll);
    assert!(!book.0.enabled());
    assert_eq!(
        book.0.apply(C::Disable),
        Ok((AuthAnswer::Done, TokenChange::None))
    );
    assert_eq!(book.0.revision(), 4);
}

#[test]
fn users_and_roles_have_names_that_nobody_else_has() {
    let mut book = Book::new();
    book.refuses(user_add(""), E::UserEmpty);
    book.refuses(role_add(""), E::RoleEmpty);
    book.ok(user_add("alice"));
    book.ok(role_add("r"));
    book.refuses(user_add("alice"), E::UserExists);
    book.refuses(role_add("r"), E::RoleExists);
    book.refuses(user_delete("bob"), E::UserNotFound);
    book.refuses(role_delete("s"), E::RoleNotFound);
    book.refuses(grant_role("bob", "r"), E::UserNotFound);
    book.refuses(grant_role("alice", "s"), E::RoleNotFound);
    book.refuses(revoke_role("bob", "r"), E::UserNotFound);
    book.refuses(revoke_role("alice", "r"), E::RoleNotGranted);
    book.refuses(grant("s", Access::Read, "a", ""), E::RoleNotFound);
    book.refuses(revoke("s", "a", ""), E::RoleNotFound);
    book.refuses(
        C::UserChangePassword {
            user: "bob".to_owned(),
            password: hash("x"),
        },
        E::UserNotFound,
    );
}

#[test]
fn a_role_is_granted_once() {
    let mut book = Book::new();
    book.ok(user_add("alice"));
    for role in ["r2", "r1"] {
        book.ok(role_add(role));
        book.ok(grant_role("alice", role));
    }
    let before = book.0.clone();
    book.0.apply(grant_role("alice", "r1")).unwrap();
    assert_eq!(book.0, before, "not even another revision");
    let roles: Vec<_> = book.0.user_roles("alice").unwrap().collect();
    assert_eq!(roles, ["r1", "r2"]);
    book.ok(revoke_role("alice", "r1"));
    book.refuses(revoke_role("alice", "r1"), E::RoleNotGranted);
}

#[test]
fn a_deleted_role_leaves_its_users() {
    let mut book = Book::enabled();
    book.ok(grant("r", Access::Read, "a", ""));
    assert_eq!(book.check("alice", read("a", "")), Ok(()));
    book.ok(role_delete("r"));
    assert_eq!(book.0.user_roles("alice").unwrap().count(), 0);
    assert_eq!(book.check("alice", read("a", "")), Err(E::Denied));
    // Another role of that name is another role.
    book.ok(role_add("r"));
    book.ok(grant("r", Access::Read, "a", ""));
    assert_eq!(book.check("alice", read("a", "")), Err(E::Denied));
}

#[test]
fn the_administrator_stays_while_it_is_needed() {
    let mut book = Book::enabled();
    book.ok(role_add("root"));
    book.refuses(user_delete("root"), E::InvalidManagement);
    book.refuses(role_delete("root"), E::InvalidManagement);
    book.refuses(revoke_role("root", "root"), E::InvalidManagement);
    book.ok(grant_role("alice", "root"));
    book.ok(revoke_role("alice", "root"));
    book.ok(C::Disable);
    book.ok(revoke_role("root", "root"));
    book.ok(role_delete("root"));
    book.ok(user_delete("root"));
    book.refuses(C::Enable, E::RootUserMissing);
}

#[test]
fn permissions_are_kept_per_exact_range_in_order_of_keys() {
    let mut book = Book::new();
    book.ok(role_add("r"));
    book.ok(grant("r", Access::Read, "b", "c"));
    book.ok(grant("r", Access::Write, "b", ""));
    book.ok(grant("r", Access::Write, "a", "\0"));
    book.ok(grant("r", Access::ReadWrite, "b", "c"));
    assert_eq!(
        book.0.role_permissions("r").unwrap(),
        [
            permission(Access::Write, "a", "\0"),
            permission(Access::ReadWrite, "b", "c"),
            permission(Access::Write, "b", ""),
        ]
    );
    book.refuses(revoke("r", "b", "d"), E::PermissionNotGranted);
    book.refuses(revoke("r", "a", ""), E::PermissionNotGranted);
    book.ok(revoke("r", "b", "c"));
    book.refuses(revoke("r", "b", "c"), E::PermissionNotGranted);
    assert_eq!(book.0.role_permissions("r").unwrap().len(), 2);
}

#[test]
fn permissions_of_all_roles_add_up() {
    let mut book = Book::enabled();
    book.ok(role_add("s"));
    book.ok(grant_role("alice", "s"));
    book.ok(grant("r", Access::ReadWrite, "a", "c"));
    book.ok(grant("s", Access::Read, "c", "e"));
    assert_eq!(book.check("alice", read("a", "e")), Ok(()));
    assert_eq!(book.check("alice", write("a", "e")), Err(E::Denied));
    assert_eq!(book.check("alice", write("b", "")), Ok(()));
    assert_eq!(book.check("alice", write("c", "")), Err(E::Denied));
    assert_eq!(book.check("alice", read("a", "\0")), Err(E::Denied));
    book.ok(grant("s", Access::Read, "e", "\0"));
    assert_eq!(book.check("alice", read("a", "\0")), Ok(()));
    assert_eq!(book.check("alice", Need::Admin), Err(E::Denied));
    assert_eq!(book.check("root", write("\0", "\0")), Ok(()));
    assert_eq!(book.check("root", Need::Admin), Ok(()));
}

#[test]
fn who_may_ask_what() {
    let mut book = Book::enabled();
    let needs = [
        read("a", ""),
        write("a", ""),
        Need::User,
        Need::Admin,
        Need::UserInfo("alice"),
        Need::RoleInfo("r"),
    ];
    for need in needs {
        assert_eq!(book.0.check(&Caller::Anonymous, need), Err(E::UserEmpty));
        assert_eq!(book.check("", need), Err(E::UserEmpty));
        assert_eq!(book.check("nobody", need), Err(E::Denied));
        assert_eq!(book.0.check(&Caller::Root, need), Ok(()));
        assert_eq!(book.check("root", need), Ok(()));
    }
    assert_eq!(book.check("alice", Need::User), Ok(()));
    assert_eq!(book.check("alice", Need::UserInfo("alice")), Ok(()));
    assert_eq!(book.check("alice", Need::UserInfo("root")), Err(E::Denied));
    assert_eq!(book.check("alice", Need::RoleInfo("r")), Ok(()));
    assert_eq!(book.check("alice", Need::RoleInfo("root")), Err(E::Denied));
    book.ok(C::Disable);
    for need in needs {
        assert_eq!(book.0.check(&Caller::Anonymous, need), Ok(()));
        assert_eq!(book.check("nobody", need), Ok(()));
    }
}

#[test]
fn permissions_looked_up_before_a_change_are_too_old() {
    let mut book = Book::enabled();
    book.ok(grant("r", Access::ReadWrite, "a", ""));
    let (alice, root) = (book.caller("alice"), book.caller("root"));
    assert_eq!(book.0.check(&alice, write("a", "")), Ok(()));
    book.ok(role_add("unrelated"));
    assert_eq!(book.0.check(&alice, write("a", "")), Err(E::OldRevision));
    assert_eq!(book.0.check(&alice, read("a", "")), Err(E::OldRevision));
    assert_eq!(book.0.check(&root, read("a", "")), Err(E::OldRevision));
    // An administrator's commands are not: each of them would refuse the next.
    assert_eq!(book.0.check(&root, Need::Admin), Ok(()));
    assert_eq!(book.check("alice", write("a", "")), Ok(()));
}

#[test]
fn passwords_and_tokens() {
    let mut book = Book::enabled();
    let assigned = book.0.apply(authenticate("alice", "abc")).unwrap();
    assert_eq!(
        assigned,
        (
            AuthAnswer::Authenticated {
                auth_revision: book.0.revision()
            },
            TokenChange::Assign {
                user: "alice".to_owned(),
                prefix: "abc".to_owned()
            }
        )
    );
    assert_eq!(book.ok(authenticate("alice", "")), TokenChange::None);
    book.refuses(authenticate("bob", "abc"), E::Failed);
    book.ok(C::UserAdd {
        user: "certificate".to_owned(),
        password: None,
    });
    book.refuses(authenticate("certificate", "abc"), E::Failed);
    let change = |user: &str| C::UserChangePassword {
        user: user.to_owned(),
        password: hash("new"),
    };
    let forgotten = TokenChange::ForgetUser("alice".to_owned());
    assert_eq!(book.ok(change("alice")), forgotten);
    assert_eq!(book.0.user_password("alice"), Some(Some(&hash("new"))));
    book.ok(change("certificate"));
    assert_eq!(book.0.user_password("certificate"), Some(None));
    // Roles do not void tokens.
    assert_eq!(book.ok(revoke_role("alice", "r")), TokenChange::None);
    assert_eq!(book.ok(user_delete("alice")), forgotten);
    assert_eq!(book.0.user_password("alice"), None);
    book.ok(C::Disable);
    book.refuses(authenticate("root", "abc"), E::NotEnabled);
}

#[test]
fn there_is_a_limit_to_everything() {
    let mut book = Book::new();
    let name = |number: usize| format!("{number}{}", "x".repeat(1 << 20));
    for number in 0..MAX_STATE_BYTES / ((1 << 20) + 100) {
        book.ok(role_add(&name(number)));
    }
    book.refuses(role_add(&name(99)), E::TooLarge);
    book.ok(role_delete(&name(0)));
    book.ok(role_add(&name(99)));
}

#[test]
fn debug_shows_no_password() {
    let mut book = Book::new();
    let command = C::UserAdd {
        user: "alice".to_owned(),
        password: Some(hash("top-secret")),
    };
    assert!(!format!("{command:?}").contains("top-secret"));
    book.ok(command);
    assert!(!format!("{:?}", book.0).contains("top-secret"));
}
