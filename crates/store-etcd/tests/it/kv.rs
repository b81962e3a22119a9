//! Keys through gRPC: headers, ranges, transactions, errors.

use tonic::Code;
use trivet_datastore::Datastore;
use trivet_store_etcd::proto::etcdserverpb as pb;

use crate::support::{Single, Three, soon};

pub(crate) fn put(key: &'static str, value: &'static str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
}

pub(crate) fn get(key: &'static str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.into(),
        ..Default::default()
    }
}

pub(crate) fn prefix(key: &'static str, end: &'static str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.into(),
        range_end: end.into(),
        ..Default::default()
    }
}

pub(crate) fn refused<T>(outcome: Result<T, tonic::Status>) -> (Code, String) {
    let status = outcome.err().expect("it must be refused");
    (status.code(), status.message().to_owned())
}

pub(crate) fn op(request: impl Into<pb::request_op::Request>) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request.into()),
    }
}

pub(crate) fn put_step(key: &'static str, value: &'static str) -> pb::RequestOp {
    op(pb::request_op::Request::RequestPut(put(key, value)))
}

pub(crate) fn get_step(key: &'static str) -> pb::RequestOp {
    op(pb::request_op::Request::RequestRange(get(key)))
}

pub(crate) fn delete_step(key: &'static str, end: &'static str) -> pb::RequestOp {
    op(pb::request_op::Request::RequestDeleteRange(
        pb::DeleteRangeRequest {
            key: key.into(),
            range_end: end.into(),
            prev_kv: false,
        },
    ))
}

