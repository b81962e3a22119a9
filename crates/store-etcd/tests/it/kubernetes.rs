//! The requests of a Kubernetes API server, in its own shapes.

use trivet_datastore::Datastore;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb as pb;
use trivet_store_etcd::proto::etcdserverpb::request_op::Request;
use trivet_store_etcd::proto::etcdserverpb::response_op::Response;
use trivet_store_etcd::proto::mvccpb::event::EventType;

use crate::kv::{get, get_step, mod_is, op, prefix, put, put_step};
use crate::support::{Single, eventually};
use crate::watch::{Stream, watch};

const POD: &str = "/registry/pods/default/web";

async fn txn(client: &Client, request: pb::TxnRequest) -> pb::TxnResponse {
    client.kv().txn(request).await.unwrap().into_inner()
}

fn create(value: &'static str) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: vec![mod_is(POD, 0)],
        success: vec![put_step(POD, value)],
        failure: vec![],
    }
}

fn update(revision: i64, value: &'static str) -> pb::TxnRequest {
    pb::TxnRequest {
        compare: vec![mod_is(POD, revision)],
        success: vec![put_step(POD, value)],
        failure: vec![get_step(POD)],
    }
}

fn delete(revision: i64) -> pb::TxnRequest {
    let step = pb::DeleteRangeRequest {
        key: POD.into(),
        ..Default::default()
    };
    pb::TxnRequest {
        compare: vec![mod_is(POD, revision)],
        success: vec![op(Request::RequestDeleteRange(step))],
        failure: vec![get_step(POD)],
    }
}

/// The revision where API servers up to 1.31 look for it, and where later ones do.
fn revisions(response: &pb::TxnResponse) -> (i64, i64) {
    let inner = match response.responses[0].response.as_ref().unwrap() {
        Response::ResponsePut(step) => step.header,
        Response::ResponseDeleteRange(step) => step.header,
        other => panic!("{other:?}"),
    };
    (inner.unwrap().revision, response.header.unwrap().revision)
}

fn current(response: &pb::TxnResponse) -> (i64, String) {
    let Some(Response::ResponseRange(range)) = &response.responses[0].response else {
        panic!("{response:?}");
    };
    let kv = &range.kvs[0];
    (kv.mod_revision, String::from_utf8_lossy(&kv.value).into())
}

