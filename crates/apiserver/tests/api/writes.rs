use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::{Server, admin, revision};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn life_of_an_object() {
    let server = Server::start().await;
    let map = json!({"metadata": {"name": "a"}, "data": {"k": "1"}});
    let created = server.post(MAPS, &map).await.expect(201);
    assert_eq!(created["kind"], "ConfigMap");
    assert!(created["metadata"]["uid"].as_str().unwrap().len() == 36);
    let again = server.post(MAPS, &map).await;
    assert_eq!(again.expect(409)["reason"], "AlreadyExists");
    assert_eq!(again.message(), "configmaps \"a\" already exists");

    let one = format!("{MAPS}/a");
    assert_eq!(server.get(&one).await.expect(200), created);
    let mut changed = created.clone();
    changed["data"]["k"] = "2".into();
    let updated = server.put(&one, &changed).await.expect(200);
    assert!(revision(&updated) > revision(&created));
    assert_eq!(updated["metadata"]["uid"], created["metadata"]["uid"]);
    // A write that changes nothing is none.
    assert_eq!(server.put(&one, &updated).await.expect(200), updated);
    let stale = server.put(&one, &created).await;
    assert_eq!(stale.expect(409)["reason"], "Conflict");
    assert_eq!(
        stale.message(),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
         changes to the latest version and try again"
    );
    // Without a version the write is unconditional.
    server
        .put(
            &one,
            &json!({"metadata": {"name": "a"}, "data": {"k": "3"}}),
        )
        .await
        .expect(200);

    server
        .patch(
            &one,
            "merge-patch+json",
            &json!({"data": {"m": "1", "k": null}}),
        )
        .await
        .expect(200);
    server
        .patch(
            &one,
            "json-patch+json",
            &json!([{"op": "add", "path": "/data/j", "value": "1"}]),
        )
        .await
        .expect(200);
    let patched = server
        .patch(
            &one,
            "strategic-merge-patch+json",
            &json!({"metadata": {"labels": {"x": "y"}}}),
        )
        .await
        .expect(200);
    assert_eq!(patched["data"], json!({"j": "1", "m": "1"}));
    assert_eq!(patched["metadata"]["labels"], json!({"x": "y"}));
    server
        .patch(&one, "apply-patch+yaml", &json!({}))
        .await
        .expect(415);
    let test = json!([{"op": "test", "path": "/data/j", "value": "2"}]);
    server
        .patch(&one, "json-patch+json", &test)
        .await
        .expect(422);
    let stale = json!({"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}});
    server
        .patch(&one, "merge-patch+json", &stale)
        .await
        .expect(409);

    let wrong = json!({"preconditions": {"uid": "nope"}});
    server
        .ask("DELETE", &one, &[], wrong.to_string(), Some(admin()))
        .await
        .expect(409);
    let deleted = server.delete(&one).await.expect(200);
    assert_eq!(deleted["status"], "Success");
    assert_eq!(deleted["details"]["uid"], created["metadata"]["uid"]);
    server.delete(&one).await.expect(404);
    server.put(&one, &map).await.expect(404);
}

#[tokio::test]
async fn racing_writers_get_exactly_one_conflict() {
    let server = Server::start().await;
    let created = server
        .post(MAPS, &json!({"metadata": {"name": "r"}, "data": {}}))
        .await
        .json();
    for round in 0..20 {
        let current = server.get(&format!("{MAPS}/r")).await.json();
        let write = async |who: &str| {
            let mut mine = current.clone();
            mine["data"]["who"] = format!("{who}{round}").into();
            server.put(&format!("{MAPS}/r"), &mine).await.code.as_u16()
        };
        let (a, b) = tokio::join!(write("a"), write("b"));
        let mut codes = [a, b];
        codes.sort_unstable();
        assert_eq!(codes, [200, 409]);
    }
    // Patches without a version do not conflict: the server tries again.
    let patch = async |key: &str| {
        let patch = json!({"data": {key: "1"}});
        server
            .patch(&format!("{MAPS}/r"), "merge-patch+json", &patch)
            .await
            .code
            .as_u16()
    };
    let codes = tokio::join!(patch("p"), patch("q"), patch("s"));
    assert_eq!(codes, (200, 200, 200));
    let last = server.get(&format!("{MAPS}/r")).await.json();
    assert!(last["data"]["p"] == "1" && last["data"]["q"] == "1" && last["data"]["s"] == "1");
    assert_eq!(last["metadata"]["uid"], created["metadata"]["uid"]);
}

#[tokio::test]
async fn names_dry_runs_and_strictness() {
    let server = Server::start().await;
    let made = server
        .post(MAPS, &json!({"metadata": {"generateName": "gen-"}}))
        .await
        .expect(201);
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
    assert_eq!(
        server
            .post(MAPS, &json!({"metadata": {}}))
            .await
            .expect(422)["reason"],
        "Invalid"
    );
    server
        .post(MAPS, &json!({"metadata": {"name": "Not_A_Name"}}))
        .await
        .expect(422);
    let other = json!({"metadata": {"name": "x", "namespace": "kube-system"}});
    server.post(MAPS, &other).await.expect(400);
    let versioned = json!({"metadata": {"name": "x", "resourceVersion": "5"}});
    server.post(MAPS, &versioned).await.expect(400);

    let map = json!({"metadata": {"name": "dry"}});
    server
        .post(&format!("{MAPS}?dryRun=All"), &map)
        .await
        .expect(201);
    server.get(&format!("{MAPS}/dry")).await.expect(404);
    server
        .post(&format!("{MAPS}?dryRun=Some"), &map)
        .await
        .expect(422);
    let created = server.post(MAPS, &map).await.expect(201);
    server
        .post(&format!("{MAPS}?dryRun=All"), &map)
        .await
        .expect(409);
    let dry = format!("{MAPS}/dry?dryRun=All");
    let patched = server
        .patch(&dry, "merge-patch+json", &json!({"data": {"a": "b"}}))
        .await
        .expect(200);
    assert_eq!(
        patched["metadata"]["resourceVersion"],
        created["metadata"]["resourceVersion"]
    );
    server.delete(&dry).await.expect(200);
    assert_eq!(
        server.get(&format!("{MAPS}/dry")).await.expect(200),
        created
    );

    let odd = json!({"metadata": {"name": "odd"}, "foo": 1});
    let strict = server
        .post(&format!("{MAPS}?fieldValidation=Strict"), &odd)
        .await;
    strict.expect(400);
    assert!(
        strict
            .message()
            .contains("strict decoding error: unknown field \"foo\""),
        "{}",
        strict.text
    );
    let warned = server.post(MAPS, &odd).await;
    warned.expect(201);
    assert_eq!(
        warned.headers["warning"],
        "299 - \"unknown field \\\"foo\\\"\""
    );
    server
        .post(MAPS, &json!({"metadata": {"name": "t"}, "data": "text"}))
        .await
        .expect(400);
    server
        .post(
            MAPS,
            &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "t"}}),
        )
        .await
        .expect(400);
    let body = "{\"metadata\":{\"name\":\"xml\"}}";
    let headers = [("content-type", "application/xml")];
    server
        .ask("POST", MAPS, &headers, body, Some(admin()))
        .await
        .expect(415);
    let yaml = "metadata:\n  name: yaml\ndata:\n  a: b\n";
    let headers = [("content-type", "application/yaml")];
    server
        .ask("POST", MAPS, &headers, yaml, Some(admin()))
        .await
        .expect(201);
}

