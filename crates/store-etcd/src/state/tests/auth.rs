//! Commands in somebody's name, judged when they are applied.

use trivet_etcd_auth::{Access, AuthError, Permission};

use super::*;
use crate::state::{CommandError, Response};

/// Callers as of the newest revision of users and roles.
fn user(shared: &Shared, name: &str) -> Caller {
    Caller::User {
        name: name.to_owned(),
        auth_revision: shared.auth().revision(),
    }
}

fn auth(command: &AuthCommand) -> Command {
    Command::Auth(command.encode())
}

/// `root`, and `alice` who may write `a` to `c`; enabled.
fn commands() -> Vec<Command> {
    let (alice, role, root) = ("alice".to_owned(), "r".to_owned(), "root".to_owned());
    [
        AuthCommand::UserAdd {
            user: root.clone(),
            password: Some(trivet_etcd_auth::PasswordHash::unusable()),
        },
        AuthCommand::UserGrantRole {
            user: root.clone(),
            role: root,
        },
        AuthCommand::UserAdd {
            user: alice.clone(),
            password: Some(trivet_etcd_auth::PasswordHash::unusable()),
        },
        AuthCommand::RoleAdd { role: role.clone() },
        AuthCommand::RoleGrantPermission {
            role: role.clone(),
            permission: Permission {
                access: Access::Write,
                key: "a".into(),
                range_end: "c".into(),
            },
        },
        AuthCommand::UserGrantRole { user: alice, role },
        AuthCommand::Enable,
    ]
    .iter()
    .map(auth)
    .collect()
}

struct Bench {
    machine: Machine,
    shared: Arc<Shared>,
    index: u64,
}

impl Bench {
    fn enabled() -> Self {
        let (mut machine, shared) = open_on(&SimDisk::new()).unwrap();
        for outcome in apply(&mut machine, 1, &commands()) {
            outcome.result.unwrap();
        }
        assert!(shared.auth_enabled());
        Self {
            machine,
            shared,
            index: 1,
        }
    }

    fn run(&mut self, command: Command) -> Result<Response, CommandError> {
        self.index += 1;
        let mut outcomes = apply(&mut self.machine, self.index, &[command]);
        outcomes.remove(0).result
    }

    fn run_as(&mut self, name: &str, command: Command) -> Result<Response, CommandError> {
        let caller = match name {
            "" => Caller::Root,
            name => user(&self.shared, name),
        };
        self.run(Command::As {
            caller,
            command: Box::new(command),
        })
    }

    #[track_caller]
    fn denies(&mut self, name: &str, command: Command, why: AuthError) {
        let before = self.shared.revision();
        assert_eq!(
            self.run_as(name, command),
            Err(CommandError::Auth(why)),
            "{name}"
        );
        assert_eq!(self.shared.revision(), before);
    }
}

fn leased(key: &'static str, lease: i64) -> Command {
    let op = PutOp {
        lease: Some(LeaseId(lease)),
        ..PutOp::new(key, "v")
    };
    Command::Txn(Txn::single(Op::Put(op)))
}

#[test]
fn nobody_writes_once_callers_have_to_be_known() {
    let mut bench = Bench::enabled();
    let empty = Err(CommandError::Auth(AuthError::UserEmpty));
    for command in [
        put("a", "v"),
        delete(KeyRange::Key("a".into())),
        Command::Compact {
            revision: Revision(1),
        },
        Command::LeaseGrant {
            id: LeaseId(1),
            ttl_s: 9,
        },
        Command::LeaseRevoke { id: LeaseId(1) },
        Command::LeaseCheckpoint {
            remaining: Vec::new(),
        },
        auth(&AuthCommand::Disable),
        Command::Auth(Bytes::from_static(b"\x01\xff")),
    ] {
        assert_eq!(bench.run(command.clone()), empty, "{command:?}");
        let named = Command::As {
            caller: Caller::Anonymous,
            command: Box::new(command),
        };
        assert_eq!(bench.run(named), empty);
    }
    bench.run_as("", put("anything", "v")).unwrap();
    bench.run_as("root", put("anything", "v")).unwrap();
    bench.run_as("", auth(&AuthCommand::Disable)).unwrap();
    assert!(!bench.shared.auth_enabled());
    bench.run(put("a", "v")).unwrap();
}

