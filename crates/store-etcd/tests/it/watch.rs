//! Watches through gRPC.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming};
use trivet_datastore::Datastore;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb as pb;
use trivet_store_etcd::proto::mvccpb::event::EventType;

use crate::kv::put;
use crate::support::{Single, Three, eventually, soon};

pub(crate) struct Stream {
    pub(crate) requests: mpsc::Sender<pb::WatchRequest>,
    pub(crate) responses: Streaming<pb::WatchResponse>,
}

impl Stream {
    pub(crate) async fn open(client: &Client) -> Self {
        Self::open_with(client, |_| {}).await
    }

    pub(crate) async fn open_with(
        client: &Client,
        adjust: impl FnOnce(&mut Request<ReceiverStream<pb::WatchRequest>>),
    ) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(receiver));
        adjust(&mut request);
        let responses = soon(client.watch().watch(request))
            .await
            .unwrap()
            .into_inner();
        Self {
            requests,
            responses,
        }
    }

    pub(crate) async fn send(&self, request: pb::watch_request::RequestUnion) {
        self.requests
            .send(pb::WatchRequest {
                request_union: Some(request),
            })
            .await
            .unwrap();
    }

    pub(crate) async fn create(&self, request: pb::WatchCreateRequest) {
        self.send(pb::watch_request::RequestUnion::CreateRequest(request))
            .await;
    }

    pub(crate) async fn ask_progress(&self) {
        self.send(pb::watch_request::RequestUnion::ProgressRequest(
            pb::WatchProgressRequest {},
        ))
        .await;
    }

    pub(crate) async fn cancel(&self, watch_id: i64) {
        self.send(pb::watch_request::RequestUnion::CancelRequest(
            pb::WatchCancelRequest { watch_id },
        ))
        .await;
    }

    pub(crate) async fn next(&mut self) -> pb::WatchResponse {
        soon(self.responses.message())
            .await
            .unwrap()
            .expect("the stream goes on")
    }

    /// The next response with events.
    pub(crate) async fn events(&mut self) -> pb::WatchResponse {
        loop {
            let response = self.next().await;
            if !response.events.is_empty() {
                return response;
            }
        }
    }
}

pub(crate) fn watch(key: &'static str, end: &'static str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: key.into(),
        range_end: end.into(),
        ..Default::default()
    }
}

pub(crate) fn keys(response: &pb::WatchResponse) -> Vec<String> {
    let key = |event: &trivet_store_etcd::proto::mvccpb::Event| {
        String::from_utf8(event.kv.as_ref().unwrap().key.to_vec()).unwrap()
    };
    response.events.iter().map(key).collect()
}

