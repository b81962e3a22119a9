//! Alarms, space, and the limits that can be set.

use std::sync::Arc;

use tempfile::TempDir;
use tonic::Code;
use trivet_datastore::{Datastore, Error, Expect, PutRequest};
use trivet_env::Env;
use trivet_store_etcd::StoreConfig;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb as pb;

use crate::kv::{get, prefix, put};
use crate::support::{Member, Single, Three, eventually, settings, soon};

use pb::alarm_request::AlarmAction::{Activate, Deactivate, Get};
use pb::downgrade_request::DowngradeAction;

const FULL: &str = "etcdserver: mvcc: database space exceeded";

/// A member with settings of its own.
async fn member(change: impl FnOnce(&mut StoreConfig)) -> (Member, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings(Env::real(), dir.path().join("trivet"));
    change(&mut config);
    (Member::open(config).await, dir)
}

async fn alarm(
    client: &Client,
    action: pb::alarm_request::AlarmAction,
    member_id: u64,
    alarm: pb::AlarmType,
) -> Vec<(u64, pb::AlarmType)> {
    let request = pb::AlarmRequest {
        action: action.into(),
        member_id,
        alarm: alarm.into(),
    };
    let response = soon(client.maintenance().alarm(request)).await.unwrap();
    let response = response.into_inner();
    assert!(response.header.unwrap().revision > 0);
    response
        .alarms
        .iter()
        .map(|raised| (raised.member_id, raised.alarm()))
        .collect()
}

async fn alarms(client: &Client) -> Vec<(u64, pb::AlarmType)> {
    alarm(client, Get, 0, pb::AlarmType::None).await
}

async fn status(client: &Client) -> pb::StatusResponse {
    let status = soon(client.maintenance().status(pb::StatusRequest {})).await;
    status.unwrap().into_inner()
}

/// Code and text of a refusal.
fn refusal<T>(outcome: Result<T, tonic::Status>) -> (Code, String) {
    let status = outcome.err().expect("it must be refused");
    (status.code(), status.message().to_owned())
}

async fn delete_all(client: &Client) -> i64 {
    let request = pb::DeleteRangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        prev_kv: false,
    };
    let deleted = soon(client.kv().delete_range(request)).await.unwrap();
    deleted.into_inner().deleted
}