#[tokio::test]
async fn protobuf_bodies() {
    let server = Server::start().await;
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "proto"}});
    let body = trivet_kube_schema::codec::to_protobuf(&object).unwrap();
    let headers = [
        ("content-type", "application/vnd.kubernetes.protobuf"),
        (
            "accept",
            "application/vnd.kubernetes.protobuf,application/json",
        ),
    ];
    let made = server
        .ask("POST", "/api/v1/namespaces", &headers, body, Some(admin()))
        .await
        .expect(201);
    assert_eq!(made["status"]["phase"], "Active");
    assert_eq!(
        made["metadata"]["labels"]["kubernetes.io/metadata.name"],
        "proto"
    );
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let server = Server::start().await;
    let map = json!({"metadata": {"name": "held", "finalizers": ["example.com/one"]}});
    server.post(MAPS, &map).await.expect(201);
    let one = format!("{MAPS}/held");
    let marked = server.delete(&one).await.expect(200);
    assert!(
        marked["metadata"]["deletionTimestamp"].is_string(),
        "{marked}"
    );
    let add = json!({"metadata": {"finalizers": ["example.com/one", "example.com/two"]}});
    server
        .patch(&one, "merge-patch+json", &add)
        .await
        .expect(422);
    server.get(&one).await.expect(200);
    server
        .patch(
            &one,
            "merge-patch+json",
            &json!({"metadata": {"finalizers": null}}),
        )
        .await
        .expect(200);
    server.get(&one).await.expect(404);
}

