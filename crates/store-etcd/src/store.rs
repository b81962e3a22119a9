//! The store as a control plane uses it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use tokio::sync::watch;
use trivet_datastore::{
    Cluster, Datastore, DeleteRequest, Effect, Error, Expect, ExportItem, ExportStream, Lease,
    LeaseId, PutRequest, RangePage, RangeRequest, Result, Revision, StoreStatus, WatchBatch,
    WatchRequest, WatchStream, WriteOutcome,
};
use trivet_etcd_auth::Caller;
use trivet_mvcc::{
    Compare, CompareOp, CompareTarget, DeleteRangeOp, KeyRange, Op, OpResult, PutOp, RangeOp, Txn,
};

use crate::backend::NAME;
use crate::engine::{Engine, unexpected};
use crate::failure::Failure;
use crate::lease::{Question, decode_time};
use crate::members::Members;
use crate::service::wire;
use crate::state::{Command, Export, Response, WatchError, WatchOp, Watcher};

/// An open store: one member, alone or of a cluster. Made by [`crate::open`].
pub struct EtcdStore {
    pub(crate) engine: Arc<Engine>,
    members: Arc<Members>,
    client_addresses: Vec<SocketAddr>,
    serving: watch::Receiver<bool>,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore")
            .field("member_id", &format_args!("{:x}", self.engine.member_id))
            .field("client_addresses", &self.client_addresses)
            .finish_non_exhaustive()
    }
}

impl EtcdStore {
    pub(crate) fn new(
        engine: Arc<Engine>,
        client_addresses: Vec<SocketAddr>,
        serving: watch::Receiver<bool>,
    ) -> Self {
        Self {
            members: Arc::new(Members::new(engine.clone())),
            engine,
            client_addresses,
            serving,
        }
    }

    /// The addresses on which etcd clients are served, in the order they were asked for; tells
    /// the port where 0 was.
    pub fn client_addresses(&self) -> &[SocketAddr] {
        &self.client_addresses
    }

    /// Resolves once clients are served. See [`Manner`](crate::Manner) for what that waits for;
    /// `false` when the member stopped before.
    pub async fn serving(&self) -> bool {
        self.serving.clone().wait_for(|yes| *yes).await.is_ok()
    }

    /// Resolves when the member stopped serving by itself (its disk failed, or it was removed
    /// from the cluster) with the reason, or with `None` when it was shut down.
    pub async fn stopped(&self) -> Option<String> {
        self.engine.node.stopped().await
    }

    fn open_for_calls(&self) -> Result<()> {
        if self.engine.is_stopping() {
            return Err(Error::Unavailable {
                reason: "the store is shut down".to_owned(),
                retry_after: None,
                effect: Effect::None,
            });
        }
        Ok(())
    }

    /// Runs a write that depends on what the key is now.
    async fn write(&self, key: &Bytes, expect: Expect, write: Op) -> Result<WriteOutcome> {
        let key_range = KeyRange::Key(key.clone());
        let (compare, failure) = match expect {
            Expect::Any => (Vec::new(), Vec::new()),
            Expect::Absent | Expect::ModRevision(_) => {
                let target = match expect {
                    // An absent key compares as 0, which must not pass for a revision of it.
                    Expect::ModRevision(Revision(0)) => CompareTarget::Mod(-1),
                    Expect::ModRevision(revision) => CompareTarget::Mod(wire(revision)),
                    _ => CompareTarget::Create(0),
                };
                let compare = Compare {
                    range: key_range.clone(),
                    op: CompareOp::Equal,
                    target,
                };
                (vec![compare], vec![Op::Range(RangeOp::new(key_range))])
            }
        };
        let mut result = self
            .engine
            .transact(Txn {
                compare,
                success: vec![write],
                failure,
            })
            .await?;
        let revision = result.revision;
        match (result.succeeded, result.results.pop()) {
            (true, Some(OpResult::Put { previous, .. })) => {
                Ok(WriteOutcome::Committed { revision, previous })
            }
            (true, Some(OpResult::DeleteRange { mut previous, .. })) => {
                Ok(WriteOutcome::Committed {
                    revision,
                    previous: previous.pop(),
                })
            }
            (false, Some(OpResult::Range(mut found))) => Ok(WriteOutcome::Conflict {
                revision,
                current: found.items.pop(),
            }),
            (_, step) => Err(Error::Corrupt(format!(
                "unexpected result of a write: {step:?}"
            ))),
        }
    }
}

