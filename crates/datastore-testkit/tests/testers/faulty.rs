//! A store that is right, or wrong in one way.
//!
//! The content is a `MemoryStore` behind doors that can be closed and opened again, and of which
//! there may be several, so that it can pass for a durable and replicated store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, watch};
use trivet_datastore::{
    Cluster, ClusterStatus, Datastore, DeleteRequest, Effect, Error, Expect, ExportItem,
    ExportStream, KeyRange, Lease, LeaseId, Member, MemberId, MemberRole, MemoryOptions,
    MemoryStore, PutRequest, RangePage, RangeRequest, Result, Revision, StoreStatus, WatchBatch,
    WatchRequest, WatchStream, WriteOutcome,
};
use trivet_datastore_testkit::{Limits, Stop, Subject, Support};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Nothing,
    LosesWrites,
    ReusesRevisions,
    IgnoresExpectations,
    HidesWhoWon,
    WritesInTwoSteps,
    CountsEmptyDeletes,
    ReadsStale,
    ReadsStaleUnderNewRevision,
    ReadsStaleOnOneMember,
    CountsOnlyThePage,
    PagesOverlap,
    IgnoresRevisionOfRead,
    DropsEvents,
    RepeatsBatches,
    SplitsRevisions,
    RunsAhead,
    ForgetsPrevious,
    ForgivesCompaction,
    SkipsWhenSlow,
    GapAfterReplay,
    WatchesForEver,
    AcceptsUnknownLeases,
    RevokesOneByOne,
    ExpiresEarly,
    IgnoresKeepalives,
    CompactsAnything,
    ExportsWrongTrailer,
    ExportsNotEverything,
    ServesAfterShutdown,
    ForgetsAtKill,
}

/// One door to the content.
struct Door {
    content: MemoryStore,
    fault: Fault,
    member: usize,
    closed: watch::Sender<bool>,
    calls: AtomicU64,
    ttls: Mutex<HashMap<LeaseId, Duration>>,
}

impl Door {
    fn open(content: &MemoryStore, fault: Fault, member: usize) -> Arc<Self> {
        Arc::new(Self {
            content: content.clone(),
            fault,
            member,
            closed: watch::Sender::new(false),
            calls: AtomicU64::new(0),
            ttls: Mutex::default(),
        })
    }

    fn enter(&self) -> Result<()> {
        if *self.closed.borrow() && self.fault != Fault::ServesAfterShutdown {
            let reason = "closed".into();
            return Err(Error::Unavailable {
                reason,
                retry_after: None,
                effect: Effect::None,
            });
        }
        Ok(())
    }

    /// Counts calls; every n-th goes wrong.
    fn every(&self, n: u64) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed) % n == n - 1
    }

    async fn revision(&self) -> Revision {
        self.content
            .status()
            .await
            .expect("the content is open")
            .revision
    }

    fn stale(&self) -> bool {
        match self.fault {
            Fault::ReadsStale | Fault::ReadsStaleUnderNewRevision => self.every(3),
            Fault::ReadsStaleOnOneMember => self.member == 1,
            _ => false,
        }
    }
}

#[async_trait]
impl Datastore for Door {
    async fn range(&self, mut request: RangeRequest) -> Result<RangePage> {
        self.enter()?;
        if self.fault == Fault::IgnoresRevisionOfRead {
            request.at = None;
        }
        let newest = self.revision().await;
        if request.at.is_none() && self.stale() {
            let compacted = self.content.status().await?.compact_revision;
            let old = Revision(newest.0 - 1).max(compacted).max(Revision(1));
            let page = self
                .content
                .range(RangeRequest {
                    at: Some(old),
                    ..request
                })
                .await?;
            let honest = self.fault != Fault::ReadsStaleUnderNewRevision;
            return Ok(RangePage {
                revision: if honest { old } else { newest },
                ..page
            });
        }
        if self.fault == Fault::PagesOverlap
            && let Some(after) = request.after.take()
        {
            let mut page = self.content.range(request).await?;
            page.items.retain(|pair| pair.key >= after);
            return Ok(page);
        }
        let mut page = self.content.range(request).await?;
        if self.fault == Fault::CountsOnlyThePage && !page.items.is_empty() {
            page.count = page.items.len() as u64;
        }
        Ok(page)
    }

