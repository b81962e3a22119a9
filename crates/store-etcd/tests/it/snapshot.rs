//! Snapshots for a genuine etcd.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio_stream::StreamExt as _;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb::request_op::Request;
use trivet_store_etcd::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RequestOp,
    SnapshotRequest, TxnRequest,
};

use crate::contents::{self, assert_same_events, assert_same_pairs};
use crate::genuine::Tools;
use crate::support::{Single, eventually, soon};

const LEASES: [i64; 3] = [5, 0x7000_0000_0000_0001, 77];

fn put(key: String, value: Vec<u8>, lease: i64) -> RequestOp {
    let put = PutRequest {
        key: key.into(),
        value: value.into(),
        lease,
        ..Default::default()
    };
    RequestOp {
        request: Some(Request::RequestPut(put)),
    }
}

fn delete(from: String, to: String) -> RequestOp {
    let delete = DeleteRangeRequest {
        key: from.into(),
        range_end: to.into(),
        ..Default::default()
    };
    RequestOp {
        request: Some(Request::RequestDeleteRange(delete)),
    }
}

async fn txn(client: &Client, success: Vec<RequestOp>) {
    let request = TxnRequest {
        success,
        ..Default::default()
    };
    client.kv().txn(request).await.unwrap();
}

pub(crate) async fn put_one(client: &Client, key: &str, value: &str) {
    txn(client, vec![put(key.into(), value.into(), 0)]).await;
}

fn key(number: usize) -> String {
    format!("/registry/things/{:06}", number * 7919 % 1_000_003)
}

/// Keys with several versions, deletions, leases, large and empty values, and a compaction.
/// The compaction.
pub(crate) async fn fill(client: &Client, keys: usize) -> i64 {
    for id in LEASES {
        let request = LeaseGrantRequest { ttl: 3600, id };
        client.lease().lease_grant(request).await.unwrap();
    }
    for first in (0..keys).step_by(100) {
        let puts = (first..(first + 100).min(keys)).map(|number| {
            let lease = if number % 50 == 0 {
                LEASES[number % 3]
            } else {
                0
            };
            put(key(number), vec![number as u8; number % 300], lease)
        });
        txn(client, puts.collect()).await;
    }
    let compaction = contents::revision(client).await - 3;
    for first in (0..keys).step_by(1000) {
        let again = (first..(first + 90).min(keys)).map(|number| {
            // With and without the lease they had.
            let lease = if number % 100 == 0 { LEASES[0] } else { 0 };
            put(key(number), b"again".to_vec(), lease)
        });
        txn(client, again.collect()).await;
        let from = format!("/registry/things/{:06}", first % 1_000_000);
        txn(
            client,
            vec![
                delete(from.clone() + "0", from + "9"),
                put(key(first), vec![1], 0),
            ],
        )
        .await;
        txn(client, vec![delete(key(first + 1), String::new())]).await;
    }
    for number in 0..3 {
        let large = vec![number; (1 << 20) + usize::from(number)];
        txn(client, vec![put(format!("large{number}"), large, 0)]).await;
    }
    txn(
        client,
        vec![
            delete(key(5), key(5) + "\0"),
            put("empty".into(), vec![], 0),
        ],
    )
    .await;
    let request = CompactionRequest {
        revision: compaction,
        physical: false,
    };
    client.kv().compact(request).await.unwrap();
    compaction
}

/// The leases with the keys they had at a revision.
async fn leased(client: &Client, revision: i64) -> BTreeMap<i64, (i64, Vec<Bytes>)> {
    let mut leases: BTreeMap<_, _> = LEASES.map(|id| (id, (3600, Vec::new()))).into();
    for pair in contents::pairs(client, revision).await {
        if let Some((_, keys)) = leases.get_mut(&pair.lease) {
            keys.push(pair.key);
        }
    }
    leases
}