#[test]
fn users_write_what_they_may() {
    let mut bench = Bench::enabled();
    let denied = AuthError::Denied;
    bench.run_as("alice", put("a", "v")).unwrap();
    bench.denies("alice", put("c", "v"), denied);
    bench.denies("mallory", put("a", "v"), denied);
    let delete = |range, prev_kv| {
        let op = DeleteRangeOp { range, prev_kv };
        Command::Txn(Txn::single(Op::DeleteRange(op)))
    };
    let within = || KeyRange::prefix("a".into());
    bench.run_as("alice", delete(within(), false)).unwrap();
    bench.denies("alice", delete(within(), true), denied);
    bench.denies("alice", delete(KeyRange::From("a".into()), false), denied);
    let read_back = Command::Txn(Txn::single(Op::Put(PutOp {
        prev_kv: true,
        ..PutOp::new("a", "v")
    })));
    bench.denies("alice", read_back, denied);
    let peek = Command::Txn(Txn {
        compare: vec![Compare {
            range: KeyRange::Key("a".into()),
            op: CompareOp::Equal,
            target: CompareTarget::Mod(0),
        }],
        success: vec![Op::Put(PutOp::new("a", "v"))],
        failure: Vec::new(),
    });
    bench.denies("alice", peek, denied);
    let inner = Txn::single(Op::Txn(Txn::single(Op::Put(PutOp::new("c", "v")))));
    bench.denies("alice", Command::Txn(inner), denied);
    let compact = Command::Compact {
        revision: Revision(1),
    };
    bench.denies("alice", compact, denied);
    bench.denies("alice", auth(&AuthCommand::Disable), denied);
    // Permissions from before the last change do not count, whatever they were.
    let old = user(&bench.shared, "alice");
    let role = "new".to_owned();
    bench
        .run_as("root", auth(&AuthCommand::RoleAdd { role }))
        .unwrap();
    let stale = bench.run(Command::As {
        caller: old,
        command: Box::new(put("a", "v")),
    });
    assert_eq!(stale, Err(CommandError::Auth(AuthError::OldRevision)));
}

#[test]
fn a_lease_takes_leave_for_all_of_its_keys() {
    let mut bench = Bench::enabled();
    for id in [1, 2] {
        let id = LeaseId(id);
        bench
            .run_as("alice", Command::LeaseGrant { id, ttl_s: 9 })
            .unwrap();
    }
    bench.run_as("", leased("secret", 1)).unwrap();
    bench.run_as("alice", leased("a", 2)).unwrap();
    bench.denies("alice", leased("a", 1), AuthError::Denied);
    let revoke = |id| Command::LeaseRevoke { id: LeaseId(id) };
    bench.denies("alice", revoke(1), AuthError::Denied);
    bench.denies("mallory", revoke(2), AuthError::Denied);
    bench.run_as("alice", revoke(2)).unwrap();
    bench.run_as("", revoke(1)).unwrap();
}

#[test]
fn tokens_follow_the_log_and_are_not_given_out_twice() {
    let mut bench = Bench::enabled();
    let login = || {
        auth(&AuthCommand::Authenticate {
            user: "alice".to_owned(),
            token_prefix: "letters".to_owned(),
        })
    };
    let answered = bench.run(login()).unwrap();
    assert!(matches!(answered, Response::Auth { index: 2, .. }));
    let tokens = bench.shared.tokens().clone();
    assert_eq!(tokens.user("letters.2").as_deref(), Some("alice"));
    assert_eq!(tokens.user("letters.1"), None);
    // After a restart the end of the log comes once more.
    tokens.forget_through(3);
    bench.run(login()).unwrap();
    assert_eq!(tokens.user("letters.3"), None);
    bench.run(login()).unwrap();
    assert_eq!(tokens.user("letters.4").as_deref(), Some("alice"));
    let remove = AuthCommand::UserDelete {
        user: "alice".to_owned(),
    };
    bench.run_as("root", auth(&remove)).unwrap();
    assert_eq!(tokens.user("letters.4"), None);
}

#[test]
fn a_snapshot_brings_users_and_voids_tokens() {
    let disk = SimDisk::new();
    let (mut machine, shared) = open_on(&disk).unwrap();
    apply(&mut machine, 1, &commands());
    let (position, mut source) = machine.snapshot().unwrap();
    let mut chunks = std::iter::from_fn(|| source.next_chunk().transpose());
    let mut behind = Bench::enabled();
    let login = auth(&AuthCommand::Authenticate {
        user: "alice".to_owned(),
        token_prefix: "letters".to_owned(),
    });
    behind.run_as("", auth(&AuthCommand::Disable)).unwrap();
    behind.run_as("", auth(&AuthCommand::Enable)).unwrap();
    behind.run(login).unwrap();
    behind.machine.install(position, &mut chunks).unwrap();
    assert_eq!(behind.shared.auth(), shared.auth());
    assert!(behind.shared.auth_enabled());
    assert_eq!(behind.shared.tokens().user("letters.4"), None);
}

#[test]
fn an_auth_command_of_a_later_version_stops_the_member() {
    let (mut machine, _) = open_on(&SimDisk::new()).unwrap();
    let batch = entry(1, &[Command::Auth(Bytes::from_static(b"\x09future"))]);
    let error = machine.apply(&batch).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
}
