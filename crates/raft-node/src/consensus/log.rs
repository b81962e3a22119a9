//! The library's log storage on [`trivet_wal`].
//!
//! Entries, vote, membership and commit index go through one ordered stream. An entry can be
//! read as soon as `append` returns; the callback comes after the sync. The commit index and the
//! membership ride with the next write: losing them costs a little replay, never data.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use prost::Message as _;
use tokio::sync::oneshot;
use trivet_wal::{MetaKind, Position, Wal};

use crate::api::LogPosition;
use crate::consensus::codec;
use crate::consensus::{LogId, Membership, StoredMembership, TypeConfig, Vote};
use crate::failure::Failure;
use crate::peers::proto;

type Entry = <TypeConfig as openraft::RaftTypeConfig>::Entry;

/// Small values kept beside the entries. The numbers are part of the disk format.
pub(crate) const VOTE: MetaKind = MetaKind(1);
pub(crate) const COMMITTED: MetaKind = MetaKind(2);
pub(crate) const MEMBERSHIP: MetaKind = MetaKind(3);
pub(crate) const IDENTITY: MetaKind = MetaKind(4);

/// How many bytes one replication message carries; a larger entry goes alone.
const REPLICATE_BYTES_MAX: usize = 2 << 20;

/// How many bytes are read at once when the log is applied or replayed.
const REPLAY_BYTES_MAX: usize = 4 << 20;

/// The log of one member. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    wal: Wal,
    dir: Arc<Path>,
    failure: Arc<Failure>,
}

impl LogStore {
    pub(crate) fn new(wal: Wal, dir: PathBuf, failure: Arc<Failure>) -> Self {
        Self {
            wal,
            dir: dir.into(),
            failure,
        }
    }

    /// Where it lies.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.wal.size_bytes()
    }

    pub(crate) fn identity(&self) -> io::Result<Option<proto::Identity>> {
        let Some(bytes) = self.wal.meta(IDENTITY) else {
            return Ok(None);
        };
        let identity = proto::Identity::decode(bytes).map_err(io::Error::other)?;
        Ok(Some(identity))
    }

    pub(crate) async fn save_identity(&self, identity: &proto::Identity) -> io::Result<()> {
        self.put(IDENTITY, identity.encode_to_vec().into()).await
    }

    pub(crate) fn membership(&self) -> io::Result<Option<StoredMembership>> {
        let Some(bytes) = self.wal.meta(MEMBERSHIP) else {
            return Ok(None);
        };
        Ok(Some(codec::decode_stored_membership(bytes)?))
    }

    /// Remembers the last applied membership. Durable before any later purge is.
    pub(crate) fn save_membership(&self, membership: &StoredMembership) -> io::Result<()> {
        let saved = self
            .wal
            .put_meta_lazy(MEMBERSHIP, codec::encode_stored_membership(membership));
        self.checked(saved)
    }

    /// Remembers a membership, durable on return.
    pub(crate) fn save_membership_now(&self, membership: &StoredMembership) -> io::Result<()> {
        self.save_membership(membership)?;
        self.checked(self.wal.flush())
    }

    /// The last entry that is gone because the state has it.
    pub(crate) fn purged(&self) -> LogPosition {
        let purged = self.wal.state().purged;
        purged.map_or_else(LogPosition::default, |at| LogPosition {
            term: at.term,
            index: at.index,
        })
    }

    /// Gives up entries that the state contradicts: `applied` is committed, so a log with another
    /// entry in its place holds nothing from there on that ever counted, and before it nothing
    /// that the state does not have (Raft's rule for snapshots).
    pub(crate) async fn agree_with(&self, applied: LogPosition) -> io::Result<()> {
        let state = self.wal.state();
        let last = state.last.map_or(0, |last| last.index);
        if applied.index <= self.purged().index || applied.index > last {
            return Ok(());
        }
        let wal = self.wal.clone();
        let at = tokio::task::spawn_blocking(move || wal.read(applied.index..applied.index + 1, 1))
            .await
            .map_err(io::Error::other)?;
        let terms = self.checked(at)?;
        if terms
            .first()
            .is_some_and(|entry| entry.term == applied.term)
        {
            return Ok(());
        }
        tracing::warn!(
            index = applied.index,
            "the log has entries that were never committed; they are given up"
        );
        let (done, wait) = self.completion();
        let keep = state.purged.map(|purged| purged.index);
        self.checked(self.wal.truncate_after(keep, done))?;
        received(wait).await?;
        let (done, wait) = self.completion();
        let position = Position {
            index: applied.index,
            term: applied.term,
        };
        self.checked(self.wal.purge_up_to(position, done))?;
        received(wait).await
    }

    /// Flushes everything and stops the writer. Blocks.
    pub(crate) fn close(&self) -> io::Result<()> {
        self.wal.close().map_err(io::Error::from)
    }

    /// Appends a membership outside of consensus, durable on return.
    pub(crate) async fn append_membership(
        &self,
        log_id: &LogId,
        membership: Membership,
    ) -> io::Result<()> {
        let record = trivet_wal::Entry {
            index: log_id.index,
            term: log_id.leader_id.term,
            payload: codec::encode_payload(&EntryPayload::Membership(membership)),
        };
        let (done, wait) = self.completion();
        self.checked(self.wal.append(vec![record], done))?;
        received(wait).await
    }

    async fn put(&self, kind: MetaKind, value: Bytes) -> io::Result<()> {
        let (done, wait) = self.completion();
        self.checked(self.wal.put_meta(kind, value, done))?;
        received(wait).await
    }

    /// A callback for the log and the future it completes. A failure marks the node as failed
    /// before anybody is answered.
    fn completion(&self) -> (trivet_wal::Callback, oneshot::Receiver<io::Result<()>>) {
        let (send, wait) = oneshot::channel();
        let failure = self.failure.clone();
        let done = Box::new(move |result: trivet_wal::Result<()>| {
            if let Err(error) = &result {
                failure.set(error);
            }
            // Nobody waits any more when the node is going down.
            let _ = send.send(result.map_err(io::Error::from));
        });
        (done, wait)
    }

    fn checked<T>(&self, result: trivet_wal::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            if error.is_final() {
                self.failure.set(&error);
            }
            io::Error::from(error)
        })
    }

    /// A prefix of `start..end`: as much as fits `max_bytes`, at least one entry unless the
    /// range is empty.
    async fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let cached = match self.wal.read_cached(start..end, max_bytes) {
            // A log that was never purged may all the same begin later than asked for.
            Err(trivet_wal::Error::OutOfRange { first, .. })
                if self.wal.state().purged.is_none() && first > start =>
            {
                return Box::pin(self.read(first, end, max_bytes)).await;
            }
            cached => self.checked(cached)?,
        };
        let entries = match cached {
            Some(entries) => entries,
            None => {
                let this = self.clone();
                tokio::task::spawn_blocking(move || {
                    this.checked(this.wal.read(start..end, max_bytes))
                })
                .await
                .map_err(io::Error::other)??
            }
        };
        entries.into_iter().map(decode).collect()
    }

    /// Cuts a range down to what the log contains.
    fn clamp<RB: RangeBounds<u64>>(&self, range: &RB) -> (u64, u64) {
        let state = self.wal.state();
        let first = match (state.purged, state.last) {
            (Some(purged), _) => purged.index.saturating_add(1),
            (None, _) => 0,
        };
        let next = state.last.map_or(0, |last| last.index.saturating_add(1));
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        (start.max(first), end.min(next))
    }
}

