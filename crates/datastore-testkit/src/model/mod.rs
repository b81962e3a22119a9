//! Comparison with the reference model under random operations.

mod operation;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use trivet_datastore::{
    Datastore, DeleteRequest, Error, Expect, ExportItem, KeyRange, KeyValue, LeaseId, MemoryStore,
    PutRequest, RangePage, RangeRequest, Result, Revision, WatchEvent, WatchRequest, WatchStream,
    WriteOutcome,
};

use self::operation::KEYS;
pub use self::operation::{Expectation, Operation, Position, operations};
use crate::Subject;
use crate::client::read;
use crate::workload::seed;

/// Leases do not end by themselves here: time is not compared.
const TTL: Duration = Duration::from_secs(3600);

/// Body of the test in [`conformance!`](crate::conformance): random runs, each on a fresh subject,
/// shrunk when one fails. Panics with the seed and the shortest failing run.
pub fn run_test<F, Fut, S>(factory: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
    S: Subject + 'static,
{
    run_test_seeded(factory, seed());
}

/// [`run_test`] with a fixed seed.
pub fn run_test_seeded<F, Fut, S>(factory: F, seed: u64)
where
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
    S: Subject + 'static,
{
    let runtime = crate::run::runtime();
    let limits = runtime.block_on(async {
        let mut subject = factory().await;
        let limits = subject.limits();
        subject.finish().await;
        limits
    });
    let config = Config {
        cases: limits.model_runs,
        failure_persistence: None,
        max_shrink_iters: 300,
        // Every try may wait for what never comes.
        max_shrink_time: 10_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let outcome = runner.run(&operations(limits.model_operations), |run| {
        let compared = runtime.block_on(async {
            let mut subject = factory().await;
            let compared = compare(&run, subject.store(), limits.patience).await;
            subject.finish().await;
            compared
        });
        compared.map_err(TestCaseError::fail)
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    if let Err(failure) = outcome {
        panic!("seed {seed}: {failure}");
    }
}

/// Does the same operations to `store`, which is fresh, and to the model. The first difference is
/// the error. Watches are given `patience` to deliver.
pub async fn compare(
    run: &[Operation],
    store: Arc<dyn Datastore>,
    patience: Duration,
) -> Result<(), String> {
    let mut pair = Compared {
        store,
        model: MemoryStore::new(),
        slots: HashMap::new(),
        names: HashMap::new(),
        watches: Vec::new(),
        patience,
    };
    for (number, operation) in run.iter().enumerate() {
        let done = pair.step(operation).await;
        done.map_err(|difference| format!("step {number}, {operation:?}: {difference}"))?;
    }
    for last in [Operation::Drain, Operation::Export] {
        pair.step(&last)
            .await
            .map_err(|difference| format!("at the end: {difference}"))?;
    }
    pair.model.shutdown().await;
    Ok(())
}

struct Compared {
    store: Arc<dyn Datastore>,
    model: MemoryStore,
    /// The leases of the slots: the store's and the model's.
    slots: HashMap<u8, (LeaseId, LeaseId)>,
    /// What the model calls the store's leases.
    names: HashMap<LeaseId, LeaseId>,
    watches: Vec<ComparedWatch>,
    patience: Duration,
}

struct ComparedWatch {
    range: KeyRange,
    start: Revision,
    store: WatchStream,
    model: WatchStream,
}

impl Compared {
    async fn step(&mut self, operation: &Operation) -> Result<(), String> {
        match operation {
            Operation::Put {
                key,
                value,
                expect,
                lease,
            } => {
                let key = Bytes::from_static(KEYS[*key]);
                let expect = self.expect(&key, *expect).await;
                let value = Bytes::from(vec![*value; usize::from(*value % 5)]);
                // A slot that was never filled names a lease that nobody granted.
                let never = (LeaseId(i64::MAX), LeaseId(i64::MAX));
                let lease = lease.map(|slot| self.slots.get(&slot).copied().unwrap_or(never));
                self.put(
                    PutRequest {
                        key,
                        value,
                        expect,
                        lease: None,
                    },
                    lease,
                )
                .await
                .map(drop)
            }
            Operation::Delete { key, expect } => {
                let key = Bytes::from_static(KEYS[*key]);
                let request = DeleteRequest {
                    expect: self.expect(&key, *expect).await,
                    key,
                };
                let found = self.store.delete(request.clone()).await;
                let expected = self.model.delete(request).await;
                same(found.map(|outcome| self.outcome(outcome)), expected)
            }
            Operation::Range {
                range,
                after,
                limit,
                at,
                count_only,
            } => {
                let request = RangeRequest {
                    range: range.clone(),
                    after: after.map(|key| Bytes::from_static(KEYS[key])),
                    limit: *limit,
                    at: self.position(*at).await,
                    serializable: false,
                    count_only: *count_only,
                };
                let found = self.store.range(request.clone()).await;
                let expected = self.model.range(request).await;
                same(found.map(|page| self.page(page)), expected)
            }
            Operation::Compact(position) => {
                // What is not delivered by now may be or not be: so everything is.
                self.drain().await?;
                let newest = self.newest().await;
                let revision = self.position(*position).await.unwrap_or(newest);
                same(
                    self.store.compact(revision).await,
                    self.model.compact(revision).await,
                )
            }
            Operation::Grant(slot) => {
                let found = self
                    .store
                    .grant_lease(TTL)
                    .await
                    .map_err(|error| error.to_string())?;
                let expected = self
                    .model
                    .grant_lease(TTL)
                    .await
                    .expect("the model is open");
                self.names.insert(found.id, expected.id);
                self.slots.insert(*slot, (found.id, expected.id));
                same(found.ttl, expected.ttl)
            }
            Operation::Revoke(slot) => {
                let Some((ours, theirs)) = self.slots.get(slot).copied() else {
                    return Ok(());
                };
                let expected = self.model.revoke_lease(theirs).await;
                same(self.store.revoke_lease(ours).await, expected)
            }
            Operation::KeepAlive(slot) => {
                let Some((ours, theirs)) = self.slots.get(slot).copied() else {
                    return Ok(());
                };
                let found = self
                    .store
                    .keep_lease_alive(ours)
                    .await
                    .map(|lease| lease.ttl);
                same(
                    found,
                    self.model
                        .keep_lease_alive(theirs)
                        .await
                        .map(|lease| lease.ttl),
                )
            }
            Operation::Watch {
                range,
                start,
                previous,
            } => self.open_watch(range, *start, *previous).await,
            Operation::Drain => self.drain().await,
            Operation::Export => self.export().await,
        }
    }

    async fn put(
        &mut self,
        request: PutRequest,
        lease: Option<(LeaseId, LeaseId)>,
    ) -> Result<Option<Revision>, String> {
        let ours = PutRequest {
            lease: lease.map(|pair| pair.0),
            ..request.clone()
        };
        let theirs = PutRequest {
            lease: lease.map(|pair| pair.1),
            ..request
        };
        let found = self
            .store
            .put(ours)
            .await
            .map(|outcome| self.outcome(outcome));
        let expected = self.model.put(theirs).await;
        let revision = match &expected {
            Ok(WriteOutcome::Committed { revision, .. }) => Some(*revision),
            _ => None,
        };
        same(found, expected).map(|()| revision)
    }

    async fn newest(&self) -> Revision {
        self.model
            .status()
            .await
            .expect("the model is open")
            .revision
    }

    async fn position(&self, position: Position) -> Option<Revision> {
        let newest = self.newest().await;
        match position {
            Position::Unset => None,
            Position::Ago(ago) => Some(Revision(newest.0.saturating_sub(ago.into()).max(1))),
            Position::Ahead(ahead) => Some(Revision(newest.0 + u64::from(ahead))),
        }
    }

    async fn expect(&self, key: &Bytes, expect: Expectation) -> Expect {
        match expect {
            Expectation::Any => Expect::Any,
            Expectation::Absent => Expect::Absent,
            Expectation::Current => {
                let page = self.model.range(read(KeyRange::Key(key.clone()))).await;
                let page = page.expect("the model reads the newest revision");
                Expect::ModRevision(page.items.first().map_or(Revision(1), |p| p.mod_revision))
            }
            Expectation::Ago(ago) => {
                Expect::ModRevision(Revision(self.newest().await.0.saturating_sub(ago.into())))
            }
        }
    }

    async fn open_watch(
        &mut self,
        range: &KeyRange,
        start: Position,
        previous: bool,
    ) -> Result<(), String> {
        if matches!(range, KeyRange::Between { start, end } if start >= end) {
            return Ok(());
        }
        let start = self.position(start).await;
        let next = self.newest().await.next();
        let request = WatchRequest {
            range: range.clone(),
            start,
            previous,
            progress: false,
        };
        match self.model.watch(request.clone()).await {
            Ok(model) => {
                let store = self
                    .store
                    .watch(request)
                    .await
                    .map_err(|error| error.to_string())?;
                let start = start.unwrap_or(next);
                self.watches.push(ComparedWatch {
                    range: range.clone(),
                    start,
                    store,
                    model,
                });
                Ok(())
            }
            Err(expected) => {
                let found = match self.store.watch(request).await {
                    Err(error) => Err(error),
                    Ok(mut stream) => match self.soon(stream.next()).await? {
                        Some(item) => item.map(drop),
                        None => Ok(()),
                    },
                };
                same(found, Err(expected))
            }
        }
    }

    /// Ends every watch's silence with a write of its own and compares what came up to that.
    async fn drain(&mut self) -> Result<(), String> {
        let compacted = self
            .model
            .status()
            .await
            .expect("the model is open")
            .compact_revision;
        let mut watches = std::mem::take(&mut self.watches);
        let mut sentinels = Vec::new();
        for watch in &watches {
            let key = match &watch.range {
                KeyRange::Key(key) => key.clone(),
                KeyRange::Prefix(prefix) if prefix.is_empty() => "a".into(),
                KeyRange::Prefix(key) | KeyRange::Between { start: key, .. } => key.clone(),
            };
            let mut sentinel = Revision(0);
            while sentinel < watch.start {
                let (key, value) = (key.clone(), Bytes::from_static(b"sentinel"));
                let request = PutRequest {
                    key,
                    value,
                    expect: Expect::Any,
                    lease: None,
                };
                sentinel = self
                    .put(request, None)
                    .await?
                    .expect("nothing was expected");
            }
            sentinels.push((key, sentinel));
        }
        for watch in &mut watches {
            let inside = sentinels
                .iter()
                .filter(|(key, _)| watch.range.contains(key));
            let last = inside
                .map(|sentinel| sentinel.1)
                .max()
                .expect("its own is inside");
            let expected = self.collect(&mut watch.model, last, compacted).await?;
            let found = self.collect(&mut watch.store, last, compacted).await?;
            same(
                found.into_iter().map(|event| self.event(event)).collect(),
                expected,
            )
            .map_err(|difference| format!("watch of {:?}: {difference}", watch.range))?;
            watch.start = last.next();
        }
        self.watches = watches;
        Ok(())
    }

    async fn collect(
        &self,
        stream: &mut WatchStream,
        last: Revision,
        compacted: Revision,
    ) -> Result<Vec<WatchEvent>, String> {
        let mut events = Vec::new();
        loop {
            match self.soon(stream.next()).await? {
                Some(Ok(batch)) => {
                    events.extend(batch.events);
                    if batch.revision >= last {
                        break;
                    }
                }
                other => return Err(format!("a watch ended with {other:?}")),
            }
        }
        for event in events
            .iter_mut()
            .filter(|event| event.current.mod_revision <= compacted)
        {
            // May be told or not.
            event.previous = None;
        }
        Ok(events)
    }

    async fn export(&self) -> Result<(), String> {
        let pairs = |items: Vec<Result<ExportItem>>| -> Result<Vec<KeyValue>> {
            let mut pairs = Vec::new();
            for item in items {
                if let ExportItem::Pair(pair) = item? {
                    pairs.push(pair);
                }
            }
            Ok(pairs)
        };
        let found = self
            .store
            .export()
            .await
            .map_err(|error| error.to_string())?;
        let found = pairs(self.soon(found.collect()).await?);
        let expected = self.model.export().await.expect("the model is open");
        let found = found.map(|found| found.into_iter().map(|pair| self.pair(pair)).collect());
        same(found, pairs(expected.collect().await))
    }

    async fn soon<T>(&self, future: impl Future<Output = T>) -> Result<T, String> {
        let waited = tokio::time::timeout(self.patience, future).await;
        waited.map_err(|_| format!("waited {:?} in vain", self.patience))
    }

    // The store's answers in the model's words: only lease ids differ.

    fn pair(&self, mut pair: KeyValue) -> KeyValue {
        pair.lease = pair
            .lease
            .map(|lease| self.names.get(&lease).copied().unwrap_or(lease));
        pair
    }

    fn page(&self, mut page: RangePage) -> RangePage {
        page.items = page.items.into_iter().map(|pair| self.pair(pair)).collect();
        page
    }

    fn event(&self, event: WatchEvent) -> WatchEvent {
        let WatchEvent {
            kind,
            current,
            previous,
        } = event;
        let previous = previous.map(|pair| self.pair(pair));
        WatchEvent {
            kind,
            current: self.pair(current),
            previous,
        }
    }

    fn outcome(&self, outcome: WriteOutcome) -> WriteOutcome {
        match outcome {
            WriteOutcome::Committed { revision, previous } => {
                let previous = previous.map(|pair| self.pair(pair));
                WriteOutcome::Committed { revision, previous }
            }
            WriteOutcome::Conflict { revision, current } => {
                let current = current.map(|pair| self.pair(pair));
                WriteOutcome::Conflict { revision, current }
            }
        }
    }
}

/// Answers are the same, up to the wording of errors.
trait Answer: std::fmt::Debug {
    fn agrees(&self, other: &Self) -> bool;
}

impl<T: PartialEq + std::fmt::Debug> Answer for Result<T> {
    fn agrees(&self, other: &Self) -> bool {
        match (self, other) {
            (Err(Error::Invalid(_)), Err(Error::Invalid(_))) => true,
            _ => self == other,
        }
    }
}

impl Answer for Duration {
    fn agrees(&self, other: &Self) -> bool {
        self == other
    }
}

impl Answer for Vec<WatchEvent> {
    fn agrees(&self, other: &Self) -> bool {
        self == other
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "callers have temporaries only"
)]
fn same<T: Answer>(found: T, expected: T) -> Result<(), String> {
    if found.agrees(&expected) {
        return Ok(());
    }
    Err(format!("the store gave {found:?}, the model {expected:?}"))
}