#[async_trait]
impl Datastore for EtcdStore {
    async fn range(&self, request: RangeRequest) -> Result<RangePage> {
        self.open_for_calls()?;
        check_range(&request.range)?;
        // A revision that this member has not seen yet may well exist.
        let behind = request
            .at
            .is_some_and(|at| at > self.engine.shared.revision());
        if behind || !request.serializable {
            self.engine.barrier().await?;
        }
        let range = match &request.after {
            Some(after) => starting_after(KeyRange::from(&request.range), after),
            None => KeyRange::from(&request.range),
        };
        let op = RangeOp {
            revision: request.at,
            limit: request.limit as u64,
            count_only: request.count_only,
            ..RangeOp::new(range)
        };
        let found = self.engine.shared.range_to_keep(&op).await;
        let found = found.map_err(Failure::from)?;
        Ok(RangePage {
            revision: found.revision,
            items: found.items,
            count: found.count,
            more: found.more,
        })
    }

    async fn put(&self, request: PutRequest) -> Result<WriteOutcome> {
        self.open_for_calls()?;
        check_key(&request.key)?;
        let put = PutOp {
            lease: request.lease,
            // With the expectation that there is none, there is none.
            prev_kv: request.expect != Expect::Absent,
            ..PutOp::new(request.key.clone(), request.value)
        };
        self.write(&request.key, request.expect, Op::Put(put)).await
    }