pub(crate) fn mod_is(key: &'static str, revision: i64) -> pb::Compare {
    pb::Compare {
        result: pb::compare::CompareResult::Equal.into(),
        target: pb::compare::CompareTarget::Mod.into(),
        key: key.into(),
        target_union: Some(pb::compare::TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

#[tokio::test]
async fn headers_and_revisions() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    let empty = soon(kv.range(get("a"))).await.unwrap().into_inner();
    let header = empty.header.unwrap();
    assert_eq!((header.revision, empty.count), (1, 0));
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term > 0);

    let first = soon(kv.put(put("a", "1"))).await.unwrap().into_inner();
    assert_eq!((first.header.unwrap().revision, first.prev_kv), (2, None));
    let request = pb::PutRequest {
        prev_kv: true,
        ..put("a", "2")
    };
    let second = soon(kv.put(request)).await.unwrap().into_inner();
    assert_eq!(second.header.unwrap().revision, 3);
    let before = second.prev_kv.unwrap();
    assert_eq!(
        (
            &before.value[..],
            before.create_revision,
            before.mod_revision,
            before.version
        ),
        (&b"1"[..], 2, 2, 1)
    );

    let nothing = soon(kv.delete_range(pb::DeleteRangeRequest {
        key: "zz".into(),
        ..Default::default()
    }))
    .await;
    let nothing = nothing.unwrap().into_inner();
    assert_eq!((nothing.header.unwrap().revision, nothing.deleted), (3, 0));

    // The header tells the newest revision, also of a read of an old one.
    let old = soon(kv.range(pb::RangeRequest {
        revision: 2,
        ..get("a")
    }))
    .await
    .unwrap()
    .into_inner();
    assert_eq!(
        (old.header.unwrap().revision, &old.kvs[0].value[..]),
        (3, &b"1"[..])
    );
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn ranges_count_limit_and_sort() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    for (key, value) in [("k1", "c"), ("k2", "b"), ("k3", "a"), ("l", "x")] {
        kv.put(put(key, value)).await.unwrap();
    }
    let keys = |response: &pb::RangeResponse| {
        let key = |kv: &trivet_store_etcd::proto::mvccpb::KeyValue| {
            String::from_utf8(kv.key.to_vec()).unwrap()
        };
        response.kvs.iter().map(key).collect::<Vec<_>>()
    };
    let page = kv
        .range(pb::RangeRequest {
            limit: 2,
            ..prefix("k", "l")
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (keys(&page), page.count, page.more),
        (vec!["k1".into(), "k2".into()], 3, true)
    );
    let counted = kv
        .range(pb::RangeRequest {
            count_only: true,
            ..prefix("k", "l")
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (counted.kvs.len(), counted.count, counted.more),
        (0, 3, false)
    );
    let everything = kv.range(prefix("\0", "\0")).await.unwrap().into_inner();
    assert_eq!(everything.count, 4);
    let backwards = kv.range(prefix("l", "k")).await.unwrap().into_inner();
    assert_eq!(backwards.count, 0);
    let sorted = pb::RangeRequest {
        sort_order: pb::range_request::SortOrder::Ascend.into(),
        sort_target: pb::range_request::SortTarget::Value.into(),
        limit: 1,
        keys_only: true,
        ..prefix("k", "l")
    };
    let sorted = kv.range(sorted).await.unwrap().into_inner();
    assert_eq!(
        (keys(&sorted), sorted.kvs[0].value.len(), sorted.more),
        (vec!["k3".into()], 0, true)
    );
    let filtered = pb::RangeRequest {
        min_mod_revision: 3,
        ..prefix("k", "l")
    };
    let filtered = kv.range(filtered).await.unwrap().into_inner();
    assert_eq!(
        (keys(&filtered), filtered.count, filtered.more),
        (vec!["k2".into(), "k3".into()], 3, false)
    );
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn errors_have_etcds_code_and_text() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    let invalid = |text: &str| (Code::InvalidArgument, format!("etcdserver: {text}"));
    assert_eq!(
        refused(kv.range(get("")).await),
        invalid("key is not provided")
    );
    assert_eq!(
        refused(kv.put(put("", "x")).await),
        invalid("key is not provided")
    );
    let request = pb::PutRequest {
        ignore_value: true,
        ..put("a", "x")
    };
    assert_eq!(refused(kv.put(request).await), invalid("value is provided"));
    let request = pb::PutRequest {
        ignore_value: true,
        ..put("a", "")
    };
    assert_eq!(refused(kv.put(request).await), invalid("key not found"));
    let request = pb::PutRequest {
        ignore_lease: true,
        lease: 5,
        ..put("a", "")
    };
    assert_eq!(refused(kv.put(request).await), invalid("lease is provided"));
    let request = pb::PutRequest {
        lease: 5,
        ..put("a", "")
    };
    assert_eq!(
        refused(kv.put(request).await),
        (
            Code::NotFound,
            "etcdserver: requested lease not found".to_owned()
        )
    );
    let out_of_range = |text: &str| {
        (
            Code::OutOfRange,
            format!("etcdserver: mvcc: required revision {text}"),
        )
    };
    assert_eq!(
        refused(
            kv.range(pb::RangeRequest {
                revision: 9,
                ..get("a")
            })
            .await
        ),
        out_of_range("is a future revision")
    );
    for value in ["1", "2", "3"] {
        kv.put(put("a", value)).await.unwrap();
    }
    let compact = |revision| pb::CompactionRequest {
        revision,
        physical: false,
    };
    assert_eq!(
        refused(kv.compact(compact(99)).await),
        out_of_range("is a future revision")
    );
    let done = kv.compact(compact(3)).await.unwrap().into_inner();
    assert_eq!(done.header.unwrap().revision, 4);
    for revision in [-1, 2, 3] {
        assert_eq!(
            refused(kv.compact(compact(revision)).await),
            out_of_range("has been compacted")
        );
    }
    let at = |revision| pb::RangeRequest {
        revision,
        ..get("a")
    };
    assert_eq!(
        refused(kv.range(at(2)).await),
        out_of_range("has been compacted")
    );
    assert_eq!(
        &kv.range(at(3)).await.unwrap().into_inner().kvs[0].value[..],
        b"2"
    );

    // Two limits: one for the command, one for the message.
    let sized = |size: usize| pb::PutRequest {
        key: "big".into(),
        value: vec![0; size].into(),
        ..Default::default()
    };
    assert_eq!(
        refused(soon(kv.put(sized(1_600_000))).await),
        invalid("request is too large")
    );
    let (code, text) = refused(soon(kv.put(sized(3_000_000))).await);
    assert_eq!(code, Code::ResourceExhausted);
    assert!(
        text.starts_with("grpc: received message larger than max (30000")
            && text.ends_with(" vs. 2097152)"),
        "{text}"
    );
    soon(kv.put(sized(1_500_000))).await.unwrap();
    assert_eq!(
        soon(kv.range(get("big"))).await.unwrap().into_inner().kvs[0]
            .value
            .len(),
        1_500_000
    );

    let (code, text) = refused(kv.range_stream(get("a")).await);
    assert_eq!(
        (code, text.as_str()),
        (
            Code::Unimplemented,
            "unknown method RangeStream for service etcdserverpb.KV"
        )
    );
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn transactions() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    // What an apiserver sends: create, update, lose a race.
    let create = |value| pb::TxnRequest {
        compare: vec![mod_is("a", 0)],
        success: vec![put_step("a", value)],
        failure: vec![get_step("a")],
    };
    let made = kv.txn(create("1")).await.unwrap().into_inner();
    assert!(made.succeeded);
    assert_eq!(made.header.unwrap().revision, 2);
    let Some(pb::response_op::Response::ResponsePut(inner)) = &made.responses[0].response else {
        panic!()
    };
    // Old apiservers read the revision there; the ids stay empty.
    assert_eq!(
        inner.header.unwrap(),
        pb::ResponseHeader {
            revision: 2,
            ..Default::default()
        }
    );
    let lost = kv.txn(create("2")).await.unwrap().into_inner();
    assert!(!lost.succeeded);
    let Some(pb::response_op::Response::ResponseRange(found)) = &lost.responses[0].response else {
        panic!()
    };
    assert_eq!(
        (&found.kvs[0].value[..], lost.header.unwrap().revision),
        (&b"1"[..], 2)
    );

    // Steps see earlier ones; a transaction that changes nothing makes no revision.
    let steps = pb::TxnRequest {
        success: vec![
            put_step("b", "1"),
            get_step("b"),
            delete_step("a", "b"),
            get_step("a"),
        ],
        ..Default::default()
    };
    let done = kv.txn(steps).await.unwrap().into_inner();
    assert_eq!(done.header.unwrap().revision, 3);
    let counts: Vec<i64> = done
        .responses
        .iter()
        .map(|step| match &step.response {
            Some(pb::response_op::Response::ResponseRange(range)) => range.count,
            Some(pb::response_op::Response::ResponseDeleteRange(delete)) => delete.deleted,
            _ => -1,
        })
        .collect();
    assert_eq!(counts, [-1, 1, 1, 0]);
    let nothing = pb::TxnRequest {
        success: vec![delete_step("zz", "")],
        ..Default::default()
    };
    assert_eq!(
        kv.txn(nothing)
            .await
            .unwrap()
            .into_inner()
            .header
            .unwrap()
            .revision,
        3
    );
    let empty = kv
        .txn(pb::TxnRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(empty.succeeded && empty.responses.is_empty());

    let invalid = |text: &str| (Code::InvalidArgument, format!("etcdserver: {text}"));
    let twice = pb::TxnRequest {
        success: vec![put_step("c", "1"), put_step("c", "2")],
        ..Default::default()
    };
    assert_eq!(
        refused(kv.txn(twice).await),
        invalid("duplicate key given in txn request")
    );
    let swept = pb::TxnRequest {
        success: vec![delete_step("a", "z"), put_step("c", "2")],
        ..Default::default()
    };
    assert_eq!(
        refused(kv.txn(swept).await),
        invalid("duplicate key given in txn request")
    );
    let many = pb::TxnRequest {
        success: vec![get_step("c"); 129],
        ..Default::default()
    };
    assert_eq!(
        refused(kv.txn(many).await),
        invalid("too many operations in txn request")
    );
    let hollow = pb::TxnRequest {
        success: vec![pb::RequestOp { request: None }],
        ..Default::default()
    };
    assert_eq!(refused(kv.txn(hollow).await), invalid("key not found"));
    let future = op(pb::request_op::Request::RequestRange(pb::RangeRequest {
        revision: 99,
        ..get("a")
    }));
    let future = pb::TxnRequest {
        success: vec![put_step("d", "1"), future],
        ..Default::default()
    };
    assert_eq!(refused(kv.txn(future).await).0, Code::OutOfRange);
    assert_eq!(
        kv.range(get("d"))
            .await
            .unwrap()
            .into_inner()
            .header
            .unwrap()
            .revision,
        3
    );
    single.member.store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_reads_what_any_member_wrote() {
    let three = Three::start().await;
    for round in 0..6 {
        let writer = &three.members[round % 3];
        let written = soon(writer.client.kv().put(put("a", "x")))
            .await
            .unwrap()
            .into_inner();
        let revision = written.header.unwrap().revision;
        for member in &three.members {
            let read = soon(member.client.kv().range(get("a")))
                .await
                .unwrap()
                .into_inner();
            assert_eq!(
                (read.kvs[0].mod_revision, read.header.unwrap().revision),
                (revision, revision)
            );
        }
        // Even a serializable read, on the member that took the write.
        let request = pb::RangeRequest {
            serializable: true,
            ..get("a")
        };
        let read = soon(writer.client.kv().range(request))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(read.kvs[0].mod_revision, revision);
    }
    three.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_requests_end_and_local_reads_answer() {
    let three = Three::start().await;
    soon(three.members[0].client.kv().put(put("a", "1")))
        .await
        .unwrap();
    let survivor = &three.members[2];
    three.members[0].store.shutdown().await;
    three.members[1].store.shutdown().await;

    let mut kv = survivor.client.kv();
    // With `hasleader` the answer comes as soon as the leader is known to be gone. (The one that
    // stopped last may have handed leadership over, for a moment.)
    crate::support::eventually("no leader is known", || async {
        let mut request = tonic::Request::new(put("a", "2"));
        request
            .metadata_mut()
            .insert("hasleader", "true".parse().unwrap());
        let outcome = refused(survivor.client.kv().put(request).await);
        outcome == (Code::Unavailable, "etcdserver: no leader".to_owned())
    })
    .await;

    let local = pb::RangeRequest {
        serializable: true,
        ..get("a")
    };
    assert_eq!(soon(kv.range(local)).await.unwrap().into_inner().count, 1);
    let (code, text) = refused(soon(kv.put(put("a", "2"))).await);
    assert_eq!(code, Code::Unavailable);
    assert!(
        text == "etcdserver: no leader" || text.starts_with("etcdserver: request timed out"),
        "{text}"
    );
    survivor.store.shutdown().await;
}
