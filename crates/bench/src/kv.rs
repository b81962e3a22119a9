//! Rows about keys: puts, reads, and the transactions of a kube-apiserver.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
    compare, request_op::Request,
};

use crate::load::{self, Measured};
use crate::peer::Peer;

/// Size of a Kubernetes object here.
const OBJECT_BYTES: usize = 1024;

/// A step over the keys that meets all of them.
fn scattered(number: u64, keys: u64) -> u64 {
    number.wrapping_mul(7919) % keys
}

pub(crate) async fn put(
    peer: &Peer,
    clients: usize,
    length: Duration,
    keys: u64,
    bytes: usize,
) -> Result<Measured> {
    load::run(peer, clients, length, move |client, number| async move {
        let put = load::put(scattered(number, keys), number, bytes);
        client.kv().put(put).await?;
        Ok(true)
    })
    .await
}

async fn get(client: &Client, number: u64, serializable: bool) -> Result<()> {
    let request = RangeRequest {
        key: load::key(number).into(),
        serializable,
        ..RangeRequest::default()
    };
    let found = client.kv().range(request).await?.into_inner();
    if found.kvs.len() != 1 {
        bail!("a key that was loaded is missing");
    }
    Ok(())
}

pub(crate) async fn point(
    peer: &Peer,
    clients: usize,
    length: Duration,
    keys: u64,
    serializable: bool,
) -> Result<Measured> {
    load::run(peer, clients, length, move |client, number| async move {
        get(&client, scattered(number, keys), serializable).await?;
        Ok(true)
    })
    .await
}

pub(crate) async fn mixed(
    peer: &Peer,
    clients: usize,
    length: Duration,
    keys: u64,
) -> Result<Measured> {
    load::run(peer, clients, length, move |client, number| async move {
        let key = scattered(number, keys);
        if number.is_multiple_of(10) {
            client.kv().put(load::put(key, number, 1024)).await?;
        } else {
            get(&client, key, false).await?;
        }
        Ok(true)
    })
    .await
}

pub(crate) async fn range(
    peer: &Peer,
    clients: usize,
    length: Duration,
    keys: u64,
    serializable: bool,
) -> Result<Measured> {
    load::run(peer, clients, length, move |client, number| async move {
        let group = number.wrapping_mul(31) % (keys / 500).max(1);
        let request = RangeRequest {
            key: format!("bench/{group:05}/").into(),
            range_end: format!("bench/{group:05}0").into(),
            serializable,
            ..RangeRequest::default()
        };
        let found = client.kv().range(request).await?.into_inner();
        if found.kvs.len() as u64 != keys.min(500) {
            bail!("expected 500 keys, found {}", found.kvs.len());
        }
        Ok(true)
    })
    .await
}

/// If `key` was last modified at `revision` (0: does not exist) then `then`, else read it: what
/// a kube-apiserver sends for every change.
fn guarded(key: &str, revision: i64, then: Request) -> TxnRequest {
    let read = RangeRequest {
        key: key.to_owned().into(),
        ..RangeRequest::default()
    };
    TxnRequest {
        compare: vec![Compare {
            result: compare::CompareResult::Equal.into(),
            target: compare::CompareTarget::Mod.into(),
            key: key.to_owned().into(),
            target_union: Some(compare::TargetUnion::ModRevision(revision)),
            ..Compare::default()
        }],
        success: vec![RequestOp {
            request: Some(then),
        }],
        failure: vec![RequestOp {
            request: Some(Request::RequestRange(read)),
        }],
    }
}

fn put_request(key: &str, number: u64) -> Request {
    Request::RequestPut(PutRequest {
        key: key.to_owned().into(),
        value: load::value(number, OBJECT_BYTES),
        ..PutRequest::default()
    })
}

/// Runs a transaction that must succeed; answers its revision.
async fn succeed(client: &Client, txn: TxnRequest) -> Result<i64> {
    let TxnResponse {
        header, succeeded, ..
    } = client.kv().txn(txn).await?.into_inner();
    if !succeeded {
        bail!("a key was changed by somebody else");
    }
    Ok(header.context("an answer has a header")?.revision)
}

/// Keys of this measurement alone.
fn object(kind: &str, round: usize, number: u64) -> String {
    format!("/registry/{kind}/{round}/object-{number:07}")
}

pub(crate) async fn create(
    peer: &Peer,
    clients: usize,
    length: Duration,
    round: usize,
) -> Result<Measured> {
    load::run(peer, clients, length, move |client, number| async move {
        let key = object("create", round, number);
        succeed(&client, guarded(&key, 0, put_request(&key, number))).await?;
        Ok(true)
    })
    .await
}

/// Each client updates an object of its own again and again, as its last answer has it.
pub(crate) async fn update(
    peer: &Peer,
    clients: usize,
    length: Duration,
    round: usize,
) -> Result<Measured> {
    load::tasks(peer, clients, length, |task, client| {
        let key = Arc::new(object("update", round, task as u64));
        let known = Arc::new(AtomicU64::new(0));
        move || {
            let (key, known, client) = (key.clone(), known.clone(), client.clone());
            async move {
                let revision = known.load(Ordering::Relaxed) as i64;
                let put = put_request(&key, revision as u64);
                let revision = succeed(&client, guarded(&key, revision, put)).await?;
                known.store(revision as u64, Ordering::Relaxed);
                Ok(true)
            }
        }
    })
    .await
}

/// Objects are created first, which is not measured; a side that deletes them all ends early.
pub(crate) async fn delete(
    peer: &Peer,
    clients: usize,
    length: Duration,
    round: usize,
) -> Result<Measured> {
    const PER_SECOND: f64 = 8000.0;
    let count = (length.as_secs_f64() * PER_SECOND) as u64;
    let known: Arc<Mutex<Vec<(u64, i64)>>> = Arc::default();
    let created = known.clone();
    let an_hour = Duration::from_secs(3600);
    load::run(peer, 256, an_hour, move |client, number| {
        let created = created.clone();
        async move {
            if number >= count {
                return Ok(false);
            }
            let key = object("delete", round, number);
            let revision = succeed(&client, guarded(&key, 0, put_request(&key, number))).await?;
            created
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((number, revision));
            Ok(true)
        }
    })
    .await?;
    load::run(peer, clients, length, move |client, _| {
        let next = known.lock().unwrap_or_else(PoisonError::into_inner).pop();
        async move {
            let Some((number, revision)) = next else {
                return Ok(false);
            };
            let key = object("delete", round, number);
            let delete = Request::RequestDeleteRange(DeleteRangeRequest {
                key: key.clone().into(),
                ..DeleteRangeRequest::default()
            });
            succeed(&client, guarded(&key, revision, delete)).await?;
            Ok(true)
        }
    })
    .await
}
