//! Clients that write down what they do.

use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;
use trivet_datastore::{
    Datastore, DeleteRequest, Effect, Expect, KeyRange, PutRequest, RangeRequest, Result, Revision,
    WriteOutcome,
};

use crate::client::{Client, read};
use crate::history::{History, Observed, Outcome, Pair, ReadRecord, Span, WriteRecord};

/// A client that records its operations as a [`History`].
///
/// A write is recorded before it is sent, with unknown outcome, so that dropping the future
/// loses nothing.
#[derive(Clone)]
pub struct Recorder {
    store: Arc<dyn Datastore>,
    origin: Instant,
    history: History,
}

impl Recorder {
    /// A client of `store` with an empty history. All clients of one history share `origin`.
    #[must_use]
    pub fn new(store: Arc<dyn Datastore>, origin: Instant) -> Self {
        Self {
            store,
            origin,
            history: History::default(),
        }
    }

    /// What was recorded.
    #[must_use]
    pub fn into_history(self) -> History {
        self.history
    }

    /// Puts a value, which must be unlike any other of the history.
    pub async fn put(
        &mut self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        expect: Expect,
    ) -> Outcome {
        let (key, value) = (key.into(), value.into());
        let number = self.begin(key.clone(), Some(value.clone()), expect);
        let result = self
            .store
            .put(PutRequest {
                key,
                value,
                expect,
                lease: None,
            })
            .await;
        self.end(number, result)
    }

    /// Deletes a key.
    pub async fn delete(&mut self, key: impl Into<Bytes>, expect: Expect) -> Outcome {
        let key = key.into();
        let number = self.begin(key.clone(), None, expect);
        let result = self.store.delete(DeleteRequest { key, expect }).await;
        self.end(number, result)
    }

    /// Reads; a read that fails is not recorded.
    pub async fn read(
        &mut self,
        range: KeyRange,
        at: Option<Revision>,
        serializable: bool,
    ) -> Result<&ReadRecord> {
        let start_ns = self.now_ns();
        let page = self
            .store
            .range(RangeRequest {
                at,
                serializable,
                ..read(range.clone())
            })
            .await?;
        let span = Span {
            start_ns,
            end_ns: self.now_ns(),
        };
        let pairs = page.items.iter().map(Pair::from).collect();
        let revision = page.revision;
        self.history.reads.push(ReadRecord {
            range,
            at,
            serializable,
            span,
            revision,
            pairs,
        });
        Ok(self.history.reads.last().expect("one was just added"))
    }

    fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn begin(&mut self, key: Bytes, value: Option<Bytes>, expect: Expect) -> usize {
        // Until it is known better, it may happen at any time from now on.
        let span = Span {
            start_ns: self.now_ns(),
            end_ns: u64::MAX,
        };
        let outcome = Outcome::Unknown;
        self.history.writes.push(WriteRecord {
            key,
            value,
            expect,
            span,
            outcome,
        });
        self.history.writes.len() - 1
    }

    fn end(&mut self, number: usize, result: Result<WriteOutcome>) -> Outcome {
        let end_ns = self.now_ns();
        let record = &mut self.history.writes[number];
        record.outcome = match result {
            Ok(WriteOutcome::Committed { revision, previous }) => Outcome::Ok {
                revision,
                changed: record.value.is_some() || previous.is_some(),
            },
            Ok(WriteOutcome::Conflict { revision, current }) => {
                let pair = current.as_ref().map(Pair::from);
                Outcome::Conflict {
                    observed: Some(Observed { revision, pair }),
                }
            }
            Err(error) if error.effect() == Effect::None => Outcome::Failed,
            Err(_) => Outcome::Unknown,
        };
        if record.outcome != Outcome::Unknown {
            record.span.end_ns = end_ns;
        }
        record.outcome.clone()
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let History { writes, reads, .. } = &self.history;
        write!(
            f,
            "Recorder({} writes, {} reads)",
            writes.len(),
            reads.len()
        )
    }
}

impl History {
    /// Adds what another client recorded.
    pub fn absorb(&mut self, other: Self) {
        self.writes.extend(other.writes);
        self.reads.extend(other.reads);
    }

    /// A time after everything that is recorded as over.
    pub(crate) fn now_ns(&self) -> u64 {
        let ends = self.writes.iter().map(|write| write.span.end_ns);
        let ends = ends.chain(self.reads.iter().map(|read| read.span.end_ns));
        ends.filter(|end| *end != u64::MAX).max().unwrap_or(0) + 1
    }
}

/// Reads everything when all clients are done.
pub(crate) async fn last_read(client: &Client, range: KeyRange, start_ns: u64) -> ReadRecord {
    let page = client.list(range.clone()).await;
    ReadRecord {
        range,
        at: None,
        serializable: false,
        span: Span {
            start_ns,
            end_ns: u64::MAX - 1,
        },
        revision: page.revision,
        pairs: page.items.iter().map(Pair::from).collect(),
    }
}

/// The keys of the mixed workload.
pub(crate) const KEYS: [&str; 5] = ["w/a", "w/b", "w/b/c", "w/d", "x/e"];

/// A client that does something at random: writes with all expectations, some of which fail, and
/// reads of all kinds.
pub(crate) async fn mixed(
    store: Arc<dyn Datastore>,
    origin: Instant,
    name: usize,
    seed: u64,
    operations: usize,
) -> History {
    let mut rng = StdRng::seed_from_u64(seed ^ (name as u64) << 32);
    let mut recorder = Recorder::new(store, origin);
    // What this client last heard of each key.
    let mut heard = [Revision(0); KEYS.len()];
    for number in 0..operations {
        let which = rng.random_range(0..KEYS.len());
        let key = KEYS[which];
        let expect = match rng.random_range(0..4) {
            0 => Expect::Absent,
            1 => Expect::Any,
            _ => Expect::ModRevision(heard[which]),
        };
        match rng.random_range(0..10) {
            0..=4 => {
                let outcome = recorder.put(key, format!("{name}.{number}"), expect).await;
                heard[which] = known(&outcome).unwrap_or(heard[which]);
            }
            5 => {
                let any = expect == Expect::Absent;
                let outcome = recorder
                    .delete(key, if any { Expect::Any } else { expect })
                    .await;
                heard[which] = known(&outcome).unwrap_or(heard[which]);
            }
            6 | 7 => {
                let range = KeyRange::Key(key.into());
                if let Ok(read) = recorder.read(range, None, false).await {
                    heard[which] = read.pairs.first().map_or(Revision(0), |p| p.mod_revision);
                }
            }
            kind => {
                let range = KeyRange::Prefix("w/".into());
                let newest = heard.iter().max().copied().unwrap_or_default();
                let at = (kind == 8 && newest.0 > 0).then_some(newest);
                // Compacted meanwhile is fine.
                let _refused = recorder.read(range, at, at.is_none()).await;
            }
        }
    }
    recorder.into_history()
}

fn known(outcome: &Outcome) -> Option<Revision> {
    match outcome {
        Outcome::Ok { revision, .. } => Some(*revision),
        Outcome::Conflict { observed } => {
            let pair = observed.as_ref()?.pair.as_ref();
            Some(pair.map_or(Revision(0), |pair| pair.mod_revision))
        }
        _ => None,
    }
}

/// The seed of a random case: `TRIVET_TESTKIT_SEED`, or a new one. It belongs into every message
/// of the case.
pub(crate) fn seed() -> u64 {
    let fixed = std::env::var("TRIVET_TESTKIT_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    fixed.unwrap_or_else(rand::random)
}