    async fn put(&self, mut request: PutRequest) -> Result<WriteOutcome> {
        self.enter()?;
        match self.fault {
            Fault::LosesWrites if self.every(10) => {
                let revision = self.revision().await.next();
                return Ok(WriteOutcome::Committed {
                    revision,
                    previous: None,
                });
            }
            Fault::IgnoresExpectations if request.expect != Expect::Absent => {
                request.expect = Expect::Any;
            }
            Fault::WritesInTwoSteps => {
                let half = request.value.slice(..request.value.len() / 2);
                self.content
                    .put(PutRequest {
                        value: half,
                        ..request.clone()
                    })
                    .await?;
                tokio::time::sleep(Duration::from_millis(1)).await;
                request.expect = Expect::Any;
            }
            Fault::AcceptsUnknownLeases => {
                let outcome = self.content.put(request.clone()).await;
                if outcome != Err(Error::LeaseNotFound) {
                    return outcome;
                }
                request.lease = None;
            }
            _ => {}
        }
        match self.content.put(request).await? {
            WriteOutcome::Committed { revision, previous }
                if self.fault == Fault::ReusesRevisions && self.every(5) =>
            {
                Ok(WriteOutcome::Committed {
                    revision: Revision(revision.0 - 1),
                    previous,
                })
            }
            WriteOutcome::Conflict { revision, .. } if self.fault == Fault::HidesWhoWon => {
                Ok(WriteOutcome::Conflict {
                    revision,
                    current: None,
                })
            }
            outcome => Ok(outcome),
        }
    }

    async fn delete(&self, request: DeleteRequest) -> Result<WriteOutcome> {
        self.enter()?;
        let outcome = self.content.delete(request).await?;
        if self.fault == Fault::CountsEmptyDeletes
            && matches!(outcome, WriteOutcome::Committed { previous: None, .. })
        {
            let (key, value) = ("hidden".into(), "".into());
            self.content
                .put(PutRequest {
                    key,
                    value,
                    expect: Expect::Any,
                    lease: None,
                })
                .await?;
        }
        Ok(outcome)
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream> {
        self.enter()?;
        let mut opened = self.content.watch(request.clone()).await;
        if self.fault == Fault::ForgivesCompaction && opened.is_err() {
            opened = self
                .content
                .watch(WatchRequest {
                    start: None,
                    ..request.clone()
                })
                .await;
        }
        let stream = spoil_watch(self.fault, opened?, self.content.clone(), request);
        if self.fault == Fault::WatchesForEver {
            return Ok(stream);
        }
        let mut closed = self.closed.subscribe();
        let end = async move {
            // A door that is gone is closed.
            let _ended = closed.wait_for(|closed| *closed).await;
        };
        Ok(Box::pin(stream.take_until(Box::pin(end))))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.enter()?;
        let real = if self.fault == Fault::ExpiresEarly {
            ttl / 3
        } else {
            ttl
        };
        let lease = self.content.grant_lease(real).await?;
        let lease = Lease {
            ttl: lease.ttl.max(ttl),
            ..lease
        };
        self.ttls
            .lock()
            .expect("no panic under the lock")
            .insert(lease.id, lease.ttl);
        Ok(lease)
    }

    async fn keep_lease_alive(&self, id: LeaseId) -> Result<Lease> {
        self.enter()?;
        let known = self
            .ttls
            .lock()
            .expect("no panic under the lock")
            .get(&id)
            .copied();
        match (self.fault, known) {
            (Fault::IgnoresKeepalives, Some(ttl)) => Ok(Lease { id, ttl }),
            _ => self.content.keep_lease_alive(id).await,
        }
    }

    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.enter()?;
        if self.fault == Fault::RevokesOneByOne {
            let everything = RangeRequest {
                range: KeyRange::all(),
                after: None,
                limit: 0,
                at: None,
                serializable: false,
                count_only: false,
            };
            for pair in self.content.range(everything).await?.items {
                if pair.lease == Some(id) {
                    let request = DeleteRequest {
                        key: pair.key,
                        expect: Expect::Any,
                    };
                    self.content.delete(request).await?;
                }
            }
        }
        self.content.revoke_lease(id).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.enter()?;
        let done = self.content.compact(revision).await;
        if self.fault == Fault::CompactsAnything {
            Ok(())
        } else {
            done
        }
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.content.status().await
    }

    async fn export(&self) -> Result<ExportStream> {
        self.enter()?;
        let fault = self.fault;
        let mut skipped = false;
        let items = self.content.export().await?.filter_map(move |item| {
            let spoiled = match item {
                Ok(ExportItem::Trailer { pairs, checksum })
                    if fault == Fault::ExportsWrongTrailer =>
                {
                    Some(Ok(ExportItem::Trailer {
                        pairs,
                        checksum: checksum ^ 1,
                    }))
                }
                Ok(ExportItem::Pair(_)) if fault == Fault::ExportsNotEverything && !skipped => {
                    skipped = true;
                    None
                }
                item => Some(item),
            };
            async { spoiled }
        });
        Ok(Box::pin(items))
    }

    fn cluster(&self) -> Option<Arc<dyn Cluster>> {
        Some(Arc::new(Membership(MemberId(self.member as u64))))
    }

    async fn shutdown(&self) {
        self.closed.send_replace(true);
    }
}