#[tokio::test]
async fn alarms_are_raised_shown_and_ended_as_in_etcd() {
    use pb::AlarmType::{Corrupt, None, Nospace};
    let single = Single::start().await;
    let client = single.client();
    soon(client.kv().put(put("k", "v"))).await.unwrap();
    assert_eq!(alarms(client).await, []);
    assert_eq!(alarm(client, Activate, 5, None).await, []);
    assert_eq!(alarm(client, Deactivate, 0, None).await, []);
    for _ in 0..2 {
        assert_eq!(alarm(client, Activate, 5, Nospace).await, [(5, Nospace)]);
    }
    assert_eq!(alarm(client, Activate, 3, Nospace).await, [(3, Nospace)]);
    assert_eq!(alarm(client, Activate, 5, Corrupt).await, [(5, Corrupt)]);
    assert_eq!(
        alarms(client).await,
        [(3, Nospace), (5, Nospace), (5, Corrupt)]
    );
    assert_eq!(alarm(client, Get, 0, Corrupt).await, [(5, Corrupt)]);
    assert_eq!(
        status(client).await.errors,
        [
            "memberID:3 alarm:NOSPACE ",
            "memberID:5 alarm:NOSPACE ",
            "memberID:5 alarm:CORRUPT "
        ]
    );
    // CORRUPT weighs more: nothing is changed, reads answer.
    let corrupt = (Code::DataLoss, "etcdserver: corrupt cluster".to_owned());
    assert_eq!(refusal(client.kv().put(put("k", "w")).await), corrupt);
    let delete = pb::DeleteRangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    assert_eq!(refusal(client.kv().delete_range(delete).await), corrupt);
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 7 };
    assert_eq!(refusal(client.lease().lease_grant(grant).await), corrupt);
    let revoke = pb::LeaseRevokeRequest { id: 7 };
    assert_eq!(refusal(client.lease().lease_revoke(revoke).await), corrupt);
    let compact = pb::CompactionRequest {
        revision: 1,
        physical: false,
    };
    assert_eq!(refusal(client.kv().compact(compact).await), corrupt);
    let found = soon(client.kv().range(get("k")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(&found.kvs[0].value[..], b"v");

    assert_eq!(alarm(client, Deactivate, 5, Corrupt).await, [(5, Corrupt)]);
    assert_eq!(alarm(client, Deactivate, 5, Corrupt).await, []);
    let full = (Code::ResourceExhausted, FULL.to_owned());
    assert_eq!(refusal(client.kv().put(put("k", "w")).await), full);
    assert_eq!(refusal(client.lease().lease_grant(grant).await), full);
    // A transaction counts as adding if either branch might.
    let txn = pb::TxnRequest {
        failure: vec![pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put("k", "w"))),
        }],
        ..Default::default()
    };
    assert_eq!(refusal(client.kv().txn(txn).await), full);
    soon(client.kv().compact(compact)).await.unwrap();
    assert_eq!(delete_all(client).await, 1);
    // One alarm less is not enough.
    assert_eq!(alarm(client, Deactivate, 3, Nospace).await, [(3, Nospace)]);
    assert_eq!(refusal(client.kv().put(put("k", "w")).await), full);
    assert_eq!(alarm(client, Deactivate, 5, Nospace).await, [(5, Nospace)]);
    soon(client.kv().put(put("k", "w"))).await.unwrap();
    assert!(status(client).await.errors.is_empty());

    let unknown = pb::AlarmRequest {
        action: 9,
        ..Default::default()
    };
    let unknown = client.maintenance().alarm(unknown).await;
    let expected = (Code::Unknown, "etcdserver: unknown method".to_owned());
    assert_eq!(refusal(unknown), expected);
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn alarms_survive_a_restart_and_reach_every_member() {
    use pb::AlarmType::Nospace;
    let (member, _dir) = member(|_| {}).await;
    alarm(&member.client, Activate, 5, Nospace).await;
    member.store.shutdown().await;
    let Member { config, store, .. } = member;
    drop(store);
    let member = Member::open(config).await;
    assert_eq!(alarms(&member.client).await, [(5, Nospace)]);
    let refused = member.client.kv().put(put("k", "v")).await;
    assert_eq!(refusal(refused).1, FULL);
    member.store.shutdown().await;

    let three = Three::start().await;
    alarm(&three.members[0].client, Activate, 9, Nospace).await;
    for member in &three.members {
        assert_eq!(alarms(&member.client).await, [(9, Nospace)]);
        let refused = member.client.kv().put(put("k", "v")).await;
        assert_eq!(refusal(refused).1, FULL);
    }
    alarm(&three.members[1].client, Deactivate, 9, Nospace).await;
    for member in &three.members {
        soon(member.client.kv().put(put("k", "v"))).await.unwrap();
    }
    three.shutdown().await;
}

/// Puts 100 KiB a time until the quota is used up.
async fn fill(client: &Client) -> usize {
    let value = vec![b'v'; 100 << 10];
    for number in 0..1000 {
        let request = pb::PutRequest {
            key: format!("k{number}").into(),
            value: value.clone().into(),
            ..Default::default()
        };
        if let Err(status) = soon(client.kv().put(request)).await {
            let expected = (Code::ResourceExhausted, FULL.to_owned());
            assert_eq!((status.code(), status.message().to_owned()), expected);
            return number;
        }
    }
    panic!("the quota is never used up");
}

const QUOTA: i64 = 3 << 20;

#[tokio::test]
async fn a_full_store_stays_full_until_the_alarm_is_ended() {
    let (member, _dir) = member(|config| config.quota_bytes = QUOTA).await;
    let client = &member.client;
    let keys = fill(client).await;
    assert!((25..=31).contains(&keys), "{keys} keys of 100 KiB");
    let before = status(client).await;
    assert!((2 << 20..=QUOTA).contains(&before.db_size), "{before:?}");
    let id = before.header.unwrap().member_id;
    assert_eq!(before.errors, [format!("memberID:{id} alarm:NOSPACE ")]);
    // What the estimate lets through is refused by the alarm.
    assert_eq!(refusal(client.kv().put(put("k", "v")).await).1, FULL);
    let found = soon(client.kv().range(prefix("k", "l"))).await.unwrap();
    assert_eq!(found.into_inner().count, keys as i64);
    assert_eq!(delete_all(client).await, keys as i64);
    let revision = status(client).await.header.unwrap().revision;
    let compact = pb::CompactionRequest {
        revision,
        physical: true,
    };
    soon(client.kv().compact(compact)).await.unwrap();
    soon(client.maintenance().defragment(pb::DefragmentRequest {}))
        .await
        .unwrap();
    let after = status(client).await;
    assert!(after.db_size < 64 << 10, "{after:?}");
    assert!(after.db_size_in_use <= after.db_size);
    assert_eq!(refusal(client.kv().put(put("k", "v")).await).1, FULL);
    assert_eq!(
        alarm(client, Deactivate, id, pb::AlarmType::Nospace).await,
        [(id, pb::AlarmType::Nospace)]
    );
    assert_eq!(fill(client).await, keys);
    member.store.shutdown().await;
}

