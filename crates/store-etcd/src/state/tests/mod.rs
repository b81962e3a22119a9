//! Tests of the state as a whole, mostly on a simulated disk.

mod auth;
mod codec;
mod crash;
mod files;
mod side;
mod stream;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use trivet_env::Env;
use trivet_etcd_auth::{AuthCommand, AuthState, Caller};
use trivet_mvcc::{
    Compare, CompareOp, CompareTarget, DeleteRangeOp, KeyRange, LeaseId, Op, PutOp, ReadValues,
    Revision, Txn, Version, WatchLogLimits,
};
use trivet_raft_node::{AppliedBatch, LogPosition, StateMachine};
use trivet_sim::{SimDisk, SimRng};

use super::{
    Alarm, AlarmAction, AlarmMember, Alarms, Command, Limits, Machine, OpenError, Outcome, Shared,
    StateConfig, open,
};

/// Small enough that a short workload meets every limit.
fn small() -> Limits {
    Limits {
        segment_bytes: 2048,
        checkpoint_bytes: 1500,
        checkpoint_commands: 20,
        watch_log: WatchLogLimits {
            bytes: 4096,
            revisions: 16,
        },
    }
}

fn config(disk: &SimDisk, limits: Limits) -> StateConfig {
    let env = Env {
        disk: Arc::new(disk.clone()),
        ..Env::real()
    };
    StateConfig {
        env,
        dir: PathBuf::from("/data/state"),
        background: false,
        limits,
    }
}

fn open_on(disk: &SimDisk) -> Result<(Machine, Arc<Shared>), OpenError> {
    open(config(disk, small()))
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Command {
    Command::Txn(Txn::single(Op::Put(PutOp::new(key, value))))
}

fn delete(range: KeyRange) -> Command {
    Command::Txn(Txn::single(Op::DeleteRange(DeleteRangeOp {
        range,
        prev_kv: true,
    })))
}

/// A log entry of such commands.
fn entry(index: u64, commands: &[Command]) -> AppliedBatch {
    let commands = commands.iter().map(Command::encode).collect();
    AppliedBatch {
        position: LogPosition {
            term: 1 + index / 50,
            index,
        },
        commands,
    }
}

fn apply(machine: &mut Machine, index: u64, commands: &[Command]) -> Vec<Outcome> {
    let answers = machine.apply(&entry(index, commands)).unwrap();
    answers
        .into_iter()
        .map(|answer| Outcome::decode(answer).unwrap())
        .collect()
}

fn alarm(rng: &SimRng) -> AlarmMember {
    AlarmMember {
        alarm: [Alarm::NoSpace, Alarm::Corrupt][usize::from(rng.below(4) == 0)],
        member: rng.below(2),
    }
}

/// A log of all sorts of commands.
fn workload(seed: u64, entries: u64) -> Vec<AppliedBatch> {
    let rng = SimRng::new(seed);
    let (mut revision, mut raised) = (1, Vec::new());
    (1..=entries)
        .map(|index| {
            let count = rng.below(4);
            // No alarm lasts for long: everything else would be refused.
            let ended: Vec<Command> = std::mem::take(&mut raised)
                .into_iter()
                .map(|alarm| Command::Alarm {
                    action: AlarmAction::Deactivate,
                    alarm,
                })
                .collect();
            let mut commands: Vec<Command> = (0..count)
                .map(|_| {
                    let key = format!("/registry/{}/{}", rng.below(3), rng.below(12));
                    let value = vec![b'a' + rng.below(26) as u8; rng.below(300) as usize];
                    revision += 1;
                    match rng.below(22) {
                        20 if index < entries => {
                            let alarm = alarm(&rng);
                            raised.push(alarm);
                            let action = AlarmAction::Activate;
                            Command::Alarm { action, alarm }
                        }
                        21 if rng.below(2) == 0 => {
                            let name = format!("name{}", rng.below(5));
                            let command = match rng.below(4) {
                                0 => AuthCommand::RoleAdd { role: name },
                                1 => AuthCommand::UserAdd {
                                    user: name,
                                    password: None,
                                },
                                2 => AuthCommand::UserDelete { user: name },
                                _ => AuthCommand::UserGrantRole {
                                    user: name,
                                    role: format!("name{}", rng.below(5)),
                                },
                            };
                            Command::Auth(command.encode())
                        }
                        21 => Command::As {
                            caller: Caller::User {
                                name: "root".to_owned(),
                                auth_revision: rng.below(5),
                            },
                            command: Box::new(Command::LeaseCheckpoint {
                                remaining: (1..=3).map(|id| (LeaseId(id), rng.below(60))).collect(),
                            }),
                        },
                        0 => Command::LeaseGrant {
                            id: LeaseId(1 + rng.below(3) as i64),
                            ttl_s: 60,
                        },
                        1 => Command::LeaseRevoke {
                            id: LeaseId(1 + rng.below(3) as i64),
                        },
                        2 => Command::Compact {
                            revision: Revision(revision * rng.below(8) / 12),
                        },
                        3 | 4 => delete(KeyRange::Key(key.into())),
                        5 => delete(KeyRange::prefix(key.into())),
                        6 => {
                            let lease = Some(LeaseId(1 + rng.below(3) as i64));
                            let op = PutOp {
                                lease,
                                prev_kv: true,
                                ..PutOp::new(key, value)
                            };
                            Command::Txn(Txn::single(Op::Put(op)))
                        }
                        7 => Command::Txn(Txn {
                            compare: vec![Compare {
                                range: KeyRange::Key(key.clone().into()),
                                op: CompareOp::Equal,
                                target: CompareTarget::Mod(0),
                            }],
                            success: vec![
                                Op::Put(PutOp::new(key, value)),
                                Op::Put(PutOp::new("other", "x")),
                            ],
                            failure: vec![Op::Put(PutOp::new("lost", "y"))],
                        }),
                        _ => put(key, value),
                    }
                })
                .collect();
            commands.extend(ended);
            entry(index, &commands)
        })
        .collect()
}

/// Everything that is replicated, with a checksum for each value; without where it lies.
#[derive(Debug, PartialEq, Eq)]
struct Dump {
    applied: LogPosition,
    revision: Revision,
    compacted: Option<Revision>,
    /// Time to live, time left, keys.
    leases: BTreeMap<LeaseId, (u64, u64, Vec<Bytes>)>,
    alarms: Alarms,
    auth: AuthState,
    versions: Vec<(Bytes, Version, u32)>,
}

fn dump(shared: &Shared) -> Dump {
    let inner = shared.read();
    let view = inner.store.view();
    let compacted = view.compact_revision().0;
    let mut versions = Vec::new();
    for entry in view.index.entries() {
        for version in entry.uncompacted(compacted) {
            let value = inner.segments.read_any(version.location).unwrap();
            let location = trivet_mvcc::Location::EMPTY;
            let sum = crc32c::crc32c(&value);
            versions.push((
                Bytes::copy_from_slice(entry.key),
                Version {
                    location,
                    ..version
                },
                sum,
            ));
        }
    }
    let leases = inner.store.leases();
    let keys = |id| leases.keys(id).unwrap();
    Dump {
        applied: inner.applied,
        revision: view.revision,
        compacted: view.compacted,
        leases: leases
            .iter()
            .map(|lease| (lease.id, (lease.ttl_s, lease.remaining_s, keys(lease.id))))
            .collect(),
        alarms: (*inner.side.alarms).clone(),
        auth: (*inner.side.auth).clone(),
        versions,
    }
}
