//! Clients that send what no client should.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use prost::Message as _;
use tokio_stream::StreamExt as _;
use tonic::Code;
use trivet_datastore::Datastore;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb as pb;

use crate::kv::{get, put};
use crate::support::{Single, soon};

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(i64::MIN),
        Just(i64::MAX),
        Just(i64::MIN + 1),
        -5..20i64,
        any::<i64>(),
    ]
}

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        Just(Bytes::new()),
        Just(Bytes::from_static(b"\0")),
        Just(Bytes::from(vec![0xff; 300])),
        "[a-d]".prop_map(Bytes::from),
        proptest::collection::vec(any::<u8>(), 0..6).prop_map(Bytes::from),
    ]
}

fn range() -> impl Strategy<Value = pb::RangeRequest> {
    (
        (key(), key(), number(), number(), any::<i32>(), -1..7i32),
        (any::<[bool; 3]>(), number(), number(), number(), number()),
    )
        .prop_map(|(first, (flags, a, b, c, d))| pb::RangeRequest {
            key: first.0.to_vec().into(),
            range_end: first.1.to_vec().into(),
            limit: first.2,
            revision: if flags[0] { 0 } else { first.3 },
            sort_order: if flags[1] { first.4 } else { first.5 },
            sort_target: first.5,
            serializable: flags[2],
            keys_only: flags[0],
            count_only: flags[1] && flags[2],
            min_mod_revision: a,
            max_mod_revision: b,
            min_create_revision: c,
            max_create_revision: d,
        })
}

fn put_request() -> impl Strategy<Value = pb::PutRequest> {
    (key(), key(), number(), any::<[bool; 4]>()).prop_map(|(key, value, lease, flags)| {
        pb::PutRequest {
            key: key.to_vec().into(),
            value: value.to_vec().into(),
            lease: if flags[3] { 0 } else { lease },
            prev_kv: flags[0],
            ignore_value: flags[1],
            ignore_lease: flags[2],
        }
    })
}

fn delete() -> impl Strategy<Value = pb::DeleteRangeRequest> {
    (key(), key(), any::<bool>()).prop_map(|(key, end, prev_kv)| pb::DeleteRangeRequest {
        key: key.to_vec().into(),
        range_end: end.to_vec().into(),
        prev_kv,
    })
}

fn compare() -> impl Strategy<Value = pb::Compare> {
    use pb::compare::TargetUnion;
    let union = prop_oneof![
        number().prop_map(TargetUnion::Version),
        number().prop_map(TargetUnion::CreateRevision),
        number().prop_map(TargetUnion::ModRevision),
        key().prop_map(|key| TargetUnion::Value(key.to_vec().into())),
        number().prop_map(TargetUnion::Lease),
    ];
    (
        key(),
        key(),
        -1..6i32,
        -1..7i32,
        proptest::option::of(union),
    )
        .prop_map(|(key, end, result, target, union)| pb::Compare {
            result,
            target,
            key: key.to_vec().into(),
            range_end: end.to_vec().into(),
            target_union: union,
        })
}

fn txn() -> impl Strategy<Value = pb::TxnRequest> {
    use pb::request_op::Request;
    let step = prop_oneof![
        range().prop_map(Request::RequestRange),
        put_request().prop_map(Request::RequestPut),
        delete().prop_map(Request::RequestDeleteRange),
    ];
    let step = proptest::option::of(step).prop_map(|request| pb::RequestOp { request });
    let step = step.prop_recursive(5, 24, 4, |step| {
        let list = || proptest::collection::vec(step.clone(), 0..4);
        (proptest::collection::vec(compare(), 0..3), list(), list()).prop_map(
            |(compare, success, failure)| pb::RequestOp {
                request: Some(Request::RequestTxn(pb::TxnRequest {
                    compare,
                    success,
                    failure,
                })),
            },
        )
    });
    let list = || proptest::collection::vec(step.clone(), 0..4);
    (proptest::collection::vec(compare(), 0..3), list(), list()).prop_map(
        |(compare, success, failure)| pb::TxnRequest {
            compare,
            success,
            failure,
        },
    )
}

#[derive(Debug, Clone)]
enum Call {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(i64, bool),
    Grant(i64, i64),
    Revoke(i64),
    TimeToLive(i64),
    KeepAlive(i64),
    HashKv(i64),
    MoveLeader(u64),
    Promote(u64),
    Watch(Box<pb::WatchCreateRequest>, i64),
}