fn decode(entry: trivet_wal::Entry) -> io::Result<Entry> {
    Ok(Entry {
        log_id: LogId::new_term_index(entry.term, entry.index),
        payload: codec::decode_payload(entry.payload)?,
    })
}

fn position(id: &LogId) -> Position {
    Position {
        index: id.index,
        term: id.leader_id.term,
    }
}

fn log_id(position: Position) -> LogId {
    LogId::new_term_index(position.term, position.index)
}

async fn received(wait: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
    wait.await.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::BrokenPipe,
            "the log is closed",
        ))
    })
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // Read piece by piece: a replay after a restart can be larger than memory.
        let (start, end) = self.clamp(&range);
        let this = self.clone();
        let chunks = stream::unfold(Some(start), move |next| {
            let this = this.clone();
            async move {
                let start = next?;
                if start >= end {
                    return None;
                }
                match this.read(start, end, REPLAY_BYTES_MAX).await {
                    Ok(entries) => {
                        let next = entries.last().map(|entry| entry.log_id.index + 1);
                        let items: Vec<_> = entries.into_iter().map(Ok).collect();
                        Some((stream::iter(items), next))
                    }
                    Err(error) => Some((stream::iter(vec![Err(error)]), None)),
                }
            }
        });
        Box::pin(futures_util::StreamExt::flatten(chunks))
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut start, end) = self.clamp(&range);
        let mut all = Vec::new();
        while start < end {
            let part = self.read(start, end, REPLAY_BYTES_MAX).await?;
            match part.last() {
                Some(last) => start = last.log_id.index + 1,
                None => break,
            }
            all.extend(part);
        }
        Ok(all)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let Some(bytes) = self.wal.meta(VOTE) else {
            return Ok(None);
        };
        Ok(Some(codec::decode_vote(bytes)?))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, REPLICATE_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.wal.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(log_id),
            last_log_id: state.last.map(log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.put(VOTE, codec::encode_vote(vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        match committed {
            Some(id) => self.checked(self.wal.put_meta_lazy(COMMITTED, codec::encode_log_id(&id))),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let Some(bytes) = self.wal.meta(COMMITTED) else {
            return Ok(None);
        };
        let committed = codec::decode_log_id(bytes)?;
        // After a crash the commit index can be ahead of nothing: it is written behind the
        // entries it covers. A log that was cut short all the same must not be replayed past
        // its end.
        let last = self.wal.state().last.map(log_id);
        Ok(last.map(|last| committed.min(last)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = entries
            .into_iter()
            .map(|entry| trivet_wal::Entry {
                index: entry.log_id.index,
                term: entry.log_id.leader_id.term,
                payload: codec::encode_payload(&entry.payload),
            })
            .collect();
        let failure = self.failure.clone();
        let done = Box::new(move |result: trivet_wal::Result<()>| {
            if let Err(error) = &result {
                failure.set(error);
            }
            callback.io_completed(result.map_err(io::Error::from));
        });
        self.checked(self.wal.append(records, done))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let (done, wait) = self.completion();
        self.checked(self.wal.truncate_after(last.map(|id| id.index), done))?;
        received(wait).await
    }

    async fn purge(&mut self, id: LogId) -> io::Result<()> {
        let (done, wait) = self.completion();
        self.checked(self.wal.purge_up_to(position(&id), done))?;
        received(wait).await
    }
}
