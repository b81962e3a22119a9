//! What only the memory store does.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;
use trivet_datastore::{
    Datastore, Error, Expect, KeyRange, LeaseId, MemoryOptions, MemoryStore, PutRequest, Revision,
    WatchRequest, WatchStream,
};

async fn put(store: &MemoryStore, key: &'static str, lease: Option<LeaseId>) {
    let request = PutRequest {
        key: key.into(),
        value: "x".into(),
        expect: Expect::Any,
        lease,
    };
    store.put(request).await.expect("the store is open");
}

async fn watch(store: &MemoryStore, start: Option<u64>) -> WatchStream {
    let start = start.map(Revision);
    let request = WatchRequest {
        range: KeyRange::all(),
        start,
        previous: false,
        progress: false,
    };
    store.watch(request).await.expect("the store is open")
}

#[tokio::test]
async fn a_laggard_is_cut_and_history_is_patient() {
    let options = MemoryOptions {
        watch_window: 10,
        ..MemoryOptions::default()
    };
    let store = MemoryStore::with_options(options);
    let mut laggard = watch(&store, None).await;
    put(&store, "k", None).await;
    assert_eq!(
        laggard
            .next()
            .await
            .expect("open")
            .expect("in time")
            .revision,
        Revision(2)
    );
    for _ in 0..12 {
        put(&store, "k", None).await;
    }
    let cut = laggard.next().await;
    assert_eq!(cut, Some(Err(Error::WatchLagged { last: Revision(2) })));
    assert_eq!(laggard.next().await, None);
    let mut again = watch(&store, Some(3)).await;
    let batch = again.next().await.expect("open").expect("history is there");
    assert_eq!((batch.events.len(), batch.revision), (12, Revision(14)));
}

#[tokio::test(start_paused = true)]
async fn leases_follow_paused_time() {
    let store = MemoryStore::new();
    let lease = store
        .grant_lease(Duration::from_secs(3600))
        .await
        .expect("the store is open");
    put(&store, "k", Some(lease.id)).await;
    let mut events = watch(&store, None).await;
    let began = Instant::now();
    let batch = events.next().await.expect("open").expect("in time");
    assert_eq!((batch.events.len(), batch.revision), (1, Revision(3)));
    let slept = began.elapsed();
    assert!(
        slept >= lease.ttl && slept < lease.ttl + Duration::from_secs(1),
        "{slept:?}"
    );
    store.shutdown().await;
}

#[tokio::test]
async fn a_dropped_store_ends_its_watches() {
    let store = MemoryStore::new();
    store
        .grant_lease(Duration::from_secs(3600))
        .await
        .expect("the store is open");
    let mut events = watch(&store, None).await;
    drop(store);
    assert_eq!(events.next().await, None);
}
