//! The library's state machine on top of [`StateMachine`].
//!
//! The state machine blocks, so it lives on a thread of its own; the library's task only feeds
//! it. Each proposal is answered as soon as its entry is applied.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::{mpsc, oneshot, watch};

use crate::api::{AppliedBatch, LogPosition, StateMachine};
use crate::consensus::fetch::Fetcher;
use crate::consensus::log::LogStore;
use crate::consensus::snapshot::SnapshotData;
use crate::consensus::{
    LogId, Responses, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, from_position,
    to_position,
};
use crate::failure::Failure;

type Entry = <TypeConfig as openraft::RaftTypeConfig>::Entry;

/// How many entries may wait for the thread.
const QUEUE_ENTRIES_MAX: usize = 256;

/// The state machine is offered a checkpoint at least after this many entries.
const OFFER_CHECKPOINT_ENTRIES: u64 = 256;

enum Job {
    Apply(Box<Entry>, Option<ApplyResponder<TypeConfig>>),
    /// Everything before it is applied when this is answered.
    Barrier(oneshot::Sender<io::Result<()>>),
    Snapshot(oneshot::Sender<io::Result<Snapshot>>),
    Install(SnapshotMeta, SnapshotData, oneshot::Sender<io::Result<()>>),
    Checkpoint {
        force: bool,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Put a snapshot of one of the members in `from`, or of any, in the place of the state.
    Resync {
        at_least: LogPosition,
        from: Vec<u64>,
        done: oneshot::Sender<io::Result<LogPosition>>,
    },
    Stop,
}

/// How far the state machine is; changes wake whoever waits for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Last entry applied, commands or not.
    pub(crate) applied: Option<LogId>,
    /// What survives a crash.
    pub(crate) durable: LogPosition,
}

/// A handle on the thread. Clones share it; the thread ends with the last one or when told to.
#[derive(Clone)]
pub(crate) struct MachineAdapter {
    jobs: mpsc::Sender<Job>,
    progress: Arc<watch::Sender<Progress>>,
    membership: Arc<watch::Sender<StoredMembership>>,
    /// Whether the library is up and a snapshot is one that is to be sent.
    running: Arc<std::sync::atomic::AtomicBool>,
}

/// Waits for the state machine's thread to end.
pub(crate) struct MachineThread(Option<std::thread::JoinHandle<()>>);

impl MachineThread {
    /// Blocks until the thread has ended; tell it to first.
    pub(crate) fn join(mut self) {
        if let Some(thread) = self.0.take() {
            // A panic was reported as the node's failure already.
            let _ = thread.join();
        }
    }
}