#[tokio::test]
async fn a_control_planes_store_takes_writes_again_after_deletions() {
    let (member, _dir) = member(|config| {
        config.quota_bytes = QUOTA;
        config.alarm_clears_itself = true;
    })
    .await;
    let client = &member.client;
    fill(client).await;
    assert_eq!(alarms(client).await.len(), 1);
    let datastore: &dyn Datastore = &*member.store;
    let request = || PutRequest {
        key: "k".into(),
        value: "v".into(),
        expect: Expect::Any,
        lease: None,
    };
    let refused = datastore.put(request()).await.unwrap_err();
    assert!(matches!(refused, Error::OutOfSpace), "{refused:?}");
    // What is there stays, however long the alarm lasts.
    delete_all(client).await;
    eventually("writes resume by themselves", || async {
        datastore.put(request()).await.is_ok()
    })
    .await;
    assert_eq!(alarms(client).await, []);
    assert!(status(client).await.db_size < QUOTA * 9 / 10);
    member.store.shutdown().await;
}

#[tokio::test]
async fn without_a_quota_there_is_no_end() {
    let (member, _dir) = member(|config| config.quota_bytes = -1).await;
    soon(member.client.kv().put(put("k", "v"))).await.unwrap();
    member.store.shutdown().await;
    // The smallest one is used up from the start.
    let (member, _dir) = self::member(|config| config.quota_bytes = 1).await;
    let refused = member.client.kv().put(put("k", "v")).await;
    assert_eq!(refusal(refused).1, FULL);
    member.store.shutdown().await;
}

#[tokio::test]
async fn limits_of_requests_can_be_set() {
    let (member, _dir) = member(|config| {
        config.max_request_bytes = 10_000;
        config.max_txn_ops = 3;
    })
    .await;
    let client = &member.client;
    let large = |bytes: usize| pb::PutRequest {
        key: "k".into(),
        value: vec![0; bytes].into(),
        ..Default::default()
    };
    soon(client.kv().put(large(9_000))).await.unwrap();
    let refused = refusal(client.kv().put(large(10_000)).await);
    let expected = "etcdserver: request is too large";
    assert_eq!(refused, (Code::InvalidArgument, expected.to_owned()));
    let refused = refusal(client.kv().put(large(600_000)).await);
    assert_eq!(refused.0, Code::ResourceExhausted);
    let limit = 10_000 + 512 * 1024;
    assert!(
        refused
            .1
            .starts_with("grpc: received message larger than max (")
            && refused.1.ends_with(&format!(" vs. {limit})")),
        "{refused:?}"
    );
    let step = |request| pb::RequestOp {
        request: Some(request),
    };
    let gets = |count| pb::TxnRequest {
        success: vec![step(pb::request_op::Request::RequestRange(get("k"))); count],
        ..Default::default()
    };
    soon(client.kv().txn(gets(3))).await.unwrap();
    let too_many = "etcdserver: too many operations in txn request";
    assert_eq!(refusal(client.kv().txn(gets(4)).await).1, too_many);
    // A nested transaction has what its parent leaves.
    let nested = |outer: usize, inner: usize| {
        let mut txn = gets(outer - 1);
        let inner = pb::request_op::Request::RequestTxn(gets(inner));
        txn.success.push(step(inner));
        txn
    };
    soon(client.kv().txn(nested(1, 2))).await.unwrap();
    soon(client.kv().txn(nested(2, 1))).await.unwrap();
    assert_eq!(refusal(client.kv().txn(nested(1, 3)).await).1, too_many);
    assert_eq!(refusal(client.kv().txn(nested(2, 2)).await).1, too_many);
    // What comes first counts.
    let mut both = nested(2, 2);
    both.success
        .push(step(pb::request_op::Request::RequestPut(put("", ""))));
    assert_eq!(refusal(client.kv().txn(both).await).1, too_many);
    member.store.shutdown().await;

    let dir = tempfile::tempdir().unwrap();
    let mut config = settings(Env::real(), dir.path().join("trivet"));
    config.max_request_bytes = 1 << 30;
    let refused = trivet_store_etcd::open(config).await.unwrap_err();
    assert!(matches!(refused, Error::Invalid(_)), "{refused:?}");
}