#[tokio::test]
async fn pods_wait_for_their_node() {
    let server = Server::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, node: Option<&str>| {
        let mut pod = json!({
            "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        });
        if let Some(node) = node {
            pod["spec"]["nodeName"] = node.into();
        }
        pod
    };
    let made = server.post(pods, &pod("free", None)).await.expect(201);
    assert_eq!(
        (&made["metadata"]["generation"], &made["status"]["phase"]),
        (&json!(1), &json!("Pending"))
    );
    server.delete(&format!("{pods}/free")).await.expect(200);
    server.get(&format!("{pods}/free")).await.expect(404);
    server
        .post(pods, &pod("bound", Some("n")))
        .await
        .expect(201);
    let marked = server.delete(&format!("{pods}/bound")).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    server
        .delete(&format!("{pods}/bound?gracePeriodSeconds=0"))
        .await
        .expect(200);
    server.get(&format!("{pods}/bound")).await.expect(404);
    // The status has a path of its own.
    server.post(pods, &pod("s", None)).await.expect(201);
    let status = json!({"status": {"phase": "Running"}, "spec": {"nodeName": "n"}});
    let after = server
        .patch(&format!("{pods}/s/status"), "merge-patch+json", &status)
        .await
        .expect(200);
    assert_eq!(after["status"]["phase"], "Running");
    assert!(after["spec"].get("nodeName").is_none());
    let main = json!({"status": {"phase": "Failed"}});
    let after = server
        .patch(&format!("{pods}/s"), "merge-patch+json", &main)
        .await
        .expect(200);
    assert_eq!(after["status"]["phase"], "Running");
}

#[tokio::test]
async fn leases_are_created_by_put_and_need_a_version() {
    let server = Server::start().await;
    let one = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "l"}, "spec": {"holderIdentity": "a"},
    });
    server.put(one, &lease).await.expect(201);
    server.put(one, &lease).await.expect(422);
    let mut current = server.get(one).await.json();
    current["spec"]["holderIdentity"] = "b".into();
    server.put(one, &current).await.expect(200);
    server.put(one, &current).await.expect(409);
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let server = Server::start().await;
    for (name, color) in [("a", "red"), ("b", "blue"), ("c", "red")] {
        server
            .post(
                MAPS,
                &json!({"metadata": {"name": name, "labels": {"color": color}}}),
            )
            .await
            .expect(201);
    }
    server
        .delete(&format!("{MAPS}?labelSelector=color%3Dred"))
        .await
        .expect(200);
    let left = server
        .get(&format!("{MAPS}?labelSelector=color"))
        .await
        .json();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn services_get_addresses_of_their_own() {
    let server = Server::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, ip: Option<&str>| {
        let mut service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
        if let Some(ip) = ip {
            service["spec"]["clusterIP"] = ip.into();
        }
        service
    };
    let kubernetes = server.get(&format!("{services}/kubernetes")).await.json();
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.43.0.1");
    let a = server.post(services, &service("a", None)).await.expect(201);
    let ip = a["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.43."), "{ip}");
    server
        .post(services, &service("b", Some(&ip)))
        .await
        .expect(422);
    server
        .post(services, &service("headless", Some("None")))
        .await
        .expect(201);
    server.delete(&format!("{services}/a")).await.expect(200);
    server.api.client().sync().await.unwrap();
    server
        .post(services, &service("b", Some(&ip)))
        .await
        .expect(201);
}

#[tokio::test]
async fn events_of_both_groups_are_one_storage() {
    let server = Server::start().await;
    let event = json!({
        "metadata": {"name": "e"}, "reason": "Because", "message": "text", "type": "Normal",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z",
    });
    server
        .post("/api/v1/namespaces/default/events", &event)
        .await
        .expect(201);
    let view = server
        .get("/apis/events.k8s.io/v1/namespaces/default/events/e")
        .await
        .expect(200);
    assert_eq!(
        (&view["note"], &view["regarding"]["name"]),
        (&json!("text"), &json!("p"))
    );
    let query = "fieldSelector=involvedObject.name%3Dp%2Creason%3DBecause";
    let list = server.get(&format!("/api/v1/events?{query}")).await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let list = server
        .get("/api/v1/events?fieldSelector=involvedObject.name%3Dq")
        .await
        .json();
    assert_eq!(list["items"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn limits_hold() {
    let server = Server::with(|config| {
        config.limits.body_bytes_max = 1000;
        config.limits.target_bytes_max = 300;
        config.limits.header_bytes_max = 300;
        config.limits.watches_max = 1;
        config.limits.writes_in_flight_max = 0;
    })
    .await;
    let many = server.post(MAPS, &json!({"metadata": {"name": "x"}})).await;
    many.expect(429);
    assert_eq!(many.headers["retry-after"], "1");
    assert_eq!(
        server
            .get(&format!("{MAPS}?x={}", "a".repeat(400)))
            .await
            .code,
        414
    );
    let long = "a".repeat(400);
    let answer = server
        .ask(
            "GET",
            MAPS,
            &[("x-long", &long)],
            Bytes::new(),
            Some(admin()),
        )
        .await;
    assert_eq!(answer.code, 431);
    let open = server.watch(&format!("{MAPS}?watch=1")).await;
    server.get(&format!("{MAPS}?watch=1")).await.expect(429);
    drop(open);
    drop(server.watch(&format!("{MAPS}?watch=1")).await);

    let server = Server::with(|config| config.limits.body_bytes_max = 1000).await;
    let large = json!({"metadata": {"name": "x"}, "data": {"k": "v".repeat(1000)}});
    let answer = server.post(MAPS, &large).await;
    assert_eq!(answer.expect(413)["reason"], "RequestEntityTooLarge");
}
