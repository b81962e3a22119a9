//! The state as the log sees it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use bytes::Bytes;
use trivet_etcd_auth::Caller;
use trivet_mvcc::{LeaseInfo, Values};
use trivet_raft_node::{AppliedBatch, LogPosition, SnapshotSource, StateMachine};

use super::auth;
use super::codec::DecodeError;
use super::command::{Command, CommandError, Outcome, Response};
use super::leases::LeaseChange;
use super::maintain::{self, Job};
use super::shared::{Inner, Shared};
use super::snapshot;

/// Applies the log to the state. Dropping it ends the background work.
pub struct Machine {
    shared: Arc<Shared>,
    worker: Option<Worker>,
}

struct Worker {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("applied", &self.shared.applied())
            .finish_non_exhaustive()
    }
}

impl Machine {
    pub(super) fn new(shared: Arc<Shared>, background: bool) -> io::Result<Self> {
        let worker = if background {
            let (jobs, received) = mpsc::channel();
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name("state-files".into())
                .spawn(move || maintain::run(&shared, &received))?;
            Some(Worker { jobs, thread })
        } else {
            None
        };
        Ok(Self { shared, worker })
    }

    /// Hands work to the thread; without one it happens here.
    fn ask(&self, job: Job) -> io::Result<()> {
        let done = match (&self.worker, job) {
            (Some(worker), job) => {
                // The thread ends early only when the state has failed; the next call finds it.
                drop(worker.jobs.send(job));
                return Ok(());
            }
            (None, Job::Checkpoint) => self.shared.write_checkpoint(),
            (None, Job::Maintain) => self.shared.maintain().map(drop),
        };
        done.inspect_err(|error| self.shared.fail(error))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(Worker { jobs, thread }) = self.worker.take() {
            drop(jobs);
            // A thread that panicked has said so.
            drop(thread.join());
        }
    }
}

impl StateMachine for Machine {
    fn applied(&self) -> LogPosition {
        self.shared.applied()
    }

    fn durable(&self) -> LogPosition {
        *self.shared.durable()
    }

    fn apply(&mut self, batch: &AppliedBatch) -> io::Result<Vec<Bytes>> {
        let mut commands = Vec::with_capacity(batch.commands.len());
        for bytes in &batch.commands {
            let decoded = Command::decode(bytes.clone()).and_then(|command| {
                match auth::from_the_future(&command) {
                    Some(error) => Err(error),
                    None => Ok(command),
                }
            });
            commands.push(match decoded {
                Ok(command) => Some(command),
                Err(DecodeError::Malformed) => None,
                // Members that know it have applied it; leaving it out here would end in two
                // different states.
                Err(error @ DecodeError::Unknown { .. }) => {
                    return Err(io::Error::new(io::ErrorKind::Unsupported, error));
                }
            });
        }
        let compacts = commands
            .iter()
            .flatten()
            .any(|command| matches!(command.inner(), Command::Compact { .. }));
        let bytes: usize = batch.commands.iter().map(Bytes::len).sum();
        self.shared.wait_for_room(bytes as u64)?;
        let mut inner = self.shared.write();
        inner.usable()?;
        if batch.position.index <= inner.applied.index {
            let (index, applied) = (batch.position.index, inner.applied.index);
            return Err(io::Error::other(format!(
                "entry {index} after entry {applied}"
            )));
        }
        let outcomes = match inner.apply(batch, commands) {
            Ok(outcomes) => outcomes,
            Err(error) => {
                drop(inner);
                self.shared.fail(&error);
                return Err(error);
            }
        };
        let (revision, cursor) = (inner.store.revision(), inner.lease_log.cursor());
        let side = inner.side.clone();
        self.shared.note_size(&inner);
        drop(inner);
        self.shared.counters.applied(&outcomes);
        self.shared.publish(revision, cursor, &side);
        if compacts {
            // The revision stays; whoever waits for the compaction has to look again.
            self.shared.revisions.send_modify(|_| {});
        }
        if compacts && self.worker.is_some() {
            self.ask(Job::Maintain)?;
        }
        Ok(outcomes.iter().map(Outcome::encode).collect())
    }