impl MachineAdapter {
    /// Starts the thread. `membership` is the last one recorded beside the log.
    pub(crate) fn start(
        machine: Box<dyn StateMachine>,
        membership: StoredMembership,
        log: LogStore,
        failure: Arc<Failure>,
        fetcher: impl FnOnce(watch::Receiver<StoredMembership>) -> Fetcher,
    ) -> io::Result<(Self, MachineThread)> {
        let (jobs, queue) = mpsc::channel(QUEUE_ENTRIES_MAX);
        let delivered = machine.applied();
        let progress = Arc::new(watch::Sender::new(Progress {
            applied: from_position(delivered),
            durable: machine.durable(),
        }));
        let membership = Arc::new(watch::Sender::new(membership));
        let running = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut thread = Thread {
            machine,
            queue,
            progress: progress.clone(),
            membership: membership.clone(),
            log,
            fetcher: fetcher(membership.subscribe()),
            running: running.clone(),
            delivered,
            since_checkpoint: 0,
            broken: None,
        };
        let thread = std::thread::Builder::new()
            .name("raft-apply".into())
            .spawn(move || {
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| thread.run()));
                match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        failure.set(&format_args!("the state machine failed: {error}"));
                    }
                    Err(_) => failure.set(&"the state machine panicked"),
                }
            })?;
        Ok((
            Self {
                jobs,
                progress,
                membership,
                running,
            },
            MachineThread(Some(thread)),
        ))
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The last membership applied here.
    pub(crate) fn membership(&self) -> StoredMembership {
        self.membership.borrow().clone()
    }

    /// From now on a snapshot is asked for to be sent: see [`RaftStateMachine::get_current_snapshot`].
    pub(crate) fn set_running(&self) {
        self.running
            .store(true, std::sync::atomic::Ordering::Release);
    }

    /// Offers the state machine a checkpoint, or asks for one.
    pub(crate) async fn checkpoint(&self, force: bool) -> io::Result<()> {
        self.ask(|done| Job::Checkpoint { force, done }).await
    }

    /// Puts a snapshot of another member, which reaches `at_least`, in the place of the state.
    pub(crate) async fn resync(
        &self,
        at_least: LogPosition,
        from: Vec<u64>,
    ) -> io::Result<LogPosition> {
        self.ask(|done| Job::Resync {
            at_least,
            from,
            done,
        })
        .await
    }

    /// A snapshot to be sent to whoever asked for it.
    pub(crate) async fn snapshot(&self) -> io::Result<Snapshot> {
        self.ask(Job::Snapshot).await
    }

    /// Lets the thread end once it has done what waits.
    pub(crate) async fn stop(&self) {
        // It is gone already if this fails.
        let _ = self.jobs.send(Job::Stop).await;
    }

    /// The membership as it is applied.
    pub(crate) fn watch_membership(&self) -> watch::Receiver<StoredMembership> {
        self.membership.subscribe()
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Job,
    ) -> io::Result<T> {
        let (done, wait) = oneshot::channel();
        self.jobs.send(job(done)).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }

    /// The metadata of what would survive a crash; all the library needs to purge the log.
    fn durable_meta(&self) -> Option<SnapshotMeta> {
        let last_log_id = from_position(self.progress.borrow().durable)?;
        Some(SnapshotMeta {
            last_log_id: Some(last_log_id),
            last_membership: self.membership(),
        })
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the state machine has stopped")
}

impl RaftStateMachine<TypeConfig> for MachineAdapter {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = DurableMark;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.progress.borrow().applied;
        Ok((applied, self.membership()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.jobs
                .send(Job::Apply(Box::new(entry), responder))
                .await
                .map_err(|_| gone())?;
        }
        self.ask(Job::Barrier).await
    }

    async fn get_snapshot_builder(&mut self) -> DurableMark {
        DurableMark {
            meta: self.durable_meta().unwrap_or_default(),
        }
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<DurableMark> {
        match self.durable_meta() {
            Some(meta) => Some(DurableMark { meta }),
            // Nothing but the founding membership, which is kept beside the log.
            None if force => {
                let last_log_id = self.progress.borrow().applied.filter(|id| id.index == 0);
                Some(DurableMark {
                    meta: SnapshotMeta {
                        last_log_id,
                        last_membership: self.membership(),
                    },
                })
            }
            None => None,
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let meta = meta.clone();
        self.ask(|done| Job::Install(meta, snapshot, done)).await
    }

    /// Before the library runs: what is on disk, so that nothing is installed over it. Later: a
    /// fresh image of the present state, because it is about to be sent to a member.
    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        if self.running.load(std::sync::atomic::Ordering::Acquire) {
            let snapshot = self.ask(Job::Snapshot).await?;
            return Ok(Some(snapshot).filter(|snapshot| snapshot.meta.last_log_id.is_some()));
        }
        Ok(self.durable_meta().map(|meta| Snapshot {
            meta,
            snapshot: SnapshotData::OnDisk,
        }))
    }
}

/// "Builds" a snapshot by naming what the state machine has made durable by itself.
pub(crate) struct DurableMark {
    meta: SnapshotMeta,
}

impl RaftSnapshotBuilder<TypeConfig> for DurableMark {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: SnapshotData::OnDisk,
        })
    }
}

