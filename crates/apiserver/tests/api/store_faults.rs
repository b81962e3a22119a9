//! What clients are told when the store does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use serde_json::json;
use trivet_apiserver::ApiServer;
use trivet_datastore::{
    Datastore, DeleteRequest, Effect, Error, ExportStream, Lease, LeaseId, MemoryStore, PutRequest,
    RangePage, RangeRequest, Result, Revision, StoreStatus, WatchRequest, WatchStream,
    WriteOutcome,
};

use crate::harness::{Server, config, revision};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WORKS: u8 = 0;
const NO_LEADER: u8 = 1;
const LOSES_ANSWERS: u8 = 2;
/// Watches end after two batches.
const CUTS_WATCHES: u8 = 3;
/// The next watch finds its start compacted; then as [`CUTS_WATCHES`].
const COMPACTS: u8 = 4;

struct Flaky {
    inner: MemoryStore,
    mode: Arc<AtomicU8>,
}

impl Flaky {
    fn check(&self) -> Result<()> {
        let effect = match self.mode.load(Ordering::SeqCst) {
            WORKS | CUTS_WATCHES | COMPACTS => return Ok(()),
            NO_LEADER => Effect::None,
            _ => Effect::Unknown,
        };
        Err(Error::Unavailable {
            reason: "no leader".to_owned(),
            retry_after: Some(Duration::from_secs(2)),
            effect,
        })
    }
}

