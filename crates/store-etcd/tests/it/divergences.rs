//! Differences from etcd that the comparison with it has found (`cargo xtask diff-etcd`), one
//! test each.

use tokio_stream::StreamExt as _;
use tonic::Code;
use trivet_datastore::Datastore;
use trivet_store_etcd::proto::etcdserverpb as pb;
use trivet_store_etcd::proto::etcdserverpb::request_op::Request;

use crate::kv::{delete_step, get, get_step, op, prefix, put, put_step, refused};
use crate::support::{Single, soon};
use crate::watch::{Stream, watch};

fn txn(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest {
        success,
        ..Default::default()
    }
}

fn nested(success: Vec<pb::RequestOp>) -> pb::RequestOp {
    op(Request::RequestTxn(txn(success)))
}

fn range_step(request: pb::RangeRequest) -> pb::RequestOp {
    op(Request::RequestRange(request))
}

fn invalid(text: &str) -> (Code, String) {
    (Code::InvalidArgument, format!("etcdserver: {text}"))
}

fn compacted() -> (Code, String) {
    let text = "etcdserver: mvcc: required revision has been compacted";
    (Code::OutOfRange, text.to_owned())
}

/// A negative upper bound was taken for none.
#[tokio::test]
async fn a_negative_upper_bound_leaves_nothing() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    for key in ["a1", "a2", "a3"] {
        kv.put(put(key, "v")).await.unwrap();
    }
    let bounded = [
        pb::RangeRequest {
            max_mod_revision: -1,
            ..prefix("a", "b")
        },
        pb::RangeRequest {
            max_create_revision: i64::MIN,
            min_mod_revision: 1,
            ..prefix("a", "b")
        },
    ];
    for request in bounded {
        let found = kv.range(request).await.unwrap().into_inner();
        assert_eq!((found.kvs.len(), found.count, found.more), (0, 3, false));
    }
    // As a lower bound it lets everything through, and still makes a filter: the limit then cuts
    // what was sorted, not what is sorted.
    let sorted = pb::RangeRequest {
        min_create_revision: -7,
        limit: 1,
        sort_order: pb::range_request::SortOrder::None.into(),
        sort_target: pb::range_request::SortTarget::Mod.into(),
        ..prefix("a", "b")
    };
    let found = kv.range(sorted).await.unwrap().into_inner();
    assert_eq!((&found.kvs[0].key[..], found.more), (&b"a1"[..], true));
    single.member.store.shutdown().await;
}

/// In a transaction a negative revision is before every compaction; only alone it is the newest.
#[tokio::test]
async fn a_negative_revision_in_a_transaction_is_compacted() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    kv.put(put("a", "1")).await.unwrap();
    let at = |revision| pb::RangeRequest {
        revision,
        ..get("a")
    };
    assert_eq!(kv.range(at(-3)).await.unwrap().into_inner().count, 1);
    for write in [true, false] {
        let steps = |revision| {
            let mut steps = vec![range_step(at(revision))];
            if write {
                steps.push(put_step("b", "1"));
            }
            txn(steps)
        };
        assert_eq!(refused(kv.txn(steps(-2)).await), compacted());
        assert_eq!(refused(kv.txn(steps(i64::MIN)).await), compacted());
        // −1 is how etcd writes "never compacted".
        assert!(kv.txn(steps(-1)).await.is_ok());
    }
    let compaction = pb::CompactionRequest {
        revision: 2,
        physical: false,
    };
    kv.compact(compaction).await.unwrap();
    assert_eq!(
        refused(kv.txn(txn(vec![range_step(at(-1))])).await),
        compacted()
    );
    single.member.store.shutdown().await;
}

/// Which of several errors a transaction is refused with.
#[tokio::test]
async fn errors_of_a_transaction_come_in_etcds_order() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    let future = pb::RangeRequest {
        revision: 99,
        ..get("a")
    };
    let keep = |lease| pb::PutRequest {
        ignore_value: true,
        lease,
        ..put("absent", "")
    };
    let put_of = |request| op(Request::RequestPut(request));
    // Every put is looked at before any range is.
    let steps = vec![range_step(future), nested(vec![put_of(keep(0))])];
    assert_eq!(refused(kv.txn(txn(steps)).await), invalid("key not found"));
    // In a transaction the key comes before the lease, alone the lease before the key.
    assert_eq!(
        refused(kv.txn(txn(vec![put_of(keep(4711))])).await),
        invalid("key not found")
    );
    assert_eq!(refused(kv.put(keep(4711)).await).0, Code::NotFound);
    // Lengths are looked at on the way in, not after everything else.
    let hollow = pb::RequestOp { request: None };
    let long = vec![nested(vec![get_step("a"); 128]), hollow];
    assert_eq!(
        refused(kv.txn(txn(long)).await),
        invalid("too many operations in txn request")
    );
    single.member.store.shutdown().await;
}

