//! Tests of the state as a whole, mostly on a simulated disk.

mod codec;
mod crash;
mod files;
mod stream;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use trivet_env::Env;
use trivet_mvcc::{
    Compare, CompareOp, CompareTarget, DeleteRangeOp, KeyRange, LeaseId, Op, PutOp, ReadValues,
    Revision, Txn, Version, WatchLogLimits,
};
use trivet_raft_node::{AppliedBatch, LogPosition, StateMachine};
use trivet_sim::{SimDisk, SimRng};

use super::{Command, Limits, Machine, OpenError, Outcome, Shared, StateConfig, open};

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

/// A log of all sorts of commands.
fn workload(seed: u64, entries: u64) -> Vec<AppliedBatch> {
    let rng = SimRng::new(seed);
    let mut revision = 1;
    (1..=entries)
        .map(|index| {
            let count = rng.below(4);
            let commands: Vec<Command> = (0..count)
                .map(|_| {
                    let key = format!("/registry/{}/{}", rng.below(3), rng.below(12));
                    let value = vec![b'a' + rng.below(26) as u8; rng.below(300) as usize];
                    revision += 1;
                    match rng.below(20) {
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
    leases: BTreeMap<LeaseId, (u64, Vec<Bytes>)>,
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
            .map(|lease| (lease.id, (lease.ttl_s, keys(lease.id))))
            .collect(),
        versions,
    }
}