struct Thread {
    machine: Box<dyn StateMachine>,
    queue: mpsc::Receiver<Job>,
    progress: Arc<watch::Sender<Progress>>,
    membership: Arc<watch::Sender<StoredMembership>>,
    log: LogStore,
    fetcher: Fetcher,
    running: Arc<std::sync::atomic::AtomicBool>,
    /// The last entry that came out of the log. After a resync the state is ahead of it, and the
    /// entries it has already are left out.
    delivered: LogPosition,
    since_checkpoint: u64,
    /// An apply failed; what follows must not be applied on top of it.
    broken: Option<String>,
}

impl Thread {
    fn run(&mut self) -> io::Result<()> {
        while let Some(job) = self.queue.blocking_recv() {
            match job {
                Job::Apply(entry, responder) => {
                    if self.broken.is_none()
                        && let Err(error) = self.apply(*entry, responder)
                    {
                        self.broken = Some(error.to_string());
                    }
                }
                Job::Barrier(done) => {
                    let result = self.intact().and_then(|()| self.offer_checkpoint(false));
                    let _ = done.send(result);
                }
                Job::Snapshot(done) => {
                    let result = self.snapshot();
                    let _ = done.send(result);
                }
                Job::Install(meta, snapshot, done) => {
                    let result = self.install(&meta, snapshot);
                    let _ = done.send(result);
                }
                Job::Resync {
                    at_least,
                    from,
                    done,
                } => {
                    let result = self.intact().and_then(|()| self.resync(at_least, &from));
                    let _ = done.send(result);
                }
                Job::Stop => return Ok(()),
                Job::Checkpoint { force, done } => {
                    let result = self.intact().and_then(|()| self.checkpoint(force));
                    let _ = done.send(result);
                }
            }
            if let Some(reason) = &self.broken {
                return Err(io::Error::other(reason.clone()));
            }
        }
        Ok(())
    }

    fn intact(&self) -> io::Result<()> {
        match &self.broken {
            Some(reason) => Err(io::Error::other(reason.clone())),
            None => Ok(()),
        }
    }