    async fn delete(&self, request: DeleteRequest) -> Result<WriteOutcome> {
        self.open_for_calls()?;
        check_key(&request.key)?;
        if request.expect == Expect::Absent {
            return Err(Error::Invalid(
                "a delete cannot expect the key to be absent".to_owned(),
            ));
        }
        let delete = DeleteRangeOp {
            range: KeyRange::Key(request.key.clone()),
            prev_kv: true,
        };
        self.write(&request.key, request.expect, Op::DeleteRange(delete))
            .await
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream> {
        self.open_for_calls()?;
        check_range(&request.range)?;
        // "After the newest revision" means the newest anywhere, not just here.
        if request.start.is_none() {
            self.engine.barrier().await?;
        }
        let watcher = self.engine.shared.watch(WatchOp {
            range: KeyRange::from(&request.range),
            start: request.start,
            no_put: false,
            no_delete: false,
            previous: request.previous,
        });
        let open = OpenWatch {
            engine: self.engine.clone(),
            watcher,
            progress: request.progress,
        };
        Ok(Box::pin(stream::unfold(Some(open), |open| async move {
            open?.next().await
        })))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.open_for_calls()?;
        // Never shorter than asked for.
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        if seconds > crate::limits::MAX_LEASE_TTL_SECONDS {
            return Err(Error::Invalid(
                "the time to live of the lease is too long".to_owned(),
            ));
        }
        let (_, id, ttl) = self
            .engine
            .grant_lease(&Caller::Root, None, seconds)
            .await?;
        Ok(Lease {
            id,
            ttl: Duration::from_secs(ttl.unsigned_abs()),
        })
    }

    async fn keep_lease_alive(&self, id: LeaseId) -> Result<Lease> {
        self.open_for_calls()?;
        let answer = self.engine.ask_leader(Question::Renew(id).encode()).await?;
        decode_time(answer)
            .map(|ttl| Lease { id, ttl })
            .ok_or(Error::LeaseNotFound)
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.open_for_calls()?;
        match self.engine.execute(&Command::LeaseRevoke { id }).await? {
            (_, Response::LeaseRevoked { .. }) => Ok(()),
            (_, other) => Err(unexpected(&other).into()),
        }
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.open_for_calls()?;
        match self.engine.execute(&Command::Compact { revision }).await? {
            (_, Response::Compacted) => Ok(()),
            (_, other) => Err(unexpected(&other).into()),
        }
    }

    async fn status(&self) -> Result<StoreStatus> {
        let node = self.engine.node.status();
        Ok(StoreStatus {
            backend: NAME.to_owned(),
            revision: self.engine.shared.revision(),
            compact_revision: self.engine.shared.compact_revision(),
            size_bytes: self.engine.shared.size().total_bytes + node.log_size_bytes,
            problems: self.engine.problems(),
            writable: node.leader.is_some() && node.failed.is_none() && !self.engine.is_stopping(),
        })
    }

    async fn export(&self) -> Result<ExportStream> {
        self.open_for_calls()?;
        self.engine.barrier().await?;
        let export = self.engine.shared.export(None).map_err(Failure::from)?;
        Ok(export_stream(export))
    }

    fn cluster(&self) -> Option<Arc<dyn Cluster>> {
        Some(self.members.clone())
    }

    async fn shutdown(&self) {
        self.engine.shutdown().await;
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        // Without `shutdown` at least nothing goes on listening.
        self.engine.stop.cancel();
    }
}

fn check_key(key: &Bytes) -> Result<()> {
    if key.is_empty() {
        return Err(Error::Invalid("a key must not be empty".to_owned()));
    }
    Ok(())
}

fn check_range(range: &trivet_datastore::KeyRange) -> Result<()> {
    match range {
        trivet_datastore::KeyRange::Key(key) => check_key(key),
        _ => Ok(()),
    }
}

/// The keys of `range` that are greater than `after`.
fn starting_after(range: KeyRange, after: &Bytes) -> KeyRange {
    let mut next = BytesMut::with_capacity(after.len() + 1);
    next.put_slice(after);
    next.put_u8(0);
    let next = next.freeze();
    match range {
        KeyRange::Key(key) if key > after => KeyRange::Key(key),
        KeyRange::Key(_) => KeyRange::Between {
            start: next.clone(),
            end: next,
        },
        KeyRange::From(start) => KeyRange::From(start.max(next)),
        KeyRange::Between { start, end } => KeyRange::Between {
            start: start.max(next),
            end,
        },
    }
}

struct OpenWatch {
    engine: Arc<Engine>,
    watcher: Watcher,
    progress: bool,
}

impl OpenWatch {
    /// The next item, and the watch itself if it goes on.
    async fn next(mut self) -> Option<(Result<WatchBatch>, Option<Self>)> {
        let outcome = loop {
            let pause = self.engine.timing.watch_progress;
            tokio::select! {
                biased;
                () = self.engine.stop.cancelled() => return None,
                outcome = self.watcher.next() => break outcome,
                () = tokio::time::sleep(pause), if self.progress => {
                    match self.watcher.ready().await {
                        Ok(Some(batch)) => break Ok(batch),
                        Err(error) => break Err(error),
                        // Before its start a watch has not covered anything.
                        Ok(None) if self.watcher.position() < self.watcher.start() => {}
                        Ok(None) => break Ok(WatchBatch {
                            revision: self.watcher.position(),
                            events: Vec::new(),
                        }),
                    }
                }
            }
        };
        match outcome {
            Ok(batch) => Some((Ok(batch), Some(self))),
            Err(WatchError::Compacted { compact_revision }) => {
                Some((Err(Error::Compacted { compact_revision }), None))
            }
            Err(WatchError::Damaged(what)) => Some((Err(Error::Corrupt(what)), None)),
            Err(WatchError::Closed) => None,
        }
    }
}

/// Where an export stands.
enum Exporting {
    Head(Export),
    Leases(Export, usize),
    Pairs {
        export: Export,
        page: std::vec::IntoIter<trivet_datastore::KeyValue>,
        pairs: u64,
        checksum: u32,
    },
    Done,
}

fn export_stream(export: Export) -> ExportStream {
    Box::pin(stream::unfold(
        Exporting::Head(export),
        |state| async move { export_step(state).await },
    ))
}

async fn export_step(mut state: Exporting) -> Option<(Result<ExportItem>, Exporting)> {
    loop {
        state = match state {
            Exporting::Head(export) => {
                let head = ExportItem::Head {
                    revision: export.revision(),
                };
                return Some((Ok(head), Exporting::Leases(export, 0)));
            }
            Exporting::Leases(export, next) => match export.leases().get(next) {
                Some(lease) => {
                    let lease = Lease {
                        id: lease.id,
                        ttl: Duration::from_secs(lease.ttl_s),
                    };
                    return Some((
                        Ok(ExportItem::Lease(lease)),
                        Exporting::Leases(export, next + 1),
                    ));
                }
                None => Exporting::Pairs {
                    export,
                    page: Vec::new().into_iter(),
                    pairs: 0,
                    checksum: 0,
                },
            },
            Exporting::Pairs {
                mut export,
                mut page,
                pairs,
                checksum,
            } => match page.next() {
                Some(pair) => {
                    let checksum = pair.checksum(checksum);
                    let state = Exporting::Pairs {
                        export,
                        page,
                        pairs: pairs + 1,
                        checksum,
                    };
                    return Some((Ok(ExportItem::Pair(pair)), state));
                }
                None => match export.next_page().await {
                    Ok(Some(page)) => Exporting::Pairs {
                        export,
                        page: page.into_iter(),
                        pairs,
                        checksum,
                    },
                    Ok(None) => {
                        return Some((
                            Ok(ExportItem::Trailer { pairs, checksum }),
                            Exporting::Done,
                        ));
                    }
                    Err(error) => return Some((Err(Failure::from(error).into()), Exporting::Done)),
                },
            },
            Exporting::Done => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_starts_behind_the_last_key() {
        let key = Bytes::from_static;
        let after = key(b"b");
        assert_eq!(
            starting_after(KeyRange::Key(key(b"c")), &after),
            KeyRange::Key(key(b"c"))
        );
        let nothing = starting_after(KeyRange::Key(key(b"b")), &after);
        assert!(!nothing.contains(b"b") && !nothing.contains(b"b\0"));
        assert_eq!(
            starting_after(KeyRange::prefix(key(b"b")), &after),
            KeyRange::Between {
                start: key(b"b\0"),
                end: key(b"c")
            }
        );
        let later = starting_after(KeyRange::prefix(key(b"c")), &after);
        assert_eq!(later, KeyRange::prefix(key(b"c")));
        assert_eq!(
            starting_after(KeyRange::all(), &after),
            KeyRange::From(key(b"b\0"))
        );
    }
}