/// What etcd 3.5 answers, but for enabling one: it waits there until the time is over.
#[tokio::test]
async fn downgrades_are_answered_as_a_3_5_server_does() {
    let single = Single::start().await;
    let ask = |action: i32, version: &'static str| {
        let mut maintenance = single.client().maintenance();
        async move {
            let version = version.to_owned();
            let request = pb::DowngradeRequest { action, version };
            soon(maintenance.downgrade(request))
                .await
                .map(tonic::Response::into_inner)
        }
    };
    let (validate, enable, cancel) = (
        DowngradeAction::Validate.into(),
        DowngradeAction::Enable.into(),
        DowngradeAction::Cancel.into(),
    );
    for version in ["3.4", "3.4.0", "3.4.7"] {
        let answer = ask(validate, version).await.unwrap();
        assert_eq!(answer.version, "3.5.0");
        assert_eq!(answer.header.unwrap().revision, 1);
    }
    let format = "etcdserver: wrong downgrade target version format";
    let target = "etcdserver: invalid downgrade target version";
    for (action, version, code, text) in [
        (validate, "abc", Code::InvalidArgument, format),
        (validate, "3", Code::InvalidArgument, format),
        (validate, "", Code::InvalidArgument, format),
        (validate, "3.5", Code::InvalidArgument, target),
        (validate, "3.3", Code::InvalidArgument, target),
        (validate, "4.4", Code::InvalidArgument, target),
        (enable, "abc", Code::InvalidArgument, format),
        (enable, "3.6", Code::InvalidArgument, target),
        (
            enable,
            "3.4",
            Code::FailedPrecondition,
            "etcdserver: not capable",
        ),
        (
            cancel,
            "",
            Code::FailedPrecondition,
            "etcdserver: no inflight downgrade job",
        ),
        (7, "3.4", Code::Unknown, "etcdserver: unknown method"),
    ] {
        let refused = refusal(ask(action, version).await);
        assert_eq!(refused, (code, text.to_owned()), "{action} {version:?}");
    }
    let hash = |client: Client| async move {
        let hash = soon(client.maintenance().hash(pb::HashRequest {})).await;
        hash.unwrap().into_inner().hash
    };
    let empty = hash(single.client().clone()).await;
    soon(single.client().kv().put(put("k", "v"))).await.unwrap();
    assert_ne!(hash(single.client().clone()).await, empty);
    single.member.store.shutdown().await;
}

/// Readers and writers do not notice, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defragmenting_gives_space_back_while_others_go_on() {
    let (member, _dir) = member(|_| {}).await;
    let client = &member.client;
    let value = |number: usize| vec![number as u8; 4 << 10];
    for number in 0..1000 {
        let request = pb::PutRequest {
            key: format!("k{}", number % 50).into(),
            value: value(number).into(),
            ..Default::default()
        };
        soon(client.kv().put(request)).await.unwrap();
    }
    let before = status(client).await;
    let revision = before.header.unwrap().revision;
    let compact = pb::CompactionRequest {
        revision,
        physical: true,
    };
    soon(client.kv().compact(compact)).await.unwrap();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writing = {
        let (client, done) = (client.clone(), done.clone());
        tokio::spawn(async move {
            let mut written = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || written == 0 {
                soon(client.kv().put(put("w", "x"))).await.unwrap();
                written += 1;
            }
            written
        })
    };
    let all =
        futures_util::future::join_all((0..2).map(|_| async {
            soon(client.maintenance().defragment(pb::DefragmentRequest {})).await
        }))
        .await;
    for response in all {
        assert_eq!(response.unwrap().into_inner().header, None);
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let written = soon(writing).await.unwrap();
    assert!(written > 0);
    let after = status(client).await;
    assert!(
        after.db_size * 4 < before.db_size && after.db_size < 1 << 20,
        "{before:?} {after:?}"
    );
    let found = soon(client.kv().range(prefix("k", "l"))).await.unwrap();
    let found = found.into_inner();
    assert_eq!(found.count, 50);
    for pair in &found.kvs {
        let number: usize = std::str::from_utf8(&pair.key[1..])
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(pair.value, value(950 + number));
    }
    member.store.shutdown().await;
    let Member { config, store, .. } = member;
    drop(store);
    let member = Member::open(config).await;
    let again = soon(member.client.kv().range(prefix("k", "l")))
        .await
        .unwrap();
    assert_eq!(again.into_inner().kvs, found.kvs);
    member.store.shutdown().await;
}
