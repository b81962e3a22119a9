//! The lock service, and locks as `etcdctl` makes them.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use tonic::Code;
use tonic::transport::Channel;
use trivet_datastore::Datastore;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb as pb;
use trivet_store_etcd::proto::mvccpb::KeyValue;
use trivet_store_etcd::proto::v3lockpb::{LockRequest, UnlockRequest, lock_client::LockClient};

use crate::etcdctl;
use crate::support::{Single, Three, eventually, soon};

fn locks(client: &Client) -> LockClient<Channel> {
    LockClient::new(client.channel())
}

pub(crate) async fn lease(client: &Client) -> i64 {
    let grant = pb::LeaseGrantRequest { ttl: 600, id: 0 };
    let granted = client.lease().lease_grant(grant).await.unwrap();
    granted.into_inner().id
}

pub(crate) async fn revoke(client: &Client, id: i64) {
    let revoke = pb::LeaseRevokeRequest { id };
    client.lease().lease_revoke(revoke).await.unwrap();
}

/// The keys with a prefix, the oldest first.
pub(crate) async fn queue(client: &Client, prefix: &str) -> Vec<KeyValue> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    let range = pb::RangeRequest {
        key: Bytes::from(prefix.to_owned()),
        range_end: end.into(),
        sort_order: pb::range_request::SortOrder::Ascend.into(),
        sort_target: pb::range_request::SortTarget::Create.into(),
        ..Default::default()
    };
    client.kv().range(range).await.unwrap().into_inner().kvs
}

fn lock(name: &str, lease: i64) -> LockRequest {
    LockRequest {
        name: Bytes::from(name.to_owned()),
        lease,
    }
}