#[tokio::test]
async fn created_comes_first_ids_count_from_zero_and_events_follow() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    kv.put(put("a", "1")).await.unwrap();
    let mut stream = Stream::open(single.client()).await;
    stream
        .create(pb::WatchCreateRequest {
            prev_kv: true,
            ..watch("a", "b")
        })
        .await;
    stream
        .create(pb::WatchCreateRequest {
            watch_id: 7,
            start_revision: 2,
            ..watch("a", "")
        })
        .await;
    stream
        .create(pb::WatchCreateRequest {
            watch_id: 7,
            ..watch("a", "")
        })
        .await;
    stream.create(watch("b", "a")).await;
    stream
        .create(pb::WatchCreateRequest {
            start_revision: -1,
            ..watch("a", "")
        })
        .await;
    stream.create(watch("z", "")).await;

    let mut created = Vec::new();
    while created.len() < 6 {
        let response = stream.next().await;
        if response.created {
            created.push(response);
        } else {
            assert_eq!(
                response.watch_id, 7,
                "only the watch with a history has events"
            );
        }
    }
    let told: Vec<_> = created
        .iter()
        .map(|r| (r.watch_id, r.canceled, r.cancel_reason.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (0, false, ""),
            (7, false, ""),
            (
                -1,
                true,
                "mvcc: duplicate watch ID provided on the WatchStream"
            ),
            (-1, true, "mvcc: watcher range is empty"),
            (
                -1,
                true,
                "etcdserver: mvcc: required revision has been compacted"
            ),
            (1, false, ""),
        ]
    );
    assert_eq!(created[0].header.unwrap().revision, 2);

    kv.put(put("a", "2")).await.unwrap();
    kv.delete_range(pb::DeleteRangeRequest {
        key: "a".into(),
        ..Default::default()
    })
    .await
    .unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let response = stream.events().await;
        if response.watch_id == 0 {
            seen.extend(response.events);
        }
    }
    assert_eq!(seen[0].r#type(), EventType::Put);
    assert_eq!(&seen[0].prev_kv.as_ref().unwrap().value[..], b"1");
    let deleted = seen[1].kv.as_ref().unwrap();
    assert_eq!(seen[1].r#type(), EventType::Delete);
    assert_eq!(
        (
            deleted.mod_revision,
            deleted.create_revision,
            deleted.version
        ),
        (4, 0, 0)
    );
    assert_eq!(&seen[1].prev_kv.as_ref().unwrap().value[..], b"2");

    // A cancelled watch is told so once; an unknown id is not answered.
    stream.cancel(99).await;
    stream.cancel(0).await;
    loop {
        let response = stream.next().await;
        if response.canceled {
            assert_eq!(
                (response.watch_id, response.cancel_reason.as_str()),
                (0, "")
            );
            break;
        }
        assert_eq!(response.watch_id, 7);
    }
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn history_filters_and_whole_revisions() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    let step = |key| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(put(key, "v"))),
    };
    kv.txn(pb::TxnRequest {
        success: vec![step("a"), step("c"), step("b")],
        ..Default::default()
    })
    .await
    .unwrap();
    kv.delete_range(pb::DeleteRangeRequest {
        key: "a".into(),
        ..Default::default()
    })
    .await
    .unwrap();
    let mut stream = Stream::open(single.client()).await;
    let no_delete = vec![pb::watch_create_request::FilterType::Nodelete.into()];
    stream
        .create(pb::WatchCreateRequest {
            start_revision: 2,
            filters: no_delete,
            ..watch("", "\0")
        })
        .await;
    assert!(stream.next().await.created);
    // All changes of one revision together, in the order of the operations.
    assert_eq!(keys(&stream.events().await), ["a", "c", "b"]);
    let no_put = vec![pb::watch_create_request::FilterType::Noput.into()];
    stream
        .create(pb::WatchCreateRequest {
            start_revision: 2,
            filters: no_put,
            ..watch("", "\0")
        })
        .await;
    assert!(stream.next().await.created);
    let response = stream.events().await;
    assert_eq!(
        (keys(&response), response.events[0].r#type()),
        (vec!["a".to_owned()], EventType::Delete)
    );
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn a_compacted_start_is_created_and_then_cancelled() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    for value in ["1", "2", "3"] {
        kv.put(put("a", value)).await.unwrap();
    }
    kv.delete_range(pb::DeleteRangeRequest {
        key: "a".into(),
        ..Default::default()
    })
    .await
    .unwrap();
    kv.compact(pb::CompactionRequest {
        revision: 5,
        physical: true,
    })
    .await
    .unwrap();
    let mut stream = Stream::open(single.client()).await;
    stream
        .create(pb::WatchCreateRequest {
            start_revision: 2,
            ..watch("a", "")
        })
        .await;
    let created = stream.next().await;
    assert!(created.created && !created.canceled);
    let canceled = stream.next().await;
    assert!(canceled.canceled && !canceled.created);
    assert_eq!(
        (canceled.compact_revision, canceled.cancel_reason.as_str()),
        (5, "")
    );
    assert_eq!(canceled.header.unwrap().revision, 0);
    // The compacted revision itself can still be watched, its tombstone included.
    stream
        .create(pb::WatchCreateRequest {
            start_revision: 5,
            ..watch("a", "")
        })
        .await;
    assert!(stream.next().await.created);
    let events = stream.events().await;
    assert_eq!(
        (events.events[0].r#type(), events.events.len()),
        (EventType::Delete, 1)
    );
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn progress_stands_behind_every_event_and_waits_for_future_starts() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    let mut stream = Stream::open(single.client()).await;
    // Without a watch there is no answer; the created below would come after it.
    stream.ask_progress().await;
    stream.create(watch("a", "b")).await;
    stream.create(watch("z", "")).await;
    assert!(stream.next().await.created && stream.next().await.created);
    let mut covered = 1;
    for round in 0..20 {
        let revision = kv
            .put(put("a", "v"))
            .await
            .unwrap()
            .into_inner()
            .header
            .unwrap()
            .revision;
        stream.ask_progress().await;
        loop {
            let response = stream.next().await;
            if let Some(event) = response.events.last() {
                covered = event.kv.as_ref().unwrap().mod_revision;
                continue;
            }
            assert_eq!(response.watch_id, -1, "round {round}");
            let told = response.header.unwrap().revision;
            assert!(told >= revision, "the request came after the write");
            assert!(
                covered >= revision,
                "progress {told} overtook the event of {revision}"
            );
            break;
        }
    }
    // A watch that starts in the future silences the stream until it is reached.
    stream
        .create(pb::WatchCreateRequest {
            start_revision: 1000,
            ..watch("a", "")
        })
        .await;
    assert!(stream.next().await.created);
    stream.ask_progress().await;
    stream.cancel(2).await;
    assert!(stream.next().await.canceled);
    stream.ask_progress().await;
    assert_eq!(stream.next().await.watch_id, -1);
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn idle_watches_are_told_how_far_they_are() {
    let single = Single::start().await;
    let mut stream = Stream::open(single.client()).await;
    stream
        .create(pb::WatchCreateRequest {
            progress_notify: true,
            ..watch("a", "")
        })
        .await;
    stream.create(watch("b", "")).await;
    assert!(stream.next().await.created && stream.next().await.created);
    single.client().kv().put(put("other", "v")).await.unwrap();
    loop {
        let response = stream.next().await;
        assert_eq!((response.watch_id, response.events.len()), (0, 0));
        if response.header.unwrap().revision == 2 {
            break;
        }
    }
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn large_batches_are_cut_only_where_asked_for() {
    let single = Single::start().await;
    let mut kv = single.client().kv();
    for key in ["a1", "a2", "a3"] {
        let request = pb::PutRequest {
            key: key.into(),
            value: vec![7; 1_400_000].into(),
            ..Default::default()
        };
        kv.put(request).await.unwrap();
    }
    kv.delete_range(pb::DeleteRangeRequest {
        key: "a".into(),
        range_end: "b".into(),
        prev_kv: false,
    })
    .await
    .unwrap();
    let mut stream = Stream::open(single.client()).await;
    let request = pb::WatchCreateRequest {
        start_revision: 5,
        prev_kv: true,
        ..watch("a", "b")
    };
    stream.create(request.clone()).await;
    assert!(stream.next().await.created);
    let whole = stream.events().await;
    assert_eq!((whole.events.len(), whole.fragment), (3, false));
    stream
        .create(pb::WatchCreateRequest {
            fragment: true,
            ..request
        })
        .await;
    assert!(stream.next().await.created);
    let mut pieces = Vec::new();
    loop {
        let piece = stream.events().await;
        let last = !piece.fragment;
        pieces.push(piece.events.len());
        if last {
            break;
        }
    }
    assert_eq!(pieces, [1, 1, 1]);
    single.member.store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_on_other_members_miss_nothing_when_the_leader_goes() {
    let three = Three::start().await;
    let leader = three.leader().await;
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    let mut stream = Stream::open(&three.members[others[0]].client).await;
    stream.create(watch("a", "")).await;
    let start = stream.next().await.header.unwrap().revision;
    let mut kv = three.members[others[1]].client.kv();
    let mut last = start;
    for _ in 0..50 {
        last = soon(kv.put(put("a", "v")))
            .await
            .unwrap()
            .into_inner()
            .header
            .unwrap()
            .revision;
    }
    three.members[leader].store.shutdown().await;
    for _ in 0..50 {
        last = soon(kv.put(put("a", "v")))
            .await
            .unwrap()
            .into_inner()
            .header
            .unwrap()
            .revision;
    }
    let mut next = start + 1;
    while next <= last {
        for event in stream.events().await.events {
            assert_eq!(event.kv.unwrap().mod_revision, next);
            next += 1;
        }
    }
    // Alone, the watched member has no leader: a stream that requires one ends with that.
    let mut strict = Stream::open_with(&three.members[others[0]].client, |request| {
        request
            .metadata_mut()
            .insert("hasleader", "true".parse().unwrap());
    })
    .await;
    strict.create(watch("a", "")).await;
    assert!(strict.next().await.created);
    three.members[others[1]].store.shutdown().await;
    let status = loop {
        match soon(strict.responses.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ends with a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "etcdserver: no leader")
    );
    eventually("the stream without that wish goes on", || async {
        !stream.requests.is_closed()
    })
    .await;
    three.members[others[0]].store.shutdown().await;
    let end = loop {
        match soon(stream.responses.message()).await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(end.is_err(), "a stopping server says so");
}