fn call() -> impl Strategy<Value = Call> {
    let watch = (key(), key(), number(), number(), any::<[bool; 3]>()).prop_map(
        |(key, end, start_revision, watch_id, flags)| {
            let create = pb::WatchCreateRequest {
                key: key.to_vec().into(),
                range_end: end.to_vec().into(),
                start_revision,
                progress_notify: flags[0],
                filters: vec![i32::from(flags[1]) * 7],
                prev_kv: flags[1],
                watch_id,
                fragment: flags[2],
            };
            Call::Watch(Box::new(create), watch_id)
        },
    );
    prop_oneof![
        range().prop_map(Call::Range),
        put_request().prop_map(Call::Put),
        delete().prop_map(Call::Delete),
        txn().prop_map(Call::Txn),
        (number(), any::<bool>()).prop_map(|(at, physical)| Call::Compact(at, physical)),
        (number(), number()).prop_map(|(ttl, id)| Call::Grant(ttl, id)),
        number().prop_map(Call::Revoke),
        number().prop_map(Call::TimeToLive),
        number().prop_map(Call::KeepAlive),
        number().prop_map(Call::HashKv),
        any::<u64>().prop_map(Call::MoveLeader),
        any::<u64>().prop_map(Call::Promote),
        watch,
    ]
}

async fn send(client: &Client, call: Call) -> Result<(), tonic::Status> {
    match call {
        Call::Range(request) => client.kv().range(request).await.map(drop),
        Call::Put(request) => client.kv().put(request).await.map(drop),
        Call::Delete(request) => client.kv().delete_range(request).await.map(drop),
        Call::Txn(request) => client.kv().txn(request).await.map(drop),
        Call::Compact(revision, physical) => {
            let request = pb::CompactionRequest { revision, physical };
            client.kv().compact(request).await.map(drop)
        }
        Call::Grant(ttl, id) => {
            let request = pb::LeaseGrantRequest { ttl, id };
            client.lease().lease_grant(request).await.map(drop)
        }
        Call::Revoke(id) => {
            let request = pb::LeaseRevokeRequest { id };
            client.lease().lease_revoke(request).await.map(drop)
        }
        Call::TimeToLive(id) => {
            let request = pb::LeaseTimeToLiveRequest { id, keys: true };
            client.lease().lease_time_to_live(request).await.map(drop)
        }
        Call::KeepAlive(id) => {
            let requests = tokio_stream::iter([pb::LeaseKeepAliveRequest { id }]);
            let mut answers = client
                .lease()
                .lease_keep_alive(requests)
                .await?
                .into_inner();
            while answers.message().await?.is_some() {}
            Ok(())
        }
        Call::HashKv(revision) => {
            let request = pb::HashKvRequest { revision };
            client.maintenance().hash_kv(request).await.map(drop)
        }
        Call::MoveLeader(target_id) => {
            let request = pb::MoveLeaderRequest { target_id };
            client.maintenance().move_leader(request).await.map(drop)
        }
        Call::Promote(id) => {
            let request = pb::MemberPromoteRequest { id };
            client.cluster().member_promote(request).await.map(drop)
        }
        Call::Watch(create, watch_id) => {
            use pb::watch_request::RequestUnion;
            let cancel = pb::WatchCancelRequest { watch_id };
            let unions = [
                Some(RequestUnion::CreateRequest(*create.clone())),
                Some(RequestUnion::CreateRequest(*create)),
                Some(RequestUnion::CancelRequest(cancel)),
                None,
                Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})),
            ];
            let requests = unions.map(|request_union| pb::WatchRequest { request_union });
            let answers = client.watch().watch(tokio_stream::iter(requests)).await?;
            // The stream stays open for its watches; the first answer is enough.
            answers
                .into_inner()
                .next()
                .await
                .map_or(Ok(()), |answer| answer.map(drop))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_are_answered() {
    let single = Single::start().await;
    let client = single.client();
    let mut runner = TestRunner::default();
    let strategy = call();
    for round in 0..600 {
        let call = strategy.new_tree(&mut runner).unwrap().current();
        let told = format!("{round}: {call:?}");
        if let Err(status) = soon(send(client, call)).await {
            let broken = [
                Code::Internal,
                Code::DataLoss,
                Code::Cancelled,
                Code::Unavailable,
            ];
            assert!(!broken.contains(&status.code()), "{told}: {status:?}");
        }
    }
    // A transaction deeper than anything sensible.
    let mut deep = pb::TxnRequest::default();
    for _ in 0..30 {
        let request = Some(pb::request_op::Request::RequestTxn(deep));
        deep = pb::TxnRequest {
            success: vec![pb::RequestOp { request }],
            ..pb::TxnRequest::default()
        };
    }
    assert!(deep.encoded_len() > 30);
    // It does nothing at all, and may just as well be refused.
    let _answered = soon(client.kv().txn(deep)).await;
    soon(client.kv().put(put("still", "here"))).await.unwrap();
    let found = soon(client.kv().range(get("still"))).await.unwrap();
    assert_eq!(found.into_inner().count, 1);
    single.member.store.shutdown().await;
}