/// Writes one key again and again until told to stop.
fn keep_writing(client: Client) -> (Arc<AtomicBool>, tokio::task::JoinHandle<()>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let writer = tokio::spawn(async move {
        let mut number = 0;
        while !stopped.load(Ordering::Relaxed) {
            number += 1;
            txn(&client, vec![put("busy".into(), vec![7; number % 2000], 0)]).await;
            txn(&client, vec![put(key(number), vec![8; 10], 0)]).await;
        }
    });
    (stop, writer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_genuine_etcd_takes_our_snapshot() {
    let tools = Tools::all();
    if tools.is_empty() {
        return;
    }
    let single = Single::start().await;
    let client = single.client();
    let compaction = fill(client, 50_000).await;
    let dir = tempfile::tempdir().unwrap();
    let mut taken = Vec::new();
    let (stop, writer) = keep_writing(client.clone());
    for (number, tools) in tools.into_iter().enumerate() {
        let file = dir.path().join(format!("{number}.snapshot"));
        let before = contents::revision(client).await;
        let (endpoint, saving, to) = (single.member.address(), tools.clone(), file.clone());
        tokio::task::spawn_blocking(move || saving.save(&endpoint, &to))
            .await
            .unwrap();
        let after = contents::revision(client).await;
        assert!(after > before, "somebody writes");
        let status = tools.status(&file);
        let revision = status["revision"].as_i64().unwrap();
        assert!(before <= revision && revision <= after, "{status}");
        taken.push((tools, file, revision));
    }
    stop.store(true, Ordering::Relaxed);
    soon(writer).await.unwrap();
    for (tools, file, revision) in taken {
        let data = file.with_extension("etcd");
        tools.restore(&file, &data);
        let server = tools.start(&data).await;
        let theirs = server.client();
        let name = tools.name;
        assert_eq!(contents::revision(theirs).await, revision, "{name}");
        for at in [
            compaction,
            compaction + 1,
            compaction + 40,
            revision - 1,
            revision,
        ] {
            assert_same_pairs(
                &contents::pairs(client, at).await,
                &contents::pairs(theirs, at).await,
                &format!("{name} at {at} of {revision}"),
            );
        }
        assert_eq!(
            contents::refusal(theirs, compaction - 1).await,
            contents::refusal(client, compaction - 1).await
        );
        assert_same_events(
            &contents::events(client, compaction + 1, revision).await,
            &contents::events(theirs, compaction + 1, revision).await,
            name,
        );
        let leases = leased(client, revision).await;
        assert!(leases.values().all(|(_, keys)| !keys.is_empty()));
        assert_eq!(contents::leases(theirs).await, leases, "{name}");
        // It is alive, not a picture.
        txn(theirs, vec![put("new".into(), vec![1], LEASES[0])]).await;
        assert_eq!(contents::revision(theirs).await, revision + 1);
    }
}

/// A whole snapshot, unless it is refused.
pub(crate) async fn try_stream(client: &Client) -> Result<Vec<u8>, tonic::Status> {
    let answer = client.maintenance().snapshot(SnapshotRequest {}).await?;
    let (mut parts, mut file) = (answer.into_inner(), Vec::new());
    while let Some(part) = soon(parts.next()).await {
        file.extend_from_slice(&part?.blob);
    }
    Ok(file)
}

/// The parts of a snapshot, as a client gets them.
pub(crate) async fn stream(client: &Client) -> (Vec<u8>, Vec<(u64, usize)>) {
    let answer = client.maintenance().snapshot(SnapshotRequest {}).await;
    let mut parts = answer.unwrap().into_inner();
    let (mut file, mut sizes) = (Vec::new(), Vec::new());
    while let Some(part) = soon(parts.next()).await {
        let part = part.unwrap();
        assert!(part.header.is_none());
        sizes.push((part.remaining_bytes, part.blob.len()));
        file.extend_from_slice(&part.blob);
    }
    (file, sizes)
}

#[tokio::test]
async fn a_snapshot_says_how_much_is_to_come_and_ends_with_its_checksum() {
    let single = Single::start().await;
    for round in 0..3 {
        if round > 0 {
            let values = (0..50).map(|number| put(key(number), vec![3; 5000 * round], 0));
            txn(single.client(), values.collect()).await;
        }
        let (file, sizes) = stream(single.client()).await;
        assert_eq!(file.len() % 512, 32);
        let (database, sum) = file.split_at(file.len() - 32);
        let expected = ring::digest::digest(&ring::digest::SHA256, database);
        assert_eq!(expected.as_ref(), sum);
        let mut remaining = database.len() as u64;
        for &(told, length) in &sizes[..sizes.len() - 1] {
            remaining -= length as u64;
            assert_eq!(told, remaining);
            assert!(length <= 32 * 1024);
        }
        assert_eq!((remaining, sizes.last()), (0, Some(&(0, 32))));
    }
}

#[tokio::test]
async fn clients_that_do_not_read_do_not_hold_up_others_for_ever() {
    let single = Single::start().await;
    for round in 0..8u8 {
        txn(
            single.client(),
            vec![put(format!("large{round}"), vec![round; 1 << 20], 0)],
        )
        .await;
    }
    // More than fits into the buffers on the way: these are not read to their end.
    let mut idle = Vec::new();
    for _ in 0..trivet_store_etcd::limits::MAX_SNAPSHOTS {
        let client = Client::connect(&single.member.address()).await.unwrap();
        let mut parts = client
            .maintenance()
            .snapshot(SnapshotRequest {})
            .await
            .unwrap()
            .into_inner();
        soon(parts.next()).await.unwrap().unwrap();
        idle.push((client, parts));
    }
    let refused = single
        .client()
        .maintenance()
        .snapshot(SnapshotRequest {})
        .await;
    assert_eq!(
        refused.unwrap_err().message(),
        "etcdserver: too many requests"
    );
    // Whoever goes away makes room.
    drop(idle.pop());
    eventually("there is room again", || async {
        let answer = single
            .client()
            .maintenance()
            .snapshot(SnapshotRequest {})
            .await;
        answer.is_ok()
    })
    .await;
    drop(idle);
    eventually("all of them may come again", || async {
        let open = || async {
            let answer = single
                .client()
                .maintenance()
                .snapshot(SnapshotRequest {})
                .await;
            answer.ok()
        };
        let (first, second) = (open().await, open().await);
        let third = open().await;
        first.is_some() && second.is_some() && third.is_some() && open().await.is_some()
    })
    .await;
}