/// Makes a right watch wrong.
fn spoil_watch(
    fault: Fault,
    stream: WatchStream,
    content: MemoryStore,
    request: WatchRequest,
) -> WatchStream {
    match fault {
        Fault::DropsEvents => {
            let mut seen = 0;
            Box::pin(stream.map(move |item| {
                let mut batch = item?;
                batch.events.retain(|_| {
                    seen += 1;
                    seen % 3 != 0
                });
                Ok(batch)
            }))
        }
        Fault::RepeatsBatches => {
            Box::pin(stream.flat_map(|item| stream::iter([item.clone(), item])))
        }
        Fault::SplitsRevisions => Box::pin(stream.flat_map(|item| {
            let split: Vec<_> = match item {
                Ok(batch) if batch.events.len() > 1 => {
                    let one = |event| {
                        Ok(WatchBatch {
                            revision: batch.revision,
                            events: vec![event],
                        })
                    };
                    batch.events.into_iter().map(one).collect()
                }
                item => vec![item],
            };
            stream::iter(split)
        })),
        Fault::RunsAhead => Box::pin(stream.map(|item| {
            let WatchBatch { revision, events } = item?;
            Ok(WatchBatch {
                revision: revision.next(),
                events,
            })
        })),
        Fault::ForgetsPrevious => Box::pin(stream.map(|item| {
            let mut batch = item?;
            batch
                .events
                .iter_mut()
                .for_each(|event| event.previous = None);
            Ok(batch)
        })),
        Fault::SkipsWhenSlow => {
            let (sender, receiver) = mpsc::channel(16);
            tokio::spawn(stream.for_each(move |item| {
                // Full: skipped.
                let _skipped = sender.try_send(item);
                async {}
            }));
            Box::pin(stream::unfold(receiver, |mut receiver| async {
                Some((receiver.recv().await?, receiver))
            }))
        }
        Fault::GapAfterReplay if request.start.is_some() => {
            let live = async move {
                content
                    .watch(WatchRequest {
                        start: None,
                        ..request
                    })
                    .await
                    .expect("the content is open")
            };
            Box::pin(stream.take(1).chain(stream::once(live).flatten()))
        }
        _ => stream,
    }
}

struct Membership(MemberId);

#[async_trait]
impl Cluster for Membership {
    async fn status(&self) -> Result<ClusterStatus> {
        let members = (0..MEMBERS as u64).map(|id| Member {
            id: MemberId(id),
            name: format!("member-{id}"),
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
            role: MemberRole::Voter,
            matched_index: None,
            last_contact: None,
        });
        Ok(ClusterStatus {
            cluster_id: 1,
            local: self.0,
            leader: Some(MemberId(0)),
            term: 1,
            last_index: 0,
            committed_index: 0,
            applied_index: 0,
            members: members.collect(),
        })
    }

    async fn remove_member(&self, _id: MemberId) -> Result<()> {
        Err(Error::Unsupported("changing the membership"))
    }

    async fn transfer_leadership(&self, _to: Option<MemberId>) -> Result<()> {
        Err(Error::Unsupported("changing the leader"))
    }
}

const MEMBERS: usize = 3;

/// A store with a fault, on three members.
pub(crate) struct Faulty {
    content: MemoryStore,
    fault: Fault,
    members: Vec<Arc<Door>>,
}

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Self {
        let content = MemoryStore::with_options(MemoryOptions {
            progress_interval: Duration::from_millis(20),
            ..MemoryOptions::default()
        });
        Self {
            members: doors(&content, fault),
            content,
            fault,
        }
    }
}

fn doors(content: &MemoryStore, fault: Fault) -> Vec<Arc<Door>> {
    (0..MEMBERS)
        .map(|member| Door::open(content, fault, member))
        .collect()
}

#[async_trait]
impl Subject for Faulty {
    fn store(&self) -> Arc<dyn Datastore> {
        self.members[0].clone()
    }

    fn members(&self) -> Support<Vec<Arc<dyn Datastore>>> {
        let all = self
            .members
            .iter()
            .map(|member| Arc::clone(member) as Arc<dyn Datastore>);
        Support::Offered(all.collect())
    }

    async fn reopen(&mut self, stop: Stop) -> Support<()> {
        for member in &self.members {
            member.shutdown().await;
        }
        if stop == Stop::Kill && self.fault == Fault::ForgetsAtKill {
            self.content = MemoryStore::new();
        }
        self.members = doors(&self.content, self.fault);
        Support::Offered(())
    }

    fn limits(&self) -> Limits {
        // What never comes is not waited for long.
        let short = Duration::from_secs(1);
        Limits {
            patience: if self.fault == Fault::Nothing {
                short * 20
            } else {
                short
            },
            progress_within: Some(short),
            expiry_slack: short,
            model_runs: 40,
            ..Limits::default()
        }
    }

    async fn finish(&mut self) {
        self.content.shutdown().await;
    }
}
