//! Clients of one life.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use trivet_datastore::{
    Datastore, DeleteRequest, Effect, Error, Expect, KeyRange, LeaseId, PutRequest, RangePage,
    RangeRequest, Revision, WatchRequest, WriteOutcome,
};
use trivet_mvcc::{
    Compare, CompareOp, CompareTarget, DeleteRangeOp, KeyRange as Keys, Op, PutOp, Txn,
};
use trivet_sim::SimRng;
use trivet_store_etcd::{EtcdStore, testing};

use crate::model::{Attempt, History, Seen, Told};

const KEYS: u64 = 8;

/// How far a client works behind the newest compaction.
const COMPACT_BEHIND: u64 = 6;

/// One client of one life.
pub(crate) struct Client {
    pub(crate) store: Arc<EtcdStore>,
    pub(crate) history: Arc<Mutex<History>>,
    pub(crate) rng: SimRng,
    /// Unlike that of any other client of the round.
    pub(crate) name: String,
}

impl Client {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }

    fn key(&self) -> Bytes {
        format!("k/{}", self.rng.below(KEYS)).into()
    }

    fn value(&self, number: usize) -> Bytes {
        let padding = [0, 10, 300, 1500][self.rng.below(4) as usize];
        format!("{}.{number}:{}", self.name, "x".repeat(padding)).into()
    }

    /// Works until it is done or the store is not any more.
    pub(crate) async fn work(self, operations: usize) {
        let mut heard: Option<(Bytes, Revision)> = None;
        let mut lease = None;
        for number in 0..operations {
            let key = self.key();
            let expect = match (&heard, self.rng.below(4)) {
                (Some((_, revision)), 0 | 1) => Expect::ModRevision(*revision),
                (_, 2) => Expect::Absent,
                _ => Expect::Any,
            };
            let key = match (&heard, expect) {
                (Some((heard, _)), Expect::ModRevision(_)) => heard.clone(),
                _ => key,
            };
            let outcome = match self.rng.below(20) {
                0..=8 => {
                    let lease = lease.filter(|_| self.rng.chance(40));
                    self.put(key.clone(), self.value(number), expect, lease)
                        .await
                }
                9..=11 => {
                    let expect = match expect {
                        Expect::Absent => Expect::Any,
                        expect => expect,
                    };
                    self.delete(key.clone(), expect).await
                }
                12..=14 => self.txn(key.clone(), number, expect).await,
                15 => self.grant(&mut lease).await,
                16 => self.revoke(lease.take()).await,
                17 => self.compact().await,
                _ => self.read().await,
            };
            match outcome {
                Ok(Some(revision)) => heard = Some((key, revision)),
                Ok(None) => {}
                Err(Error::Unavailable { .. } | Error::Corrupt(_) | Error::OutOfSpace) => return,
                Err(error) => {
                    let what = format!("{}: an operation answered {error}", self.name);
                    self.history().accuse(what);
                    return;
                }
            }
        }
    }

    async fn put(
        &self,
        key: Bytes,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<Option<Revision>, Error> {
        let number = self.history().begin(Attempt {
            changes: vec![(key.clone(), Some(value.clone()))],
            expect,
            lease,
            outcome: Told::Nothing,
        });
        let request = PutRequest {
            key: key.clone(),
            value,
            expect,
            lease,
        };
        let outcome = self.store.put(request).await;
        self.told(number, &key, outcome)
    }

    async fn delete(&self, key: Bytes, expect: Expect) -> Result<Option<Revision>, Error> {
        let number = self.history().begin(Attempt {
            changes: vec![(key.clone(), None)],
            expect,
            lease: None,
            outcome: Told::Nothing,
        });
        let request = DeleteRequest {
            key: key.clone(),
            expect,
        };
        let outcome = self.store.delete(request).await;
        let deleted = !matches!(outcome, Ok(WriteOutcome::Committed { previous: None, .. }));
        let told = self.told(number, &key, outcome);
        if !deleted {
            self.history().attempts[number].outcome = Told::Refused;
        }
        told
    }

    fn told(
        &self,
        number: usize,
        key: &Bytes,
        outcome: Result<WriteOutcome, Error>,
    ) -> Result<Option<Revision>, Error> {
        let mut history = self.history();
        let (told, answer) = match outcome {
            Ok(WriteOutcome::Committed { revision, .. }) => {
                history.learn(revision);
                (Told::Done(revision), Ok(Some(revision)))
            }
            Ok(WriteOutcome::Conflict { revision, current }) => {
                history.learn(revision);
                let current_revision = current.as_ref().map(|pair| pair.mod_revision);
                history.seen.push(Seen {
                    revision,
                    key: Some(key.clone()),
                    pairs: current.into_iter().collect(),
                });
                (Told::Refused, Ok(current_revision))
            }
            // Another client revoked it, or the grant was lost with its answer.
            Err(Error::LeaseNotFound) => (Told::Refused, Ok(None)),
            Err(error) if error.effect() == Effect::None => (Told::Refused, Err(error)),
            Err(error) => (Told::Nothing, Err(error)),
        };
        history.attempts[number].outcome = told;
        answer
    }

    /// Two puts and a delete, or nothing.
    async fn txn(
        &self,
        first: Bytes,
        number: usize,
        expect: Expect,
    ) -> Result<Option<Revision>, Error> {
        let mut others = (0..KEYS).map(|key| Bytes::from(format!("k/{key}")));
        let second = others.clone().find(|key| *key != first).unwrap();
        let third = others.rfind(|key| *key != first && *key != second).unwrap();
        let (one, two) = (
            self.value(number),
            Bytes::from(format!("{}.{number}:second", self.name)),
        );
        let attempt = self.history().begin(Attempt {
            changes: vec![
                (first.clone(), Some(one.clone())),
                (second.clone(), Some(two.clone())),
                (third.clone(), None),
            ],
            expect,
            lease: None,
            outcome: Told::Nothing,
        });
        let target = match expect {
            Expect::Any => None,
            Expect::Absent => Some(CompareTarget::Create(0)),
            Expect::ModRevision(revision) => Some(CompareTarget::Mod(revision.0 as i64)),
        };
        let compare = target.map(|target| Compare {
            range: Keys::Key(first.clone()),
            op: CompareOp::Equal,
            target,
        });
        let delete = DeleteRangeOp {
            range: Keys::Key(third),
            prev_kv: false,
        };
        let result = testing::transact(
            &self.store,
            Txn {
                compare: compare.into_iter().collect(),
                success: vec![
                    Op::Put(PutOp::new(first, one)),
                    Op::Put(PutOp::new(second, two)),
                    Op::DeleteRange(delete),
                ],
                failure: Vec::new(),
            },
        )
        .await;
        let mut history = self.history();
        let (told, answer) = match result {
            Ok(result) => {
                history.learn(result.revision);
                if result.succeeded {
                    (Told::Done(result.revision), Ok(Some(result.revision)))
                } else {
                    (Told::Refused, Ok(None))
                }
            }
            Err(error) if error.effect() == Effect::None => (Told::Refused, Err(error)),
            Err(error) => (Told::Nothing, Err(error)),
        };
        history.attempts[attempt].outcome = told;
        answer
    }

    async fn grant(&self, lease: &mut Option<LeaseId>) -> Result<Option<Revision>, Error> {
        let granted = self.store.grant_lease(Duration::from_secs(36_000)).await?;
        self.history().granted.insert(granted.id);
        *lease = Some(granted.id);
        Ok(None)
    }

    async fn revoke(&self, lease: Option<LeaseId>) -> Result<Option<Revision>, Error> {
        let Some(lease) = lease else { return Ok(None) };
        self.history().revoking.insert(lease);
        self.store.revoke_lease(lease).await?;
        self.history().revoked.insert(lease);
        Ok(None)
    }

    async fn compact(&self) -> Result<Option<Revision>, Error> {
        let revision = {
            let mut history = self.history();
            // Never what the watch of the round has yet to bring.
            let revision = Revision(history.covered.0.saturating_sub(COMPACT_BEHIND));
            if revision <= history.compacting {
                return Ok(None);
            }
            history.compacting = revision;
            revision
        };
        match self.store.compact(revision).await {
            Ok(()) => {
                let mut history = self.history();
                history.compacted = history.compacted.max(revision);
                Ok(None)
            }
            // Another client was faster with a later one.
            Err(Error::Compacted { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn found(&self, floor: Revision, page: RangePage) {
        let mut history = self.history();
        if page.revision < floor {
            let what = format!("a read at {} after {floor} was known", page.revision);
            history.accuse(what);
        }
        history.learn(page.revision);
        history.seen.push(Seen {
            revision: page.revision,
            key: None,
            pairs: page.items,
        });
    }

    /// Reads everything, now and at a revision of the past.
    pub(crate) async fn read(&self) -> Result<Option<Revision>, Error> {
        let floor = self.history().newest;
        let mut request = RangeRequest {
            range: KeyRange::Prefix("k/".into()),
            after: None,
            limit: 0,
            at: None,
            serializable: false,
            count_only: false,
        };
        let page = self.store.range(request.clone()).await?;
        let past = Revision(page.revision.0.saturating_sub(self.rng.below(4)).max(1));
        self.found(floor, page);
        request.at = Some(past);
        match self.store.range(request).await {
            Ok(page) => self.history().seen.push(Seen {
                revision: past,
                key: None,
                pairs: page.items,
            }),
            Err(Error::Compacted { compact_revision }) => {
                let mut history = self.history();
                if past >= compact_revision || compact_revision > history.compacting {
                    history.accuse(format!("{past} is compacted at {compact_revision}"));
                }
            }
            Err(error) => return Err(error),
        }
        Ok(None)
    }
}

/// Follows the store from where the last life ended, for the whole round.
pub(crate) async fn follow(store: Arc<EtcdStore>, history: Arc<Mutex<History>>) {
    let start = history.lock().unwrap().covered.max(Revision(1)).next();
    let request = WatchRequest {
        range: KeyRange::Prefix("k/".into()),
        start: Some(start),
        previous: true,
        progress: true,
    };
    let mut stream = match store.watch(request).await {
        Ok(stream) => stream,
        Err(Error::Unavailable { .. }) => return,
        Err(error) => {
            let what = format!("a watch cannot go on at {start}: {error}");
            return history.lock().unwrap().accuse(what);
        }
    };
    while let Some(item) = stream.next().await {
        let mut history = history.lock().unwrap();
        match item {
            Ok(batch) => {
                let first = batch.events.first().map(|event| event.current.mod_revision);
                if first.is_some_and(|first| first <= history.covered) {
                    let what = format!("{batch:?} came after {}", history.covered);
                    return history.accuse(what);
                }
                // A progress notification may say less than a batch before it.
                let upto = batch.revision.max(history.covered);
                history.watched(upto, batch.events);
            }
            Err(Error::Unavailable { .. } | Error::Corrupt(_)) => return,
            Err(error) => return history.accuse(format!("the watch ended with {error}")),
        }
    }
}