#[async_trait]
impl Datastore for Flaky {
    async fn range(&self, request: RangeRequest) -> Result<RangePage> {
        if self.mode.load(Ordering::SeqCst) == NO_LEADER {
            self.check()?;
        }
        self.inner.range(request).await
    }
    async fn put(&self, request: PutRequest) -> Result<WriteOutcome> {
        self.check()?;
        self.inner.put(request).await
    }
    async fn delete(&self, request: DeleteRequest) -> Result<WriteOutcome> {
        self.check()?;
        self.inner.delete(request).await
    }
    async fn watch(&self, request: WatchRequest) -> Result<WatchStream> {
        let swap =
            self.mode
                .compare_exchange(COMPACTS, CUTS_WATCHES, Ordering::SeqCst, Ordering::SeqCst);
        if swap.is_ok() {
            let compact_revision = self.inner.status().await?.revision;
            return Err(Error::Compacted { compact_revision });
        }
        let watch = self.inner.watch(request).await?;
        if self.mode.load(Ordering::SeqCst) == CUTS_WATCHES {
            let lost = Error::Unavailable {
                reason: "cut".to_owned(),
                retry_after: None,
                effect: Effect::None,
            };
            return Ok(Box::pin(
                watch.take(2).chain(stream::once(async { Err(lost) })),
            ));
        }
        Ok(watch)
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<Lease> {
        self.check()?;
        self.inner.grant_lease(ttl).await
    }
    async fn keep_lease_alive(&self, id: LeaseId) -> Result<Lease> {
        self.check()?;
        self.inner.keep_lease_alive(id).await
    }
    async fn revoke_lease(&self, id: LeaseId) -> Result<()> {
        self.inner.revoke_lease(id).await
    }
    async fn compact(&self, revision: Revision) -> Result<()> {
        self.inner.compact(revision).await
    }
    async fn status(&self) -> Result<StoreStatus> {
        self.inner.status().await
    }
    async fn export(&self) -> Result<ExportStream> {
        self.inner.export().await
    }
    async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}

#[tokio::test]
async fn errors_say_what_a_client_can_do() {
    let (store, mode) = (MemoryStore::new(), Arc::new(AtomicU8::new(NO_LEADER)));
    let flaky = Flaky {
        inner: store.clone(),
        mode: Arc::clone(&mode),
    };
    let api = ApiServer::new(config(Arc::new(flaky))).unwrap();
    let server = Server {
        api: Arc::clone(&api),
        store,
    };
    // Before anything works, the server answers and says why not.
    let starting = tokio::spawn(async move { api.start().await });
    server.get(MAPS).await.expect(503);
    assert_eq!(server.get("/livez").await.code, 200);
    assert_eq!(server.get("/readyz").await.code, 500);
    assert_eq!(server.get("/version").await.code, 200);
    mode.store(WORKS, Ordering::SeqCst);
    starting.await.unwrap().unwrap();
    assert_eq!(server.get("/readyz").await.code, 200);
    let map = json!({"metadata": {"name": "a"}});
    server.post(MAPS, &map).await.expect(201);

    mode.store(NO_LEADER, Ordering::SeqCst);
    let answer = server.get(&format!("{MAPS}/a")).await;
    assert_eq!(answer.expect(503)["reason"], "ServiceUnavailable");
    assert_eq!(answer.headers["retry-after"], "2");
    assert!(answer.message().contains("no leader"), "{}", answer.text);
    server
        .post(MAPS, &json!({"metadata": {"name": "b"}}))
        .await
        .expect(503);
    server.get(MAPS).await.expect(503);
    // What the cache has can still be read by those who accept that.
    server
        .get(&format!("{MAPS}?resourceVersion=0"))
        .await
        .expect(200);
    assert_eq!(server.get("/readyz").await.code, 500);
    assert_eq!(server.get("/livez").await.code, 200);

    mode.store(LOSES_ANSWERS, Ordering::SeqCst);
    let answer = server.post(MAPS, &json!({"metadata": {"name": "c"}})).await;
    assert_eq!(answer.expect(504)["reason"], "Timeout");
    assert!(
        answer
            .message()
            .contains("outcome of the request is unknown"),
        "{}",
        answer.text
    );
    assert!(!answer.message().contains("failed"), "{}", answer.text);
    assert!(
        !answer.headers.contains_key("retry-after"),
        "a write must not be repeated blindly"
    );
    mode.store(WORKS, Ordering::SeqCst);
    server.get(MAPS).await.expect(200);
}

async fn started(mode: u8) -> (Server, Arc<AtomicU8>) {
    let (store, mode) = (MemoryStore::new(), Arc::new(AtomicU8::new(mode)));
    let flaky = Flaky {
        inner: store.clone(),
        mode: Arc::clone(&mode),
    };
    let api = ApiServer::new(config(Arc::new(flaky))).unwrap();
    api.start().await.unwrap();
    (Server { api, store }, mode)
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_store_watch_is_resumed_without_a_gap() {
    let (server, _) = started(CUTS_WATCHES).await;
    server
        .eventually(MAPS, |a| a.text.contains("kube-root-ca.crt"))
        .await;
    let from = revision(&server.get(MAPS).await.json());
    let mut watch = server
        .watch(&format!("{MAPS}?watch=true&resourceVersion={from}"))
        .await;
    for i in 0..30 {
        let name = format!("x{i}");
        server
            .post(MAPS, &json!({"metadata": {"name": name}}))
            .await
            .expect(201);
        server.delete(&format!("{MAPS}/{name}")).await.expect(200);
        assert_eq!(watch.event().await, ("ADDED".to_owned(), name.clone()));
        assert_eq!(watch.event().await, ("DELETED".to_owned(), name));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_store_is_not_held_against_nodes() {
    let (server, mode) = started(WORKS).await;
    let node = "/api/v1/nodes/n1";
    let ready = json!([{"type": "Ready", "status": "True", "reason": "AgentReady"}]);
    let object = json!({"metadata": {"name": "n1"}, "status": {"conditions": ready}});
    server.post("/api/v1/nodes", &object).await.expect(201);
    mode.store(NO_LEADER, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(120)).await;
    mode.store(WORKS, Ordering::SeqCst);
    let back = tokio::time::Instant::now();
    server
        .eventually(node, |a| a.text.contains("NodeStatusUnknown"))
        .await;
    let waited = back.elapsed();
    assert!(
        waited >= Duration::from_secs(30) && waited < Duration::from_secs(40),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_compacted_store_watch_starts_over_and_watchers_are_told() {
    let (server, mode) = started(CUTS_WATCHES).await;
    server
        .eventually(MAPS, |a| a.text.contains("kube-root-ca.crt"))
        .await;
    let from = revision(&server.get(MAPS).await.json());
    let mut watch = server
        .watch(&format!("{MAPS}?watch=true&resourceVersion={from}"))
        .await;
    mode.store(COMPACTS, Ordering::SeqCst);
    let mut missed = false;
    for i in 0..6 {
        server
            .post(MAPS, &json!({"metadata": {"name": format!("x{i}")}}))
            .await
            .expect(201);
    }
    for i in 0..6 {
        let event = watch.next().await.unwrap();
        if event["type"] == "ERROR" {
            assert_eq!(event["object"]["code"], 410);
            missed = true;
            break;
        }
        assert_eq!(
            event["object"]["metadata"]["name"],
            format!("x{i}"),
            "no gap before the error"
        );
    }
    assert!(missed || watch.next().await.unwrap()["type"] == "ERROR");
    assert_eq!(watch.next().await, None);
    let list = server.get(MAPS).await.expect(200);
    assert_eq!(
        list["items"].as_array().unwrap().len(),
        7,
        "the cache holds everything again"
    );
    let target = format!("{MAPS}?watch=true&resourceVersion={}", revision(&list));
    let mut watch = server.watch(&target).await;
    server
        .post(MAPS, &json!({"metadata": {"name": "y"}}))
        .await
        .expect(201);
    assert_eq!(watch.event().await, ("ADDED".to_owned(), "y".to_owned()));
}
