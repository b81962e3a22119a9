//! The places where the obvious implementation of etcd is visibly wrong to a client.
//!
//! | trap | what | test |
//! |---|---|---|
//! | 1 | code and text of errors; two arrive as Unknown | `trap_01…`, `kv::errors_have_etcds_code_and_text` |
//! | 2 | the header tells the current revision, and is absent or without one in places | `trap_02…` |
//! | 3 | where revisions, watch ids and compactions begin | `trap_03…` |
//! | 4 | headers within transactions | `trap_04…` |
//! | 5 | `count` ignores limit and filters, `more` does not | `trap_05…` |
//! | 6 | conditions look before, steps see earlier ones, nothing is no revision | `trap_06…` |
//! | 7 | no value compares with anything | `trap_07…` |
//! | 8 | duplicate keys, deletions and nesting included | `trap_08…`, `divergences::nested_writes_conflict_in_etcds_order` |
//! | 9 | `created` first and in order; a compaction ends a watch in a second message | `watch::created_comes_first_ids_count_from_zero_and_events_follow`, `watch::a_compacted_start_is_created_and_then_cancelled` |
//! | 10 | progress only behind every event, or none | `watch::progress_stands_behind_every_event_and_waits_for_future_starts` |
//! | 11 | a revision is one response | `trap_11…`, `watch::large_batches_are_cut_only_where_asked_for` |
//! | 12 | nothing before a start in the future | `watch::progress_stands_behind_every_event_and_waits_for_future_starts` |
//! | 13 | what was there before, for every update and deletion | `trap_13…` |
//! | 14 | deletions of the compacted revision itself | `watch::a_compacted_start_is_created_and_then_cancelled` |
//! | 15 | what keep-alive, time-to-live and revoke say of a lease that is not there | `trap_15…` |
//! | 16 | leases end by the log, not early, all keys in one revision | `kubernetes::an_event_lease_takes_all_its_keys_in_one_revision`, `lease::leases_end_in_time_and_outlive_a_change_of_leader` |
//! | 17 | one reads one's own writes | `kv::every_member_reads_what_any_member_wrote` |
//! | 18 | revisions never go back | `trap_18…`, the power-loss tests |
//! | 19 | the space alarm | `limits::a_full_store_stays_full_until_the_alarm_is_ended`, `limits::alarms_survive_a_restart_and_reach_every_member` |
//! | 20 | what learners do not do | `cluster::membership_of_three` |
//! | 21 | a member without a name has not started | `cluster::membership_of_three` |
//! | 22 | frequent pings are no offence | `trap_22…` |
//! | 23 | limits of messages, inwards and none outwards | `trap_23…`, `kv::errors_have_etcds_code_and_text` |
//! | 24 | a version that Kubernetes trusts; plain Unimplemented for what is not there | `trap_24…` |
//! | 25 | streams that want a leader end without one | `watch::watches_on_other_members_miss_nothing_when_the_leader_goes` |

use std::time::Duration;

use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic::transport::Endpoint;
use trivet_datastore::Datastore;
use trivet_env::Env;
use trivet_store_etcd::proto::etcdserverpb as pb;
use trivet_store_etcd::proto::etcdserverpb::request_op::Request;
use trivet_store_etcd::proto::etcdserverpb::response_op::Response;
use trivet_store_etcd::proto::mvccpb::event::EventType;

use crate::kv::{delete_step, get, get_step, mod_is, op, prefix, put, put_step, refused};
use crate::support::{Member, Single, settings, soon};
use crate::watch::{Stream, watch};

fn txn(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest {
        success,
        ..Default::default()
    }
}

#[tokio::test]
async fn trap_01_a_missing_quorum_arrives_as_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings(Env::real(), dir.path().join("trivet"));
    config.strict_reconfig = Some(trivet_store_etcd::StrictReconfig::default());
    let member = Member::open(config).await;
    let mut cluster = member.client.cluster();
    let list = cluster.member_list(pb::MemberListRequest::default()).await;
    let id = list.unwrap().into_inner().members[0].id;
    let text = "etcdserver: re-configuration failed due to not enough started members";
    assert_eq!(
        refused(cluster.member_remove(pb::MemberRemoveRequest { id }).await),
        (Code::Unknown, text.to_owned())
    );
    member.store.shutdown().await;
}