/// Puts of nested transactions stand against what was deleted before them, not after them.
#[tokio::test]
async fn nested_writes_conflict_in_etcds_order() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    let later = vec![
        nested(vec![put_step("k", "1")]),
        nested(vec![delete_step("k", "")]),
    ];
    let done = kv.txn(txn(later)).await.unwrap().into_inner();
    assert_eq!(done.header.unwrap().revision, 2);
    assert_eq!(kv.range(get("k")).await.unwrap().into_inner().count, 0);
    let duplicate = invalid("duplicate key given in txn request");
    let earlier = vec![
        nested(vec![delete_step("k", "")]),
        nested(vec![put_step("k", "1")]),
    ];
    assert_eq!(refused(kv.txn(txn(earlier)).await), duplicate);
    // One of this level stands against all of them.
    let above = vec![put_step("k", "1"), nested(vec![delete_step("k", "")])];
    assert_eq!(refused(kv.txn(txn(above)).await), duplicate);
    single.member.store.shutdown().await;
}

/// A key that is put and deleted in one revision was there before only if it was there before
/// that revision.
#[tokio::test]
async fn the_previous_pair_is_of_an_earlier_revision() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    kv.put(put("old", "1")).await.unwrap();
    let mut stream = Stream::open(single.client()).await;
    let request = |start_revision| pb::WatchCreateRequest {
        prev_kv: true,
        start_revision,
        ..watch("", "\0")
    };
    stream.create(request(0)).await;
    assert!(stream.next().await.created);
    // An open end escapes the check for duplicate keys.
    let steps = vec![
        put_step("new", "1"),
        put_step("old", "2"),
        delete_step("n", "\0"),
    ];
    kv.txn(txn(steps)).await.unwrap();
    let live = stream.events().await;
    // The same from history.
    let mut stream = Stream::open(single.client()).await;
    stream.create(request(3)).await;
    assert!(stream.next().await.created);
    for events in [live.events, stream.events().await.events] {
        let told: Vec<_> = events
            .iter()
            .map(|event| {
                let before = event.prev_kv.as_ref().map(|pair| pair.value.to_vec());
                (event.kv.as_ref().unwrap().key.to_vec(), before)
            })
            .collect();
        assert_eq!(
            told,
            [
                (b"new".to_vec(), None),
                (b"old".to_vec(), Some(b"1".to_vec())),
                (b"new".to_vec(), None),
                (b"old".to_vec(), Some(b"1".to_vec())),
            ]
        );
    }
    single.member.store.shutdown().await;
}

/// A client that has no more requests still listens.
#[tokio::test]
async fn watches_go_on_after_a_half_close() {
    let single = Single::start().await;
    let create = pb::watch_request::RequestUnion::CreateRequest(watch("a", ""));
    let requests = tokio_stream::iter([pb::WatchRequest {
        request_union: Some(create),
    }]);
    let mut watches = single.client().watch();
    let mut answers = soon(watches.watch(requests)).await.unwrap().into_inner();
    assert!(soon(answers.next()).await.unwrap().unwrap().created);
    for round in 2..5 {
        single.client().kv().put(put("a", "v")).await.unwrap();
        let response = soon(answers.next()).await.unwrap().unwrap();
        assert_eq!(response.events[0].kv.as_ref().unwrap().mod_revision, round);
    }
    single.member.store.shutdown().await;
}

/// The id of a watch that a compaction ended stays taken until the client cancels it.
#[tokio::test]
async fn an_id_ended_by_compaction_stays_taken() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    for value in ["1", "2", "3"] {
        kv.put(put("a", value)).await.unwrap();
    }
    let compaction = pb::CompactionRequest {
        revision: 4,
        physical: true,
    };
    kv.compact(compaction).await.unwrap();
    let mut stream = Stream::open(single.client()).await;
    let old = pb::WatchCreateRequest {
        start_revision: 2,
        ..watch("a", "")
    };
    stream.create(old).await;
    assert!(stream.next().await.created);
    assert_eq!(stream.next().await.compact_revision, 4);
    let numbered = |watch_id| pb::WatchCreateRequest {
        watch_id,
        ..watch("a", "")
    };
    stream.create(numbered(0)).await;
    assert_eq!(stream.next().await.watch_id, 1);
    stream.cancel(0).await;
    let canceled = stream.next().await;
    assert!(canceled.canceled && canceled.watch_id == 0);
    // Answered once; what comes next is the answer to the other one.
    stream.cancel(0).await;
    stream.cancel(1).await;
    assert_eq!(stream.next().await.watch_id, 1);
    single.member.store.shutdown().await;
}

/// Once "unknown method".
#[tokio::test]
async fn the_whole_store_has_a_hash() {
    let single = Single::start().await;
    let mut maintenance = single.client().maintenance();
    let before = maintenance.hash(pb::HashRequest {}).await.unwrap();
    single.client().kv().put(put("a", "1")).await.unwrap();
    let after = maintenance.hash(pb::HashRequest {}).await.unwrap();
    let (before, after) = (before.into_inner(), after.into_inner());
    assert_ne!(before.hash, after.hash);
    assert_eq!(after.header.unwrap().revision, 2);
    single.member.store.shutdown().await;
}

/// Whose URLs would be changed is looked at before what they would become.
#[tokio::test]
async fn an_unknown_member_is_told_before_its_urls_are_read() {
    let single = Single::start().await;
    let request = pb::MemberUpdateRequest {
        id: 4711,
        peer_ur_ls: vec!["no url".to_owned()],
    };
    assert_eq!(
        refused(single.client().cluster().member_update(request).await),
        (Code::NotFound, "etcdserver: member not found".to_owned())
    );
    single.member.store.shutdown().await;
}
