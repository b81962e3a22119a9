//! Everything that a client can see of a store, for comparing two of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio_stream::StreamExt as _;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb::watch_request::RequestUnion;
use trivet_store_etcd::proto::etcdserverpb::{
    LeaseLeasesRequest, LeaseTimeToLiveRequest, RangeRequest, WatchCreateRequest, WatchRequest,
};
use trivet_store_etcd::proto::mvccpb::{Event, KeyValue};

use crate::support::soon;

fn everything(revision: i64) -> RangeRequest {
    RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        revision,
        ..Default::default()
    }
}

/// Every pair as of a revision.
pub(crate) async fn pairs(client: &Client, revision: i64) -> Vec<KeyValue> {
    let found = client.kv().range(everything(revision)).await.unwrap();
    found.into_inner().kvs
}

/// The newest revision.
pub(crate) async fn revision(client: &Client) -> i64 {
    let request = RangeRequest {
        count_only: true,
        ..everything(0)
    };
    let found = client.kv().range(request).await.unwrap();
    found.into_inner().header.unwrap().revision
}

/// Why a revision cannot be read.
pub(crate) async fn refusal(client: &Client, revision: i64) -> String {
    let found = client.kv().range(everything(revision)).await;
    found.unwrap_err().message().to_owned()
}

/// Every change from one revision up to another.
pub(crate) async fn events(client: &Client, from: i64, to: i64) -> Vec<Event> {
    let create = WatchCreateRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        start_revision: from,
        ..Default::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    // The stream must stay open from this side.
    let requests = tokio_stream::once(request).chain(tokio_stream::pending());
    let mut stream = client.watch().watch(requests).await.unwrap().into_inner();
    let mut events: Vec<Event> = Vec::new();
    loop {
        let response = soon(stream.next()).await.unwrap().unwrap();
        assert!(!response.canceled, "{response:?}");
        for event in response.events {
            if event.kv.as_ref().unwrap().mod_revision > to {
                return events;
            }
            events.push(event);
        }
        // Revisions come whole.
        let last = events.last().and_then(|event| event.kv.as_ref());
        if last.is_some_and(|kv| kv.mod_revision == to) {
            return events;
        }
    }
}

/// Every lease with its granted time and its keys.
pub(crate) async fn leases(client: &Client) -> BTreeMap<i64, (i64, Vec<Bytes>)> {
    let listed = client.lease().lease_leases(LeaseLeasesRequest {}).await;
    let mut found = BTreeMap::new();
    for lease in listed.unwrap().into_inner().leases {
        let request = LeaseTimeToLiveRequest {
            id: lease.id,
            keys: true,
        };
        let answer = client.lease().lease_time_to_live(request).await.unwrap();
        let mut answer = answer.into_inner();
        assert!(answer.ttl > 0 && answer.ttl <= answer.granted_ttl);
        answer.keys.sort();
        found.insert(lease.id, (answer.granted_ttl, answer.keys));
    }
    found
}

/// Compares without printing megabytes.
pub(crate) fn assert_same_pairs(ours: &[KeyValue], theirs: &[KeyValue], what: &str) {
    let first = ours.iter().zip(theirs).find(|(a, b)| a != b);
    assert!(
        ours.len() == theirs.len() && first.is_none(),
        "{what}: {} and {} pairs, first difference at {:?}",
        ours.len(),
        theirs.len(),
        first.map(|(a, b)| (short(a), short(b)))
    );
}

/// A pair with the length of its value.
fn short(pair: &KeyValue) -> (KeyValue, usize) {
    let mut shown = pair.clone();
    shown.value.truncate(20);
    (shown, pair.value.len())
}

pub(crate) fn assert_same_events(ours: &[Event], theirs: &[Event], what: &str) {
    let first = ours.iter().zip(theirs).position(|(a, b)| a != b);
    assert!(
        ours.len() == theirs.len() && first.is_none(),
        "{what}: {} and {} events, first difference at {first:?}",
        ours.len(),
        theirs.len(),
    );
}