async fn unlock(client: &Client, key: Bytes) {
    let unlock = UnlockRequest { key };
    soon(locks(client).unlock(unlock)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_holder_at_a_time_in_the_order_of_their_keys() {
    const CONTENDERS: usize = 30;
    let three = Arc::new(Three::start().await);
    let held = Arc::new(AtomicBool::new(false));
    let turns = Arc::new(AtomicUsize::new(0));
    let mut contenders = Vec::new();
    for number in 0..CONTENDERS {
        let (three, held, turns) = (three.clone(), held.clone(), turns.clone());
        contenders.push(tokio::spawn(async move {
            // Through every member, leader or not.
            let client = &three.members[number % 3].client;
            let lease = lease(client).await;
            let got = soon(locks(client).lock(lock("resource", lease))).await;
            let got = got.unwrap().into_inner();
            assert!(!held.swap(true, Ordering::SeqCst), "two hold the lock");
            let queue = queue(client, "resource/").await;
            assert_eq!(queue[0].key, got.key, "the oldest key holds the lock");
            assert_eq!(got.key, format!("resource/{lease:x}"));
            assert!(got.header.unwrap().revision >= queue[0].create_revision);
            turns.fetch_add(1, Ordering::SeqCst);
            held.store(false, Ordering::SeqCst);
            // Some leave by their lease.
            match number % 2 {
                0 => unlock(client, got.key).await,
                _ => revoke(client, lease).await,
            }
        }));
    }
    for contender in contenders {
        contender.await.unwrap();
    }
    assert_eq!(turns.load(Ordering::SeqCst), CONTENDERS);
    assert_eq!(queue(&three.members[0].client, "resource/").await, []);
    three.shutdown().await;
}

#[tokio::test]
async fn sessions_and_their_keys() {
    let single = Single::start().await;
    let client = single.client();
    // Without a lease, a session of 60 seconds is made.
    let first = locks(client).lock(lock("a", 0)).await.unwrap().into_inner();
    let pair = queue(client, "a/").await.remove(0);
    assert_eq!(pair.key, format!("a/{:x}", pair.lease));
    assert_eq!((pair.key, pair.value.len()), (first.key.clone(), 0));
    let alive = pb::LeaseTimeToLiveRequest {
        id: pair.lease,
        keys: false,
    };
    let alive = client.lease().lease_time_to_live(alive).await.unwrap();
    assert_eq!(alive.into_inner().granted_ttl, 60);
    // The holder gets it again at once, by the same key.
    let again = soon(locks(client).lock(lock("a", pair.lease)))
        .await
        .unwrap();
    assert_eq!(again.into_inner().key, first.key);
    unlock(client, first.key.clone()).await;
    // It is no error that nothing is held.
    unlock(client, first.key).await;

    // Lease ids may be negative, names empty.
    let grant = pb::LeaseGrantRequest { ttl: 60, id: -77 };
    client.lease().lease_grant(grant).await.unwrap();
    let odd = locks(client).lock(lock("", -77)).await.unwrap();
    assert_eq!(odd.into_inner().key, "/-4d");

    // Every failure has the code Unknown, as etcd's have.
    let refused = locks(client).lock(lock("a", 1234)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unknown);
    assert_eq!(refused.message(), "etcdserver: requested lease not found");
    let refused = locks(client).unlock(UnlockRequest::default()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unknown);
    assert_eq!(refused.message(), "etcdserver: key is not provided");
    single.member.store.shutdown().await;
}

/// A holder, and a call that waits behind it.
async fn waiting(
    single: &Single,
    lease: i64,
) -> (Bytes, tokio::task::JoinHandle<Result<Bytes, tonic::Status>>) {
    let client = single.client();
    let held = locks(client).lock(lock("q", 0)).await.unwrap().into_inner();
    let mut behind = locks(client);
    let call = tokio::spawn(async move {
        let got = behind.lock(lock("q", lease)).await?;
        Ok(got.into_inner().key)
    });
    eventually("the second stands in the queue", || async {
        queue(client, "q/").await.len() == 2
    })
    .await;
    (held.key, call)
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_no_key() {
    let single = Single::start().await;
    let client = single.client();
    let id = lease(client).await;
    let (held, call) = waiting(&single, id).await;
    call.abort();
    eventually("only the holder's key is left", || async {
        let queue = queue(client, "q/").await;
        queue.len() == 1 && queue[0].key == held
    })
    .await;
    // The lease is the caller's and stays.
    let (_, again) = (unlock(client, held).await, lock("q", id));
    soon(locks(client).lock(again)).await.unwrap();
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn a_session_that_ends_while_it_waits_gets_nothing() {
    let single = Single::start().await;
    let client = single.client();
    let id = lease(client).await;
    let (held, call) = waiting(&single, id).await;
    revoke(client, id).await;
    let refused = soon(call).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unknown);
    assert_eq!(refused.message(), "mutex: session is expired");
    assert_eq!(queue(client, "q/").await[0].key, held);
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn a_store_that_stops_answers_those_who_wait() {
    let single = Single::start().await;
    let id = lease(single.client()).await;
    let (_, call) = waiting(&single, id).await;
    soon(single.member.store.shutdown()).await;
    let refused = soon(call).await.unwrap().unwrap_err();
    assert!(refused.message().contains("server stopped"), "{refused:?}");
}

/// The recipe of `etcdctl` and the service stand in the same queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_waits_for_a_lock_of_the_service() {
    if !etcdctl::installed() {
        return;
    }
    let single = Single::start().await;
    let client = single.client();
    let held = locks(client).lock(lock("shared", 0)).await.unwrap();
    let words = ["lock", "shared", "--", "echo", "inside"];
    let child = etcdctl::command(&single.member.address(), &words)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("etcdctl stands in the queue", || async {
        queue(client, "shared/").await.len() == 2
    })
    .await;
    // And a third behind it.
    let mut third = locks(client);
    let third = tokio::spawn(async move { third.lock(lock("shared", 0)).await });
    eventually("a third stands in the queue", || async {
        queue(client, "shared/").await.len() == 3
    })
    .await;
    unlock(client, held.into_inner().key).await;
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = soon(output).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "inside\n");
    assert!(output.status.success());
    soon(third).await.unwrap().unwrap();
    single.member.store.shutdown().await;
}