#[tokio::test]
async fn objects_are_created_updated_and_deleted_under_guard() {
    let single = Single::start().await;
    let client = single.client();
    let made = txn(client, create("1")).await;
    assert!(made.succeeded);
    assert_eq!(revisions(&made), (2, 2));
    let lost = txn(client, create("2")).await;
    assert!(!lost.succeeded && lost.responses.is_empty());
    let updated = txn(client, update(2, "2")).await;
    assert_eq!(revisions(&updated), (3, 3));
    // The loser gets what is there in the same step.
    for lost in [update(2, "3"), delete(2)] {
        let lost = txn(client, lost).await;
        assert!(!lost.succeeded);
        assert_eq!(current(&lost), (3, "2".to_owned()));
    }
    let deleted = txn(client, delete(3)).await;
    assert_eq!(revisions(&deleted), (4, 4));
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn pages_are_of_one_revision_while_others_write() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    let key = |number: usize| format!("/registry/pods/default/p{number:02}");
    for number in 0..25 {
        let request = pb::PutRequest {
            key: key(number).into(),
            ..Default::default()
        };
        kv.put(request).await.unwrap();
    }
    let (mut start, mut pinned, mut names) = ("/registry/pods/".to_owned(), 0, Vec::new());
    loop {
        let request = pb::RangeRequest {
            key: start.clone().into(),
            limit: 10,
            revision: pinned,
            ..prefix("", "/registry/pods0")
        };
        let page = kv.range(request).await.unwrap().into_inner();
        if pinned == 0 {
            pinned = page.header.unwrap().revision;
        }
        let before = names.len();
        names.extend(page.kvs.iter().map(|kv| kv.key.clone()));
        // What remains is worked out from the count, which is of the whole range at that revision.
        assert_eq!(page.count as usize, 25 - before);
        assert_eq!(page.more, page.kvs.len() < page.count as usize);
        if !page.more {
            break;
        }
        let last = page.kvs.last().unwrap().key.to_vec();
        start = String::from_utf8(last).unwrap() + "\0";
        // Neither new objects nor deleted ones show on later pages.
        kv.put(pb::PutRequest {
            key: (key(90) + &names.len().to_string()).into(),
            ..Default::default()
        })
        .await
        .unwrap();
        kv.delete_range(pb::DeleteRangeRequest {
            key: key(24 - before / 10).into(),
            ..Default::default()
        })
        .await
        .unwrap();
    }
    let expected: Vec<_> = (0..25)
        .map(|number| bytes::Bytes::from(key(number)))
        .collect();
    assert_eq!(names, expected);
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn a_consistent_list_waits_for_progress_of_the_cache() {
    let single = Single::start().await;
    let client = single.client();
    let mut kv = client.kv();
    let mut cache = Stream::open_with(client, |request| {
        request
            .metadata_mut()
            .insert("hasleader", "true".parse().unwrap());
    })
    .await;
    cache
        .create(pb::WatchCreateRequest {
            start_revision: 2,
            prev_kv: true,
            progress_notify: true,
            ..watch("/registry/pods/", "/registry/pods0")
        })
        .await;
    assert!(cache.next().await.created);
    let mut cached = 0;
    for round in 1..=20_i64 {
        kv.put(put(POD, "v")).await.unwrap();
        // Another resource moves the revision on, and the cache hears nothing of it.
        kv.put(put("/registry/leases/x", "v")).await.unwrap();
        // The current revision, from a key that never exists.
        let probe = pb::RangeRequest {
            limit: 1,
            ..get("/registry/pods")
        };
        let revision = kv.range(probe).await.unwrap().into_inner();
        let revision = revision.header.unwrap().revision;
        assert_eq!(revision, 1 + 2 * round);
        cache.ask_progress().await;
        loop {
            let response = cache.next().await;
            for event in &response.events {
                // Without what was there before, an update is an error to Kubernetes.
                let kv = event.kv.as_ref().unwrap();
                assert_eq!(event.prev_kv.is_none(), kv.version == 1);
                cached = kv.mod_revision;
            }
            let at = response.header.unwrap().revision;
            if response.events.is_empty() && at >= revision {
                break;
            }
        }
        assert_eq!(cached, 2 * round, "everything up to {revision} came first");
    }
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn an_event_lease_takes_all_its_keys_in_one_revision() {
    let single = Single::start().await;
    let client = single.client();
    let mut kv = client.kv();
    let granted = client
        .lease()
        .lease_grant(pb::LeaseGrantRequest { ttl: 1, id: 0 })
        .await
        .unwrap()
        .into_inner();
    let start = std::time::Instant::now();
    const KEYS: i64 = 100;
    for number in 0..KEYS {
        kv.put(pb::PutRequest {
            key: format!("/registry/events/default/e{number:03}").into(),
            lease: granted.id,
            ..Default::default()
        })
        .await
        .unwrap();
    }
    let mut stream = Stream::open(client).await;
    stream
        .create(pb::WatchCreateRequest {
            start_revision: KEYS + 2,
            prev_kv: true,
            ..watch("/registry/events/", "/registry/events0")
        })
        .await;
    assert!(stream.next().await.created);
    let gone = stream.events().await;
    assert!(start.elapsed().as_secs_f64() >= 0.99, "never early");
    assert_eq!(gone.events.len() as i64, KEYS);
    for event in &gone.events {
        assert_eq!(event.r#type(), EventType::Delete);
        assert_eq!(event.kv.as_ref().unwrap().mod_revision, KEYS + 2);
        assert_eq!(event.prev_kv.as_ref().unwrap().lease, granted.id);
    }
    single.member.store.shutdown().await;
}

/// One round of an API server's compactor: takes its turn, or adopts the other one's.
async fn compact_round(client: &Client, time: &mut i64, target: &mut i64) -> bool {
    let key = "compact_rev_key";
    let compare = pb::Compare {
        target: pb::compare::CompareTarget::Version.into(),
        key: key.into(),
        target_union: Some(pb::compare::TargetUnion::Version(*time)),
        ..Default::default()
    };
    let text = pb::PutRequest {
        key: key.into(),
        value: target.to_string().into(),
        ..Default::default()
    };
    let request = pb::TxnRequest {
        compare: vec![compare],
        success: vec![op(Request::RequestPut(text))],
        failure: vec![get_step(key)],
    };
    let response = txn(client, request).await;
    let remembered = std::mem::replace(target, response.header.unwrap().revision);
    if !response.succeeded {
        let Some(Response::ResponseRange(range)) = &response.responses[0].response else {
            panic!("{response:?}");
        };
        *time = range.kvs[0].version;
        return false;
    }
    *time += 1;
    if remembered > 0 {
        let request = pb::CompactionRequest {
            revision: remembered,
            physical: false,
        };
        client.kv().compact(request).await.unwrap();
    }
    true
}

#[tokio::test]
async fn two_compactors_take_turns() {
    let single = Single::start().await;
    let client = single.client();
    let (mut first, mut second) = ((0, 0), (0, 0));
    let mut won = 0;
    let mut last = 0;
    for _ in 0..6 {
        client.kv().put(put(POD, "v")).await.unwrap();
        let outcomes = [
            compact_round(client, &mut first.0, &mut first.1).await,
            compact_round(client, &mut second.0, &mut second.1).await,
        ];
        assert_eq!(outcomes, [true, false], "the loser adopts, and loses again");
        won += 1;
        last = first.1;
    }
    assert_eq!(won, 6);
    assert_eq!(first.0, second.0);
    // What the round before remembered is compacted, what the last one remembered is not.
    let at = |revision| pb::RangeRequest {
        revision,
        ..get(POD)
    };
    assert!(client.kv().range(at(last)).await.is_ok());
    assert!(client.kv().range(at(2)).await.is_err());
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn the_probe_of_features_and_size() {
    let single = Single::start().await;
    let client = single.client();
    let status = || async {
        let mut maintenance = client.maintenance();
        let status = maintenance.status(pb::StatusRequest::default()).await;
        status.unwrap().into_inner()
    };
    let first = status().await;
    assert!(first.errors.is_empty() && first.leader != 0 && !first.is_learner);
    assert_eq!(first.header.unwrap().revision, 1);
    for _ in 0..4 {
        let request = pb::PutRequest {
            key: POD.into(),
            value: vec![1; 1_000_000].into(),
            ..Default::default()
        };
        client.kv().put(request).await.unwrap();
    }
    eventually("the size is that of what was written", || async {
        status().await.db_size > first.db_size + 3_000_000
    })
    .await;
    // The count metric.
    let counted = pb::RangeRequest {
        count_only: true,
        ..prefix("/registry/pods/", "/registry/pods0")
    };
    let counted = client.kv().range(counted).await.unwrap().into_inner();
    assert_eq!((counted.count, counted.kvs.len()), (1, 0));
    single.member.store.shutdown().await;
}