    fn checkpoint(&mut self, force: bool) -> io::Result<()> {
        let due = {
            let mut inner = self.shared.write();
            inner.usable()?;
            let limits = &self.shared.limits;
            let due = force
                || inner.bytes_since >= limits.checkpoint_bytes.max(2 * inner.checkpoint_bytes)
                || (inner.commands_since >= limits.checkpoint_commands
                    && inner.commands_since >= inner.store.view().index.len() as u64);
            if due {
                // Asked for once; the thread starts over when it gets to it.
                (inner.commands_since, inner.bytes_since) = (0, 0);
            }
            due
        };
        if due {
            self.ask(Job::Checkpoint)?;
        }
        if self.worker.is_none() {
            self.ask(Job::Maintain)
        } else {
            Ok(())
        }
    }

    fn snapshot(&mut self) -> io::Result<(LogPosition, Box<dyn SnapshotSource>)> {
        let inner = self.shared.read();
        inner.usable()?;
        let source = snapshot::Source::new(
            inner.store.view().clone(),
            inner.store.leases().iter().collect(),
            inner.side.clone(),
            inner.segments.table(),
        );
        Ok((inner.applied, Box::new(source)))
    }

    fn install(
        &mut self,
        position: LogPosition,
        chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> io::Result<()> {
        self.shared.install(position, chunks)
    }
}

impl Inner {
    fn apply(
        &mut self,
        batch: &AppliedBatch,
        commands: Vec<Option<Command>>,
    ) -> io::Result<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(commands.len());
        for command in commands {
            let result = match command {
                Some(command) => self.execute(command, batch.position.index)?,
                None => Err(CommandError::Malformed),
            };
            outcomes.push(Outcome {
                revision: self.store.revision(),
                result,
            });
        }
        // One write for all values of the entry.
        self.segments.flush()?;
        self.applied = batch.position;
        self.commands_since += batch.commands.len() as u64;
        self.bytes_since += batch
            .commands
            .iter()
            .map(|bytes| bytes.len() as u64)
            .sum::<u64>();
        Ok(outcomes)
    }

    pub(super) fn execute(
        &mut self,
        command: Command,
        index: u64,
    ) -> io::Result<Result<Response, CommandError>> {
        let (caller, command) = match command {
            Command::As { caller, command } => (caller, *command),
            command => (Caller::Anonymous, command),
        };
        let auth = &*self.side.auth;
        if auth.enabled()
            && let Err(error) = auth::authorize(auth, &caller, &command, self.store.leases())
        {
            return Ok(Err(error.into()));
        }
        if let Some(alarm) = self.side.alarms.forbid(&command) {
            return Ok(Err(CommandError::Alarm(alarm)));
        }
        let values: &mut dyn Values = &mut self.segments;
        Ok(match command {
            Command::Txn(txn) => self
                .store
                .txn(&txn, values)?
                .map(Response::Txn)
                .map_err(CommandError::from),
            Command::LeaseGrant { id, ttl_s } => match self.store.lease_grant(id, ttl_s) {
                Ok(()) => {
                    let remaining_s = 0;
                    self.lease_log.push(LeaseChange::Granted(LeaseInfo {
                        id,
                        ttl_s,
                        remaining_s,
                    }));
                    Ok(Response::LeaseGranted { id, ttl_s })
                }
                Err(error) => Err(error.into()),
            },
            Command::LeaseRevoke { id } => match self.store.lease_revoke(id) {
                Ok(deleted) => {
                    self.lease_log.push(LeaseChange::Revoked(id));
                    Ok(Response::LeaseRevoked { deleted })
                }
                Err(error) => Err(error.into()),
            },
            Command::Compact { revision } => self
                .store
                .compact(revision)
                .map(|()| Response::Compacted)
                .map_err(CommandError::from),
            Command::Alarm { action, alarm } => {
                let alarms = Arc::make_mut(&mut self.side.alarms);
                Ok(Response::Alarmed(alarms.change(action, alarm)))
            }
            Command::LeaseCheckpoint { remaining } => {
                for (id, remaining_s) in remaining {
                    // One that was revoked meanwhile needs no time.
                    self.store.lease_checkpoint(id, remaining_s);
                }
                Ok(Response::LeasesCheckpointed)
            }
            Command::Auth(payload) => auth::apply(&mut self.side.auth, &payload)
                .map(|(answer, tokens)| {
                    self.tokens.change(tokens, index);
                    Response::Auth { answer, index }
                })
                .map_err(CommandError::from),
            // Reading a command does not let one be within another.
            Command::As { .. } => Err(CommandError::Malformed),
        })
    }
}
