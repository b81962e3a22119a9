use std::time::Duration;

use serde_json::{Value, json};
use trivet_datastore::{Datastore, MemoryStore};

use crate::harness::{Server, revision};

const NODES: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

#[tokio::test]
async fn a_fresh_cluster_has_its_objects() {
    let server = Server::start().await;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let namespace = server
            .get(&format!("/api/v1/namespaces/{name}"))
            .await
            .expect(200);
        assert_eq!(namespace["status"]["phase"], "Active");
    }
    let endpoints = server
        .get("/api/v1/namespaces/default/endpoints/kubernetes")
        .await
        .expect(200);
    assert_eq!(
        endpoints["subsets"][0]["addresses"],
        json!([{"ip": "127.0.0.1"}])
    );
    assert_eq!(endpoints["subsets"][0]["ports"][0]["port"], 6443);
    let answer = server.delete("/api/v1/namespaces/default").await;
    answer.expect(403);
    assert!(
        answer
            .message()
            .contains("this namespace may not be deleted")
    );
}

#[tokio::test]
async fn namespaces_are_furnished_and_emptied() {
    let server = Server::start().await;
    server
        .post("/api/v1/namespaces", &json!({"metadata": {"name": "n"}}))
        .await
        .expect(201);
    server
        .eventually("/api/v1/namespaces/n/serviceaccounts/default", |a| {
            a.code == 200
        })
        .await;
    let root = server
        .eventually("/api/v1/namespaces/n/configmaps/kube-root-ca.crt", |a| {
            a.code == 200
        })
        .await;
    assert!(
        root.json()["data"]["ca.crt"]
            .as_str()
            .unwrap()
            .contains("BEGIN CERTIFICATE")
    );
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/x"]}});
    server
        .post("/api/v1/namespaces/n/secrets", &held)
        .await
        .expect(201);
    let marked = server.delete("/api/v1/namespaces/n").await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    server.api.client().sync().await.unwrap();
    let late = server
        .post(
            "/api/v1/namespaces/n/secrets",
            &json!({"metadata": {"name": "late"}}),
        )
        .await;
    assert_eq!(
        late.expect(403)["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    server
        .eventually("/api/v1/namespaces/n/configmaps", |a| {
            a.json()["items"] == json!([])
        })
        .await;
    server.get("/api/v1/namespaces/n").await.expect(200);
    let free = json!({"metadata": {"finalizers": null}});
    server
        .patch(
            "/api/v1/namespaces/n/secrets/held",
            "merge-patch+json",
            &free,
        )
        .await
        .expect(200);
    server
        .eventually("/api/v1/namespaces/n", |a| a.code == 404)
        .await;
    let answer = server
        .post(
            "/api/v1/namespaces/n/secrets",
            &json!({"metadata": {"name": "x"}}),
        )
        .await;
    answer.expect(404);
    assert_eq!(answer.message(), "namespaces \"n\" not found");
}

#[tokio::test]
async fn endpoints_follow_the_live_servers() {
    let store = MemoryStore::new();
    let first = Server::over(store.clone(), |_| {}).await;
    let second = Server::over(store, |config| {
        config.advertise = "127.0.0.2:6443".parse().unwrap();
    })
    .await;
    let path = "/api/v1/namespaces/default/endpoints/kubernetes";
    let both = json!([{"ip": "127.0.0.1"}, {"ip": "127.0.0.2"}]);
    first
        .eventually(path, |a| a.json()["subsets"][0]["addresses"] == both)
        .await;
    second.api.shutdown().await;
    first
        .eventually(path, |a| {
            a.json()["subsets"][0]["addresses"] == json!([{"ip": "127.0.0.1"}])
        })
        .await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    first
        .eventually(slices, |a| {
            a.json()["endpoints"]
                .as_array()
                .is_some_and(|e| e.len() == 1)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_leaves_the_endpoints_by_itself() {
    let store = MemoryStore::new();
    let first = Server::over(store.clone(), |_| {}).await;
    // An entry whose server will never renew it.
    let lease = store.grant_lease(Duration::from_secs(15)).await.unwrap();
    let put = trivet_datastore::PutRequest {
        key: "/registry/masterleases/127.0.0.9:6443".into(),
        value: "127.0.0.9:6443".into(),
        expect: trivet_datastore::Expect::Any,
        lease: Some(lease.id),
    };
    store.put(put).await.unwrap();
    let path = "/api/v1/namespaces/default/endpoints/kubernetes";
    first
        .eventually(path, |a| a.text.contains("127.0.0.9"))
        .await;
    let begin = tokio::time::Instant::now();
    first
        .eventually(path, |a| !a.text.contains("127.0.0.9"))
        .await;
    assert!(begin.elapsed() < Duration::from_secs(20));
    first
        .eventually(path, |a| a.text.contains("127.0.0.1"))
        .await;
}

fn condition(node: &Value) -> (String, String) {
    let conditions = node["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let ready = conditions
        .iter()
        .find(|c| c["type"] == "Ready")
        .cloned()
        .unwrap_or_default();
    let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

fn taints(node: &Value) -> Vec<String> {
    let taints = node["spec"]["taints"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    taints
        .iter()
        .map(|t| {
            format!(
                "{}:{}",
                t["key"].as_str().unwrap(),
                t["effect"].as_str().unwrap()
            )
        })
        .collect()
}

async fn beat(server: &Server, count: u64) {
    let renew =
        json!({"spec": {"renewTime": format!("2026-01-01T00:00:{:02}.000000Z", count % 60)}});
    server
        .patch(&format!("{LEASES}/n1"), "merge-patch+json", &renew)
        .await
        .expect(200);
}

async fn register(server: &Server) {
    server
        .post(NODES, &json!({"metadata": {"name": "n1"}}))
        .await
        .expect(201);
    server
        .post(
            LEASES,
            &json!({"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1"}}),
        )
        .await
        .expect(201);
    report_ready(server).await;
}

async fn report_ready(server: &Server) {
    let ready = json!({"type": "Ready", "status": "True", "reason": "AgentReady"});
    let status = json!({"status": {"conditions": [ready]}});
    server
        .patch(
            &format!("{NODES}/n1/status"),
            "strategic-merge-patch+json",
            &status,
        )
        .await
        .expect(200);
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_not_ready_within_40_seconds_and_comes_back() {
    let server = Server::start().await;
    register(&server).await;
    let one = format!("{NODES}/n1");
    server
        .eventually(&one, |a| taints(&a.json()).is_empty())
        .await;
    for count in 1..12 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        beat(&server, count).await;
        assert_eq!(
            condition(&server.get(&one).await.json()).0,
            "True",
            "a node that renews stays ready"
        );
    }
    let died = tokio::time::Instant::now();
    let gone = server
        .eventually(&one, |a| condition(&a.json()).0 == "Unknown")
        .await
        .json();
    let after = died.elapsed();
    assert!(after < Duration::from_secs(40), "{after:?}");
    assert!(after > Duration::from_secs(20), "{after:?}");
    assert_eq!(condition(&gone).1, "NodeStatusUnknown");
    let tainted = |a: &crate::harness::Answer| {
        let taints = taints(&a.json());
        taints.contains(&"node.kubernetes.io/unreachable:NoSchedule".to_owned())
            && taints.contains(&"node.kubernetes.io/unreachable:NoExecute".to_owned())
    };
    server.eventually(&one, tainted).await;
    let query = "fieldSelector=involvedObject.name%3Dn1%2Creason%3DNodeNotReady";
    let events = format!("/api/v1/events?{query}");
    server
        .eventually(&events, |a| {
            a.json()["items"].as_array().is_some_and(|e| e.len() == 1)
        })
        .await;
    beat(&server, 50).await;
    report_ready(&server).await;
    server
        .eventually(&one, |a| {
            condition(&a.json()).0 == "True" && taints(&a.json()).is_empty()
        })
        .await;
    // The Lease goes with its Node.
    let uid = server.get(&one).await.json()["metadata"]["uid"].clone();
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid}]);
    let owned = json!({"metadata": {"ownerReferences": owner}});
    server
        .patch(&format!("{LEASES}/n1"), "merge-patch+json", &owned)
        .await
        .expect(200);
    server.delete(&one).await.expect(200);
    server
        .eventually(&format!("{LEASES}/n1"), |a| a.code == 404)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_does_not_start_counting_anew() {
    let store = MemoryStore::new();
    let first = Server::over(store.clone(), |_| {}).await;
    let second = Server::over(store, |config| {
        config.advertise = "127.0.0.2:6443".parse().unwrap();
    })
    .await;
    register(&first).await;
    let one = format!("{NODES}/n1");
    second
        .eventually(&one, |a| condition(&a.json()).0 == "True")
        .await;
    beat(&first, 1).await;
    let died = tokio::time::Instant::now();
    // The node and the server that leads die together; nothing is handed over.
    let leader = first
        .get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/trivet-controllers")
        .await;
    let holder = leader.json()["spec"]["holderIdentity"]
        .as_str()
        .unwrap()
        .to_owned();
    let (dead, alive) = if holder.starts_with("127.0.0.1") {
        (first, second)
    } else {
        (second, first)
    };
    dead.api.shutdown().await;
    alive
        .eventually(&one, |a| condition(&a.json()).0 == "Unknown")
        .await;
    assert!(
        died.elapsed() < Duration::from_secs(40),
        "{:?}",
        died.elapsed()
    );
}

#[tokio::test]
async fn propagation_policies() {
    let server = Server::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for policy in ["Foreground", "Orphan", "Background"] {
        let owner = server
            .post(maps, &json!({"metadata": {"generateName": "o-"}}))
            .await
            .expect(201);
        let (name, uid) = (
            owner["metadata"]["name"].as_str().unwrap(),
            &owner["metadata"]["uid"],
        );
        let reference =
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid}]);
        let dependent = json!({"metadata": {"generateName": "d-", "ownerReferences": reference}});
        let dependent = server.post(maps, &dependent).await.expect(201);
        let dependent = format!("{maps}/{}", dependent["metadata"]["name"].as_str().unwrap());
        server
            .delete(&format!("{maps}/{name}?propagationPolicy={policy}"))
            .await
            .expect(200);
        server
            .eventually(&format!("{maps}/{name}"), |a| a.code == 404)
            .await;
        if policy == "Orphan" {
            let left = server
                .eventually(&dependent, |a| !a.text.contains("ownerReferences\":[{"))
                .await;
            left.expect(200);
        } else {
            server.eventually(&dependent, |a| a.code == 404).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn history_is_compacted_and_events_expire() {
    let server = Server::start().await;
    let event = json!({
        "metadata": {"name": "e"}, "reason": "r", "type": "Normal",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
    });
    let path = "/api/v1/namespaces/default/events";
    let made = revision(&server.post(path, &event).await.expect(201));
    tokio::time::sleep(Duration::from_secs(620)).await;
    let compacted = server.store.status().await.unwrap().compact_revision.0;
    assert!(compacted >= made, "{compacted} {made}");
    server.get(&format!("{path}/e")).await.expect(200);
    tokio::time::sleep(Duration::from_secs(3200)).await;
    server.get(&format!("{path}/e")).await.expect(404);
}
