use bytes::Bytes;
use serde_json::{Value, json};
use trivet_datastore::{Datastore, Revision};

use crate::harness::{Server, admin, revision};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn fill(server: &Server, count: usize) -> u64 {
    let mut last = 0;
    for i in 0..count {
        let parity = if i % 2 == 0 { "even" } else { "odd" };
        let map = json!({"metadata": {"name": format!("m{i:03}"), "labels": {"parity": parity}}});
        last = revision(&server.post(MAPS, &map).await.expect(201));
    }
    last
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn resource_version_rules() {
    let server = Server::start().await;
    let last = fill(&server, 3).await;
    for (query, code, text) in [
        ("".to_owned(), 200, ""),
        ("?resourceVersion=0".to_owned(), 200, ""),
        (format!("?resourceVersion={last}"), 200, ""),
        (
            format!("?resourceVersion={last}&resourceVersionMatch=Exact"),
            200,
            "",
        ),
        (
            format!("?resourceVersion={last}&resourceVersionMatch=NotOlderThan"),
            200,
            "",
        ),
        (
            "?resourceVersionMatch=Exact".to_owned(),
            422,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "?resourceVersion=1&resourceVersionMatch=Never".to_owned(),
            422,
            "Unsupported value",
        ),
        (
            "?resourceVersion=0&resourceVersionMatch=Exact".to_owned(),
            422,
            "forbidden",
        ),
        ("?resourceVersion=x".to_owned(), 422, "resourceVersion"),
        ("?limit=x".to_owned(), 400, "parsing"),
        (
            "?continue=rubbish".to_owned(),
            400,
            "continue key is not valid",
        ),
        (
            "?sendInitialEvents=true".to_owned(),
            422,
            "sendInitialEvents is forbidden for list",
        ),
        ("?labelSelector=a%3D%3D%3Db".to_owned(), 400, ""),
        ("?fieldSelector=foo%3Dbar".to_owned(), 400, "foo"),
    ] {
        let answer = server.get(&format!("{MAPS}{query}")).await;
        assert_eq!(answer.code.as_u16(), code, "{query}: {}", answer.text);
        assert!(
            text.is_empty() || answer.message().contains(text),
            "{query}: {}",
            answer.text
        );
    }
    let list = server
        .get(&format!(
            "{MAPS}?resourceVersion={last}&resourceVersionMatch=Exact"
        ))
        .await
        .json();
    assert_eq!(revision(&list), last);
    let older = format!("{MAPS}?resourceVersion={}&limit=500", last - 1);
    assert!(!names(&server.get(&older).await.json()).contains(&"m002".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_revision_of_the_future_times_out() {
    let server = Server::start().await;
    let answer = server
        .get(&format!("{MAPS}?resourceVersion=99999999"))
        .await;
    let status = answer.expect(504);
    assert!(
        answer
            .message()
            .starts_with("Too large resource version: 99999999, current: "),
        "{}",
        answer.text
    );
    assert_eq!(
        status["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
    assert_eq!(status["details"]["retryAfterSeconds"], 1);
    assert_eq!(answer.headers["retry-after"], "1");
}

#[tokio::test]
async fn pages_come_from_one_snapshot() {
    let server = Server::start().await;
    server.api.client().sync().await.unwrap();
    server
        .eventually(MAPS, |a| a.text.contains("kube-root-ca.crt"))
        .await;
    fill(&server, 20).await;
    let expected = names(&server.get(MAPS).await.json());
    let mut found = Vec::new();
    let mut next = String::new();
    let mut snapshot = None;
    for page in 0.. {
        let list = server
            .get(&format!("{MAPS}?limit=6&continue={next}"))
            .await
            .expect(200);
        assert_eq!(*snapshot.get_or_insert(revision(&list)), revision(&list));
        found.extend(names(&list));
        let remaining = list["metadata"]["remainingItemCount"].as_u64();
        match list["metadata"]["continue"].as_str() {
            Some(token) => {
                assert_eq!(remaining, Some((expected.len() - found.len()) as u64));
                next = token.to_owned();
            }
            None => {
                assert_eq!(remaining, None);
                break;
            }
        }
        // Writes between pages do not show.
        server
            .delete(&format!("{MAPS}/m{:03}", 19 - page))
            .await
            .expect(200);
        server
            .post(MAPS, &json!({"metadata": {"name": format!("a{page}")}}))
            .await
            .expect(201);
    }
    assert_eq!(found, expected);
    // With a selector there is no count, and pages are still full.
    let list = server
        .get(&format!("{MAPS}?limit=3&labelSelector=parity%3Dodd"))
        .await
        .json();
    assert_eq!(names(&list), ["m001", "m003", "m005"]);
    assert!(list["metadata"].get("remainingItemCount").is_none());
    let token = list["metadata"]["continue"].as_str().unwrap();
    server
        .post(MAPS, &json!({"metadata": {"name": "m0055"}}))
        .await
        .expect(201);
    let list = server
        .get(&format!(
            "{MAPS}?limit=3&labelSelector=parity%3Dodd&continue={token}"
        ))
        .await
        .json();
    assert_eq!(names(&list), ["m007", "m009", "m011"]);
}

#[tokio::test]
async fn a_compacted_snapshot_offers_an_inconsistent_rest() {
    let server = Server::start().await;
    server
        .eventually(MAPS, |a| a.text.contains("kube-root-ca.crt"))
        .await;
    fill(&server, 10).await;
    let list = server.get(&format!("{MAPS}?limit=4")).await.json();
    let token = list["metadata"]["continue"].as_str().unwrap().to_owned();
    let newest = revision(
        &server
            .post(MAPS, &json!({"metadata": {"name": "m0031"}}))
            .await
            .json(),
    );
    // A cache that has not seen the write would still hold exactly that snapshot.
    server.api.client().sync().await.unwrap();
    server.store.compact(Revision(newest)).await.unwrap();
    let answer = server
        .get(&format!("{MAPS}?limit=4&continue={token}"))
        .await;
    let status = answer.expect(410);
    assert_eq!(status["reason"], "Expired");
    let fresh = status["metadata"]["continue"]
        .as_str()
        .expect("a token to go on with");
    let rest = server
        .get(&format!("{MAPS}?continue={fresh}"))
        .await
        .expect(200);
    assert!(names(&rest).contains(&"m009".to_owned()));
    let exact = format!(
        "{MAPS}?resourceVersion={}&resourceVersionMatch=Exact",
        revision(&list)
    );
    let answer = server.get(&exact).await;
    answer.expect(410);
    assert_eq!(
        answer.message(),
        "The resourceVersion for the provided list is too old."
    );
}

#[tokio::test]
async fn forms_of_answers() {
    let server = Server::start().await;
    fill(&server, 2).await;
    let ask = async |target: &str, accept: &str| {
        server
            .ask(
                "GET",
                target,
                &[("accept", accept)],
                Bytes::new(),
                Some(admin()),
            )
            .await
    };
    let one = format!("{MAPS}/m000");
    let table = ask(
        MAPS,
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    )
    .await
    .json();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    let table = ask(&one, "application/json;as=Table;v=v1beta1;g=meta.k8s.io")
        .await
        .json();
    assert_eq!(table["apiVersion"], "meta.k8s.io/v1beta1");
    assert_eq!(table["rows"][0]["cells"][0], "m000");
    let partial = ask(
        MAPS,
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    )
    .await
    .json();
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    let yaml = ask(&one, "application/yaml").await;
    assert!(yaml.text.contains("kind: ConfigMap"), "{}", yaml.text);
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    ask(&one, "application/vnd.kubernetes.protobuf,application/json")
        .await
        .expect(200);
    ask(&one, "text/html").await.expect(406);
    let list = server.get(MAPS).await.json();
    assert_eq!(list["kind"], "ConfigMapList");
    assert!(
        list["items"][0].get("kind").is_none(),
        "items leave out their type"
    );
    let all = server.get("/api/v1/configmaps").await.json();
    assert!(all["items"].as_array().unwrap().len() >= list["items"].as_array().unwrap().len());
}

#[tokio::test]
async fn discovery_health_and_unknown_paths() {
    let server = Server::start().await;
    for path in [
        "/api",
        "/apis",
        "/api/v1",
        "/apis/coordination.k8s.io",
        "/apis/coordination.k8s.io/v1",
        "/version",
    ] {
        server.get(path).await.expect(200);
    }
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let answer = server
        .ask(
            "GET",
            "/apis",
            &[("accept", v2)],
            Bytes::new(),
            Some(admin()),
        )
        .await;
    assert_eq!(answer.headers["content-type"], v2);
    assert_eq!(answer.json()["kind"], "APIGroupDiscoveryList");
    let etag = answer.headers["etag"].to_str().unwrap();
    let headers = [("accept", v2), ("if-none-match", etag)];
    let answer = server
        .ask("GET", "/apis", &headers, Bytes::new(), Some(admin()))
        .await;
    assert_eq!(answer.code, 304);
    for path in ["/healthz", "/livez", "/readyz", "/readyz/etcd"] {
        assert_eq!(server.get(path).await.text, "ok", "{path}");
    }
    for path in [
        "/nope",
        "/api/v2",
        "/apis/nope/v1/things",
        "/api/v1/nopes",
        "/api/v1/namespaces/default/nodes",
    ] {
        let answer = server.get(path).await;
        answer.expect(404);
        assert_eq!(
            answer.message(),
            "the server could not find the requested resource",
            "{path}"
        );
    }
    server
        .post("/api/v1/configmaps", &json!({}))
        .await
        .expect(405);
    server
        .post(&format!("{MAPS}/x"), &json!({}))
        .await
        .expect(405);
    let answer = server.get("/api/v1/namespaces/default/pods/nope").await;
    answer.expect(404);
    assert_eq!(answer.message(), "pods \"nope\" not found");
    assert!(answer.headers.contains_key("audit-id"));
    assert_eq!(answer.headers["cache-control"], "no-cache, private");
}

#[tokio::test]
async fn two_servers_over_one_store_agree_at_once() {
    let first = Server::start().await;
    let second = Server::over(first.store.clone(), |config| {
        config.advertise = "127.0.0.2:6443".parse().unwrap();
    })
    .await;
    for i in 0..20 {
        let map = json!({"metadata": {"name": format!("x{i}")}});
        let written = revision(&first.post(MAPS, &map).await.expect(201));
        let list = second.get(MAPS).await.json();
        assert!(
            names(&list).contains(&format!("x{i}")),
            "a list is linearizable on every server"
        );
        assert!(revision(&list) >= written);
    }
}
