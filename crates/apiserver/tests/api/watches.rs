use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Server, revision};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn settled() -> Server {
    let server = Server::start().await;
    server
        .eventually(MAPS, |a| a.text.contains("kube-root-ca.crt"))
        .await;
    server
}

#[tokio::test]
async fn a_watch_tells_everything_in_order() {
    let server = settled().await;
    let from = revision(&server.get(MAPS).await.json());
    let mut watch = server
        .watch(&format!("{MAPS}?watch=true&resourceVersion={from}"))
        .await;
    let made = server
        .post(MAPS, &json!({"metadata": {"name": "a"}}))
        .await
        .json();
    let event = watch.next().await.unwrap();
    assert_eq!(
        (event["type"].as_str(), &event["object"]),
        (Some("ADDED"), &made)
    );
    let changed = server
        .patch(
            &format!("{MAPS}/a"),
            "merge-patch+json",
            &json!({"data": {"x": "1"}}),
        )
        .await
        .json();
    let event = watch.next().await.unwrap();
    assert_eq!(
        (event["type"].as_str(), &event["object"]),
        (Some("MODIFIED"), &changed)
    );
    server.delete(&format!("{MAPS}/a")).await.expect(200);
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["data"], json!({"x": "1"}), "the last state");
    assert!(
        revision(&event["object"]) > revision(&changed),
        "at the revision of the deletion"
    );
    // The past can be watched again.
    let mut again = server
        .watch(&format!("{MAPS}?watch=true&resourceVersion={from}"))
        .await;
    for expected in ["ADDED", "MODIFIED", "DELETED"] {
        assert_eq!(again.event().await, (expected.to_owned(), "a".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn watchers_rebuild_the_state_under_concurrent_writers() {
    let server = settled().await;
    let list = server.get(MAPS).await.json();
    let from = revision(&list);
    let mut watchers = Vec::new();
    for i in 0..4 {
        // Two start from a list, two from scratch; all before the first write.
        let query = if i % 2 == 0 {
            format!("&resourceVersion={from}")
        } else {
            String::new()
        };
        let mut watch = server.watch(&format!("{MAPS}?watch=true{query}")).await;
        watchers.push(tokio::spawn(async move {
            let mut state: BTreeMap<String, Value> = BTreeMap::new();
            let mut last = 0;
            let mut after_initial = i % 2 == 0;
            loop {
                let event = watch.next().await.unwrap();
                let object = event["object"].clone();
                let at = revision(&object);
                // Initial objects come in key order, changes in revision order.
                after_initial |= at > from;
                assert!(!after_initial || at > last, "{at} after {last}");
                if after_initial {
                    last = at;
                }
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                if name == "end" {
                    return state;
                }
                match event["type"].as_str().unwrap() {
                    "ADDED" => assert!(state.insert(name, object).is_none()),
                    "MODIFIED" => assert!(state.insert(name, object).is_some() || i % 2 == 0),
                    "DELETED" => assert!(state.remove(&name).is_some() || i % 2 == 0),
                    other => panic!("{other}"),
                }
            }
        }));
    }
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let server = server.clone();
            tokio::spawn(async move {
                for round in 0..20 {
                    let name = format!("w{w}-{}", round % 3);
                    let one = format!("{MAPS}/{name}");
                    let map =
                        json!({"metadata": {"name": name}, "data": {"round": round.to_string()}});
                    let made = server.post(MAPS, &map).await.code.as_u16();
                    if made == 409 {
                        server.put(&one, &map).await.expect(200);
                    }
                    if round % 5 == 4 {
                        server.delete(&one).await.expect(200);
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    server
        .post(MAPS, &json!({"metadata": {"name": "end"}}))
        .await
        .expect(201);
    let list = server.get(MAPS).await.json();
    let expected: BTreeMap<String, u64> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| {
            (
                i["metadata"]["name"].as_str().unwrap().to_owned(),
                revision(i),
            )
        })
        .filter(|(name, _)| name.starts_with('w'))
        .collect();
    for watcher in watchers {
        let state = watcher.await.unwrap();
        let found: BTreeMap<String, u64> = state
            .iter()
            .filter(|(name, _)| name.starts_with('w'))
            .map(|(name, object)| (name.clone(), revision(object)))
            .collect();
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_slow_watcher_is_cut_and_never_skipped() {
    let server = Server::with(|config| config.limits.ring_events_max = 16).await;
    server
        .eventually(MAPS, |a| a.text.contains("kube-root-ca.crt"))
        .await;
    let from = revision(&server.get(MAPS).await.json());
    let mut watch = server
        .watch(&format!("{MAPS}?watch=true&resourceVersion={from}"))
        .await;
    for i in 0..8 {
        server
            .post(MAPS, &json!({"metadata": {"name": format!("a{i}")}}))
            .await
            .expect(201);
    }
    server.api.client().sync().await.unwrap();
    for i in 0..8 {
        assert_eq!(watch.event().await, ("ADDED".to_owned(), format!("a{i}")));
    }
    for i in 0..40 {
        server
            .post(MAPS, &json!({"metadata": {"name": format!("b{i}")}}))
            .await
            .expect(201);
    }
    server.api.client().sync().await.unwrap();
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!(
        (&event["object"]["code"], &event["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    assert_eq!(watch.next().await, None, "and then it ends");
    // A start that is too old is told the same way.
    let mut watch = server
        .watch(&format!("{MAPS}?watch=true&resourceVersion={from}"))
        .await;
    let event = watch.next().await.unwrap();
    assert_eq!(
        (event["type"].as_str(), &event["object"]["code"]),
        (Some("ERROR"), &json!(410))
    );
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn selectors_make_objects_appear_and_disappear() {
    let server = settled().await;
    let mut watch = server
        .watch(&format!("{MAPS}?watch=true&labelSelector=on%3Dyes"))
        .await;
    let label = |value: &str| json!({"metadata": {"labels": {"on": value}}});
    server
        .post(MAPS, &json!({"metadata": {"name": "s"}}))
        .await
        .expect(201);
    let one = format!("{MAPS}/s");
    server
        .patch(&one, "merge-patch+json", &label("yes"))
        .await
        .expect(200);
    assert_eq!(watch.event().await, ("ADDED".to_owned(), "s".to_owned()));
    server
        .patch(&one, "merge-patch+json", &json!({"data": {"x": "1"}}))
        .await
        .expect(200);
    assert_eq!(watch.event().await, ("MODIFIED".to_owned(), "s".to_owned()));
    let off = server
        .patch(&one, "merge-patch+json", &label("no"))
        .await
        .json();
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(
        event["object"]["metadata"]["labels"]["on"], "yes",
        "the last state that matched"
    );
    assert_eq!(revision(&event["object"]), revision(&off));
    server.delete(&one).await.expect(200);
    server
        .post(
            MAPS,
            &json!({"metadata": {"name": "t", "labels": {"on": "yes"}}}),
        )
        .await
        .expect(201);
    assert_eq!(watch.event().await, ("ADDED".to_owned(), "t".to_owned()));
    let mut single = server
        .watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name%3Dt"))
        .await;
    assert_eq!(single.event().await, ("ADDED".to_owned(), "t".to_owned()));
}

#[tokio::test]
async fn streaming_lists_end_with_a_marked_bookmark() {
    let server = settled().await;
    server
        .post(MAPS, &json!({"metadata": {"name": "z"}}))
        .await
        .expect(201);
    let stream = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true";
    let target = format!("{MAPS}?{stream}&resourceVersionMatch=NotOlderThan");
    let mut watch = server.watch(&target).await;
    let mut added = Vec::new();
    let bookmark = loop {
        let event = watch.next().await.unwrap();
        match event["type"].as_str() {
            Some("ADDED") => added.push(
                event["object"]["metadata"]["name"]
                    .as_str()
                    .unwrap()
                    .to_owned(),
            ),
            Some("BOOKMARK") => break event,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(added, ["kube-root-ca.crt", "z"]);
    let object = &bookmark["object"];
    assert_eq!(object["kind"], "ConfigMap");
    assert_eq!(
        object["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert!(revision(object) > 0);
    server.delete(&format!("{MAPS}/z")).await.expect(200);
    assert_eq!(watch.event().await, ("DELETED".to_owned(), "z".to_owned()));

    let answer = server.get(&format!("{MAPS}?{stream}")).await;
    answer.expect(422);
    let text = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
    assert!(answer.message().contains(text), "{}", answer.text);
    server
        .get(&format!(
            "{MAPS}?watch=true&resourceVersionMatch=NotOlderThan&resourceVersion=1"
        ))
        .await
        .expect(422);
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_about_every_minute_and_at_the_end() {
    let server = settled().await;
    let begin = tokio::time::Instant::now();
    let query = "watch=true&resourceVersion=0&allowWatchBookmarks=true&timeoutSeconds=200";
    let mut watch = server
        .watch(&format!(
            "{MAPS}?{query}&fieldSelector=metadata.name%3Dnone"
        ))
        .await;
    let mut times = Vec::new();
    let mut last = 0;
    while let Some(event) = watch.next().await {
        assert_eq!(event["type"], "BOOKMARK");
        assert!(revision(&event["object"]) >= last);
        last = revision(&event["object"]);
        times.push(begin.elapsed().as_secs());
    }
    assert!((3..=5).contains(&times.len()), "{times:?}");
    assert_eq!(*times.last().unwrap(), 200, "{times:?}");
    assert!((45..=75).contains(&times[0]), "{times:?}");
    // Leases change all the time: bookmarks carry revisions of other resources too.
    assert!(last > 10);
}

#[tokio::test]
async fn tables_name_their_columns_once() {
    let server = settled().await;
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let target = format!("{MAPS}?watch=true&timeoutSeconds=1");
    server
        .post(MAPS, &json!({"metadata": {"name": "z"}}))
        .await
        .expect(201);
    let answer = server
        .ask("GET", &target, &headers, "", Some(crate::harness::admin()))
        .await;
    let events: Vec<Value> = answer
        .text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(events.len(), 2);
    assert!(
        !events[0]["object"]["columnDefinitions"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    assert!(
        events[1]["object"]["columnDefinitions"]
            .as_array()
            .is_none_or(Vec::is_empty)
    );
    assert_eq!(events[1]["object"]["rows"][0]["cells"][0], "z");
}

#[tokio::test]
async fn watches_end_cleanly_at_shutdown() {
    let server = settled().await;
    let mut watch = server
        .watch(&format!("{MAPS}?watch=true&resourceVersion=0"))
        .await;
    assert_eq!(watch.event().await.0, "ADDED");
    let (end, ()) = tokio::join!(watch.next(), server.api.shutdown());
    assert_eq!(end, None);
    server.get(MAPS).await.expect(503);
    tokio::time::timeout(Duration::from_secs(5), server.api.shutdown())
        .await
        .expect("twice is fine");
}