#[tokio::test]
async fn trap_02_headers_tell_the_current_revision_or_none() {
    let single = Single::start().await;
    let client = single.client();
    for _ in 0..3 {
        client.kv().put(put("a", "v")).await.unwrap();
    }
    let old = pb::RangeRequest {
        revision: 2,
        ..get("a")
    };
    let old = client.kv().range(old).await.unwrap().into_inner();
    assert_eq!(old.header.unwrap().revision, 4);
    let list = pb::MemberListRequest { linearizable: true };
    let list = client.cluster().member_list(list).await.unwrap();
    let header = list.into_inner().header.unwrap();
    assert_eq!(header.revision, 0);
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
    let target_id = header.member_id;
    let mut maintenance = client.maintenance();
    let moved = maintenance.move_leader(pb::MoveLeaderRequest { target_id });
    assert_eq!(moved.await.unwrap().into_inner().header, None);
    let defragmented = maintenance.defragment(pb::DefragmentRequest {}).await;
    assert_eq!(defragmented.unwrap().into_inner().header, None);
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn trap_03_where_everything_begins() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    let empty = kv.range(get("a")).await.unwrap().into_inner();
    assert_eq!(empty.header.unwrap().revision, 1);
    let mut stream = Stream::open(single.client()).await;
    stream.create(watch("a", "")).await;
    assert_eq!(stream.next().await.watch_id, 0);
    // Never compacted is below 0, so that 0 can be compacted; once.
    let compaction = pb::CompactionRequest {
        revision: 0,
        physical: false,
    };
    kv.compact(compaction).await.unwrap();
    assert_eq!(
        refused(kv.compact(compaction).await).1,
        "etcdserver: mvcc: required revision has been compacted"
    );
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn trap_04_steps_of_a_transaction_have_headers() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    let steps = vec![
        get_step("a"),
        put_step("a", "1"),
        get_step("a"),
        delete_step("b", ""),
        op(Request::RequestTxn(txn(vec![put_step("c", "1")]))),
    ];
    let done = kv.txn(txn(steps)).await.unwrap().into_inner();
    let revision = |revision| {
        Some(pb::ResponseHeader {
            revision,
            ..Default::default()
        })
    };
    let headers: Vec<_> = done
        .responses
        .into_iter()
        .map(|step| match step.response.unwrap() {
            Response::ResponseRange(step) => step.header,
            Response::ResponsePut(step) => step.header,
            Response::ResponseDeleteRange(step) => step.header,
            Response::ResponseTxn(step) => step.header,
        })
        .collect();
    // Empty, but there: some clients look into it without asking.
    let expected = [1, 2, 2, 2, 0].map(revision);
    assert_eq!(headers, expected);
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn trap_05_count_is_of_the_range_and_more_of_the_page() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    for key in ["k1", "k2", "k3", "k4"] {
        kv.put(put(key, "v")).await.unwrap();
    }
    let page = |limit, min_mod_revision| {
        let mut kv = single.client().kv();
        async move {
            let request = pb::RangeRequest {
                limit,
                min_mod_revision,
                ..prefix("k", "l")
            };
            let page = kv.range(request).await.unwrap().into_inner();
            (page.kvs.len(), page.count, page.more)
        }
    };
    assert_eq!(page(1, 0).await, (1, 4, true));
    assert_eq!(page(4, 0).await, (4, 4, false));
    assert_eq!(page(0, 4).await, (2, 4, false));
    assert_eq!(page(1, 4).await, (1, 4, true));
    assert_eq!(page(2, 4).await, (2, 4, false));
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn trap_06_conditions_look_at_the_state_before() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    // Put first, and yet absent for the nested condition; present for the step after it.
    let nested = pb::TxnRequest {
        compare: vec![mod_is("a", 0)],
        success: vec![get_step("a")],
        failure: vec![],
    };
    let steps = vec![put_step("a", "1"), op(Request::RequestTxn(nested))];
    let done = kv.txn(txn(steps)).await.unwrap().into_inner();
    let Some(Response::ResponseTxn(nested)) = &done.responses[1].response else {
        panic!("a nested answer");
    };
    assert!(nested.succeeded);
    let Some(Response::ResponseRange(range)) = &nested.responses[0].response else {
        panic!("a range");
    };
    assert_eq!(range.kvs[0].value, "1");
    for steps in [vec![], vec![delete_step("zz", ""), get_step("a")]] {
        let nothing = kv.txn(txn(steps)).await.unwrap().into_inner();
        assert_eq!(nothing.header.unwrap().revision, 2);
    }
    // The same value again is a change.
    let again = kv.put(put("a", "1")).await.unwrap().into_inner();
    assert_eq!(again.header.unwrap().revision, 3);
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn trap_07_the_value_of_an_absent_key_is_never_anything() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    for result in 0..4 {
        let compare = pb::Compare {
            result,
            target: pb::compare::CompareTarget::Value.into(),
            key: "absent".into(),
            target_union: Some(pb::compare::TargetUnion::Value("x".into())),
            ..Default::default()
        };
        let request = pb::TxnRequest {
            compare: vec![compare],
            ..Default::default()
        };
        let told = kv.txn(request).await.unwrap().into_inner();
        assert!(!told.succeeded, "operator {result}");
    }
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn trap_08_no_key_is_written_twice() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    let nested = |success, failure| {
        op(Request::RequestTxn(pb::TxnRequest {
            success,
            failure,
            ..Default::default()
        }))
    };
    let duplicate = "etcdserver: duplicate key given in txn request";
    let bad = [
        vec![put_step("k", "1"), put_step("k", "1")],
        vec![delete_step("a", "z"), put_step("k", "1")],
        vec![put_step("k", "1"), delete_step("k", "")],
        vec![put_step("k", "1"), nested(vec![put_step("k", "2")], vec![])],
        vec![put_step("k", "1"), nested(vec![], vec![put_step("k", "2")])],
    ];
    for steps in bad {
        let outcome = kv.txn(txn(steps.clone())).await;
        assert_eq!(refused(outcome).1, duplicate, "{steps:?}");
    }
    let good = [
        vec![delete_step("a", "k"), put_step("k", "1")],
        vec![delete_step("a", "m"), delete_step("b", "z")],
        vec![nested(vec![put_step("k", "1")], vec![put_step("k", "2")])],
        vec![get_step("k"), put_step("k", "1"), get_step("k")],
    ];
    for steps in good {
        kv.txn(txn(steps)).await.unwrap();
    }
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn trap_11_a_revision_is_one_response() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    let mut live = Stream::open(single.client()).await;
    live.create(watch("", "\0")).await;
    assert!(live.next().await.created);
    let steps = || {
        let put = |number: u32| {
            op(Request::RequestPut(pb::PutRequest {
                key: format!("k{number:03}").into(),
                ..Default::default()
            }))
        };
        (0..128).map(put).collect::<Vec<_>>()
    };
    // More events than etcd puts into one response while it catches up.
    for _ in 0..12 {
        kv.txn(txn(steps())).await.unwrap();
    }
    let mut history = Stream::open(single.client()).await;
    let request = pb::WatchCreateRequest {
        start_revision: 2,
        ..watch("", "\0")
    };
    history.create(request).await;
    assert!(history.next().await.created);
    for stream in [&mut live, &mut history] {
        let (mut seen, mut last) = (0, 1);
        while seen < 12 * 128 {
            let events = stream.events().await.events;
            let revisions = events.iter().map(|event| event.kv.as_ref().unwrap());
            let revisions: Vec<i64> = revisions.map(|kv| kv.mod_revision).collect();
            for whole in revisions.chunk_by(|a, b| a == b) {
                assert_eq!((whole.len(), whole[0]), (128, last + 1));
                last = whole[0];
            }
            seen += revisions.len();
        }
    }
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn trap_13_updates_and_deletions_tell_what_was_there() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    for value in ["1", "2"] {
        kv.put(put("a", value)).await.unwrap();
    }
    kv.delete_range(pb::DeleteRangeRequest {
        key: "a".into(),
        ..Default::default()
    })
    .await
    .unwrap();
    kv.put(put("a", "3")).await.unwrap();
    let told = |events: Vec<trivet_store_etcd::proto::mvccpb::Event>| {
        let one = |event: trivet_store_etcd::proto::mvccpb::Event| {
            let before = event.prev_kv.as_ref().map(|kv| kv.mod_revision);
            (event.r#type(), before)
        };
        events.into_iter().map(one).collect::<Vec<_>>()
    };
    let from = |start_revision| pb::WatchCreateRequest {
        start_revision,
        prev_kv: true,
        ..watch("a", "")
    };
    let mut stream = Stream::open(single.client()).await;
    stream.create(from(2)).await;
    assert!(stream.next().await.created);
    let mut events = Vec::new();
    while events.len() < 4 {
        events.extend(stream.events().await.events);
    }
    use EventType::{Delete, Put};
    let expected = [(Put, None), (Put, Some(2)), (Delete, Some(3)), (Put, None)];
    assert_eq!(told(events), expected);
    // A compaction below takes nothing from what is above it.
    kv.compact(pb::CompactionRequest {
        revision: 3,
        physical: true,
    })
    .await
    .unwrap();
    let mut stream = Stream::open(single.client()).await;
    stream.create(from(4)).await;
    assert!(stream.next().await.created);
    let mut events = Vec::new();
    while events.len() < 2 {
        events.extend(stream.events().await.events);
    }
    assert_eq!(told(events), expected[2..]);
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn trap_15_a_lease_that_is_not_there() {
    let single = Single::start().await;
    let mut lease = single.client().lease();
    let requests = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: 47 }]);
    let answers = soon(lease.lease_keep_alive(requests)).await.unwrap();
    let renewed = soon(answers.into_inner().next()).await.unwrap().unwrap();
    assert_eq!((renewed.id, renewed.ttl), (47, 0));
    let request = pb::LeaseTimeToLiveRequest { id: 47, keys: true };
    let left = lease
        .lease_time_to_live(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((left.id, left.ttl, left.granted_ttl), (47, -1, 0));
    let revoked = lease.lease_revoke(pb::LeaseRevokeRequest { id: 47 }).await;
    assert_eq!(
        refused(revoked),
        (
            Code::NotFound,
            "etcdserver: requested lease not found".to_owned()
        )
    );
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn trap_18_a_restart_after_a_compaction_keeps_the_revision() {
    let dir = tempfile::tempdir().unwrap();
    let config = settings(Env::real(), dir.path().join("trivet"));
    let member = Member::open(config.clone()).await;
    let mut kv = member.client.kv();
    kv.put(put("a", "1")).await.unwrap();
    let deleted = kv
        .delete_range(pb::DeleteRangeRequest {
            key: "a".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let revision = deleted.into_inner().header.unwrap().revision;
    // Nothing is left that could tell the revision.
    kv.compact(pb::CompactionRequest {
        revision,
        physical: true,
    })
    .await
    .unwrap();
    member.store.shutdown().await;
    drop(member);
    let member = Member::open(config).await;
    let found = soon(member.client.kv().range(get("a"))).await.unwrap();
    assert_eq!(found.into_inner().header.unwrap().revision, revision);
    member.store.shutdown().await;
}

#[tokio::test]
async fn trap_22_frequent_pings_end_no_stream() {
    let single = Single::start().await;
    let endpoint = Endpoint::from_shared(format!("http://{}", single.member.address())).unwrap();
    let channel = endpoint
        .http2_keep_alive_interval(Duration::from_millis(20))
        .keep_alive_while_idle(true)
        .connect()
        .await
        .unwrap();
    let create = pb::watch_request::RequestUnion::CreateRequest(watch("a", ""));
    let requests = tokio_stream::iter([pb::WatchRequest {
        request_union: Some(create),
    }]);
    let mut watches = pb::watch_client::WatchClient::new(channel);
    let mut answers = soon(watches.watch(requests)).await.unwrap().into_inner();
    assert!(soon(answers.next()).await.unwrap().unwrap().created);
    // etcd ends the connection after a few; there are more than forty within this.
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..10 {
        ticks.tick().await;
        single.client().kv().put(put("a", "v")).await.unwrap();
        let response = soon(answers.next()).await.unwrap();
        assert_eq!(response.unwrap().events.len(), 1);
    }
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn trap_23_answers_have_no_limit() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    for number in 0..6 {
        let request = pb::PutRequest {
            key: format!("big{number}").into(),
            value: vec![number; 1_400_000].into(),
            ..Default::default()
        };
        soon(kv.put(request)).await.unwrap();
    }
    // Twice what tonic sends or takes by default.
    let found = soon(kv.range(prefix("big", "bih"))).await.unwrap();
    let size: usize = found.into_inner().kvs.iter().map(|kv| kv.value.len()).sum();
    assert_eq!(size, 6 * 1_400_000);
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn trap_24_kubernetes_trusts_the_version() {
    let single = Single::start().await;
    let mut maintenance = single.client().maintenance();
    let status = maintenance.status(pb::StatusRequest::default()).await;
    let version = status.unwrap().into_inner().version;
    let parts: Vec<u64> = version
        .split('.')
        .map(|part| part.parse().unwrap())
        .collect();
    assert!(parts.len() == 3 && parts >= vec![3, 5, 13], "{version}");
    let (code, text) = refused(single.client().kv().range_stream(get("a")).await);
    let expected = "unknown method RangeStream for service etcdserverpb.KV";
    assert_eq!((code, text.as_str()), (Code::Unimplemented, expected));
    single.member.store.shutdown().await;
}