    fn apply(
        &mut self,
        entry: Entry,
        responder: Option<ApplyResponder<TypeConfig>>,
    ) -> io::Result<()> {
        let log_id = entry.log_id;
        let commands = match entry.payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Normal(commands) => commands.items,
            EntryPayload::Membership(membership) => {
                // A replay after a restart passes memberships older than the recorded one.
                if *self.membership.borrow().log_id() < Some(log_id) {
                    let stored = StoredMembership::new(Some(log_id), membership);
                    self.log.save_membership(&stored)?;
                    self.membership.send_replace(stored);
                }
                Vec::new()
            }
        };
        let position = to_position(&log_id);
        let mut responses = Vec::new();
        // Index 0 is the founding membership: "before everything" for the state machine. A state
        // that was fetched may have the entry already: then there is no answer to its commands.
        if log_id.index > self.machine.applied().index {
            responses = self.execute(&AppliedBatch { position, commands })?;
        }
        self.delivered = position;
        let durable = self.durable();
        self.progress.send_modify(|progress| {
            progress.applied = progress.applied.max(Some(log_id));
            progress.durable = durable;
        });
        if let Some(responder) = responder {
            responder.send(Responses(responses));
        }
        self.since_checkpoint += 1;
        if self.since_checkpoint >= OFFER_CHECKPOINT_ENTRIES {
            self.offer_checkpoint(false)?;
        }
        Ok(())
    }

    /// Applies commands. Where the disk gives wrong data back for it, the state is fetched from
    /// another member, and comes with the entry applied.
    fn execute(&mut self, batch: &AppliedBatch) -> io::Result<Vec<Bytes>> {
        match self.machine.apply(batch) {
            Ok(responses) if responses.len() != batch.commands.len() => {
                Err(io::Error::other(format!(
                    "{} answers to {} commands",
                    responses.len(),
                    batch.commands.len()
                )))
            }
            Err(error)
                if error.kind() == io::ErrorKind::InvalidData && self.fetcher.has_peers() =>
            {
                tracing::error!(%error, "the state of this member is damaged; fetching another member's");
                self.resync(batch.position, &[])?;
                Ok(Vec::new())
            }
            applied => applied,
        }
    }

    /// What may leave the log: nothing that has not come out of it yet.
    fn durable(&self) -> LogPosition {
        let durable = self.machine.durable();
        if durable.index > self.delivered.index {
            self.delivered
        } else {
            durable
        }
    }

    fn resync(&mut self, at_least: LogPosition, from: &[u64]) -> io::Result<LogPosition> {
        let at_least = at_least.max(self.machine.applied());
        let (meta, spool) = self.fetcher.fetch_blocking(at_least, from)?;
        let log_id = meta
            .last_log_id
            .ok_or_else(|| io::Error::other("the snapshot has no position"))?;
        // As for every install: the membership first.
        if self.membership.borrow().log_id() < meta.last_membership.log_id() {
            self.log.save_membership_now(&meta.last_membership)?;
            self.membership.send_replace(meta.last_membership);
        }
        let position = to_position(&log_id);
        self.machine.install(position, &mut spool.chunks())?;
        if !self.running.load(std::sync::atomic::Ordering::Acquire) {
            // The library has not looked yet: this is what it finds.
            self.delivered = position;
        }
        let durable = self.durable();
        self.progress.send_modify(|progress| {
            progress.applied = progress.applied.max(Some(log_id));
            progress.durable = durable;
        });
        tracing::info!(
            index = position.index,
            "the state was replaced by another member's"
        );
        Ok(position)
    }

    fn offer_checkpoint(&mut self, force: bool) -> io::Result<()> {
        if self.since_checkpoint == 0 && !force {
            return Ok(());
        }
        self.checkpoint(force)
    }

    fn checkpoint(&mut self, force: bool) -> io::Result<()> {
        self.since_checkpoint = 0;
        if let Err(error) = self.machine.checkpoint(force) {
            self.broken = Some(format!("checkpoint: {error}"));
            return Err(error);
        }
        let durable = self.durable();
        self.progress.send_if_modified(|progress| {
            let moved = progress.durable != durable;
            progress.durable = durable;
            moved
        });
        Ok(())
    }

    fn snapshot(&mut self) -> io::Result<Snapshot> {
        self.intact()?;
        let (position, source) = self.machine.snapshot()?;
        let meta = SnapshotMeta {
            last_log_id: from_position(position),
            last_membership: self.membership.borrow().clone(),
        };
        Ok(Snapshot {
            meta,
            snapshot: SnapshotData::Fresh(source),
        })
    }

    fn install(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        self.intact()?;
        let log_id = meta
            .last_log_id
            .ok_or_else(|| io::Error::other("the snapshot has no position"))?;
        // The membership first: one that is ahead of the state is harmless after a crash, one
        // that is behind it would make this member count wrong quorums.
        self.log.save_membership_now(&meta.last_membership)?;
        match snapshot {
            SnapshotData::Received(spool) => self
                .machine
                .install(to_position(&log_id), &mut spool.chunks())?,
            SnapshotData::Fresh(mut source) => {
                let mut chunks = std::iter::from_fn(|| source.next_chunk().transpose());
                self.machine.install(to_position(&log_id), &mut chunks)?;
            }
            SnapshotData::OnDisk => {
                return Err(io::Error::other(
                    "this snapshot is nothing that can be read",
                ));
            }
        }
        self.membership.send_replace(meta.last_membership.clone());
        self.delivered = to_position(&log_id);
        let durable = self.durable();
        self.progress.send_modify(|progress| {
            progress.applied = Some(log_id);
            progress.durable = durable;
        });
        Ok(())
    }
}
