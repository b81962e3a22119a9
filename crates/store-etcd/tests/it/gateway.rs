//! The JSON gateway: route by route beside a genuine etcd, and what only shows over time.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value as Json;
use tempfile::TempDir;
use trivet_datastore::Datastore;
use trivet_env::Env;

use crate::http_client::{Answer, open, post, send};
use crate::support::{Member, Single, eventually, free_address, settings, soon};

/// A genuine etcd 3.5 of one member.
struct Genuine {
    process: Child,
    address: String,
    _dir: TempDir,
}

impl Drop for Genuine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Genuine {
    /// `None` where there is no such etcd, and there need not be.
    async fn start() -> Option<Self> {
        let program = std::env::var_os("TRIVET_ETCD_DIR")
            .map(|dir| PathBuf::from(dir).join("etcd"))
            .filter(|program| program.exists());
        let Some(program) = program else {
            eprintln!("SKIPPED: TRIVET_ETCD_DIR does not name a directory with etcd 3.5");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let (client, peer) = (free_address(), free_address());
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let process = Command::new(program)
            .args(["--name", "single", "--data-dir"])
            .arg(dir.path().join("etcd"))
            .args(["--listen-client-urls", &client_url])
            .args(["--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url])
            .args(["--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("single={peer_url}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let genuine = Self {
            process,
            address: client.to_string(),
            _dir: dir,
        };
        eventually("etcd serves", || async {
            tokio::net::TcpStream::connect(client).await.is_ok()
                && post(&genuine.address, "/v3/kv/range", r#"{"key":"YQ=="}"#)
                    .await
                    .status
                    == 200
        })
        .await;
        Some(genuine)
    }
}

/// Members of JSON objects that differ from member to member.
const MASKED: &[&str] = &[
    "cluster_id",
    "member_id",
    "raft_term",
    "leader_id",
    "peerURLs",
    "clientURLs",
    "version",
    "dbSize",
    "dbSizeInUse",
    "leader",
    "raftIndex",
    "raftTerm",
    "raftAppliedIndex",
    "hash",
];

fn masked(path: &str, value: &mut Json) {
    match value {
        Json::Object(members) => {
            for (name, value) in members {
                let id = name == "ID" && path.contains("/member/");
                // `leader` is a number in a status, and something to look into elsewhere.
                if (MASKED.contains(&name.as_str()) || id) && !value.is_object() {
                    *value = Json::from("masked");
                } else {
                    masked(path, value);
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(|item| masked(path, item)),
        _ => {}
    }
}

/// What can be compared of an answer: status, type, and the JSON of each line.
fn comparable(path: &str, answer: &Answer) -> (u16, String, Vec<Json>) {
    let content_type = answer.headers["content-type"].to_str().unwrap();
    let lines = answer.body.lines().map(|line| {
        let mut json = serde_json::from_str(line).unwrap_or_else(|_| Json::from(line));
        masked(path, &mut json);
        json
    });
    (answer.status, content_type.to_owned(), lines.collect())
}

/// Requests in an order in which each means the same to both. Changes of members stand apart:
/// etcd loses one that comes while it still applies the one before.
const REQUESTS: &[(&str, &str)] = &[
    ("/v3/kv/range", r#"{"key":"Zm9v"}"#),
    (
        "/v3/kv/put",
        r#"{"key":"Zm9v","value":"YmFy","nonsense":[{}],"lease":"0"}"#,
    ),
    (
        "/v3/kv/put",
        r#"{"key":"Zm9v","value":"YmF6","prev_kv":true}"#,
    ),
    ("/v3/kv/put", r#"{"key":"Zm9w","ignore_value":true}"#),
    ("/v3/kv/put", r#"{"value":"YmFy"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":null}"#),
    (
        "/v3beta/kv/range",
        r#"{"key":"Zm9v","range_end":"Zm94","sort_order":"DESCEND","sort_target":3}"#,
    ),
    (
        "/v3/kv/range",
        r#"{"key":"Zm9v","rangeEnd":"AA==","count_only":true}"#,
    ),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":"99"}"#),
    ("/v3/kv/range", ""),
    ("/v3/kv/range", r#"{"key":"#),
    ("/v3/kv/nothing", "{}"),
    ("/v3/nothing", "{}"),
    ("/v3alpha/kv/range", "{}"),
    ("/v3/kv/deleterange", r#"{"key":"Zm9v","prev_kv":true}"#),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"target":"CREATE","key":"Zm9v","create_revision":0,"result":"EQUAL"}],
            "success":[{"request_put":{"key":"Zm9v","value":"YmFy"}},{"request_range":{"key":"Zm9v"}}]}"#,
    ),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"target":3,"key":"Zm9v","value":"YmFy","result":0}],
            "success":[{"requestRange":{"key":"Zm9v"}},
                       {"request_txn":{"success":[{"request_delete_range":{"key":"eA=="}}]}}]}"#,
    ),
    ("/v3/kv/txn", "{}"),
    ("/v3/kv/txn", r#"{"success":[{}]}"#),
    ("/v3/kv/compaction", r#"{"revision":99}"#),
    ("/v3/kv/compaction", r#"{"revision":4}"#),
    ("/v3/kv/compaction", r#"{"revision":4}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":2}"#),
    ("/v3/lease/grant", r#"{"TTL":"100","ID":77}"#),
    ("/v3/lease/grant", r#"{"TTL":"100","ID":"77"}"#),
    ("/v3/lease/grant", r#"{"TTL":"9000000001"}"#),
    ("/v3/kv/put", r#"{"key":"bGVhc2Vk","lease":"77"}"#),
    ("/v3/kv/put", r#"{"key":"bGVhc2Vk","lease":"78"}"#),
    ("/v3/lease/timetolive", r#"{"ID":"78"}"#),
    ("/v3/kv/lease/timetolive", r#"{"ID":"78","keys":true}"#),
    ("/v3/lease/leases", "{}"),
    ("/v3/kv/lease/leases", "{}"),
    ("/v3/lease/keepalive", r#"{"ID":77}{"ID":"5"}"#),
    ("/v3/lease/keepalive", ""),
    ("/v3/kv/lease/revoke", r#"{"ID":78}"#),
    ("/v3/lease/revoke", r#"{"ID":"77"}"#),
    ("/v3/kv/lease/grant", "{}"),
    ("/v3/cluster/member/list", "{}"),
    ("/v3/cluster/member/list", r#"{"linearizable":true}"#),
    ("/v3/cluster/member/remove", r#"{"ID":"1"}"#),
    ("/v3/cluster/member/add", r#"{"peerURLs":["nonsense"]}"#),
    ("/v3/maintenance/status", "{}"),
    ("/v3/maintenance/alarm", "{}"),
    (
        "/v3/maintenance/alarm",
        r#"{"action":"GET","alarm":"NOSPACE"}"#,
    ),
    ("/v3/maintenance/defragment", "{}"),
    ("/v3/maintenance/transfer-leadership", r#"{"targetID":"7"}"#),
    ("/v3/lock/lock", r#"{"name":"bG9jaw==","lease":"1234"}"#),
    ("/v3/lease/grant", r#"{"TTL":"100","ID":"255"}"#),
    ("/v3/lock/lock", r#"{"name":"bG9jaw==","lease":"255"}"#),
    ("/v3/lock/unlock", r#"{"key":"bG9jay9mZg=="}"#),
    ("/v3/lock/unlock", r#"{"key":"bG9jay9mZg=="}"#),
    ("/v3/lock/unlock", "{}"),
    ("/v3/cluster/member/promote", r#"{"ID":"1"}"#),
    ("/v3/election/leader", r#"{"name":"ZWxlY3Q="}"#),
    (
        "/v3/election/campaign",
        r#"{"name":"ZWxlY3Q=","value":"djE=","lease":255}"#,
    ),
    (
        "/v3/election/campaign",
        r#"{"name":"ZWxlY3Q=","value":"djI=","lease":255}"#,
    ),
    ("/v3/election/leader", r#"{"name":"ZWxlY3Q="}"#),
    ("/v3/election/proclaim", r#"{"value":"djI="}"#),
    (
        "/v3/election/proclaim",
        r#"{"leader":{"name":"ZWxlY3Q=","key":"ZWxlY3QvZmY=","rev":"1","lease":255},"value":"djM="}"#,
    ),
    (
        "/v3/election/resign",
        r#"{"leader":{"name":"ZWxlY3Q=","key":"ZWxlY3QvZmY=","rev":"1","lease":255}}"#,
    ),
    ("/v3/election/resign", "{}"),
    (
        "/v3/cluster/member/update",
        r#"{"ID":"1","peerURLs":["https://127.0.0.1:1"]}"#,
    ),
];

#[tokio::test]
async fn every_route_answers_as_etcds_does() {
    let Some(genuine) = Genuine::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings(Env::real(), dir.path().join("trivet"));
    config.client_urls = vec!["http://localhost:2379".to_owned()];
    let member = Member::open(config).await;
    let ours = member.address();
    for (number, (path, body)) in REQUESTS.iter().enumerate() {
        let expected = comparable(path, &post(&genuine.address, path, body).await);
        let answer = comparable(path, &post(&ours, path, body).await);
        assert_eq!(answer, expected, "request {number}: {path} {body}");
    }
    // Texts of what cannot be read differ; that it cannot, and how that shows, does not.
    for (path, body) in [
        ("/v3/kv/range", "[]"),
        ("/v3/kv/range", r#"{"key":5}"#),
        ("/v3/kv/range", r#"{"key":"Zm9"}"#),
        ("/v3/kv/range", r#"{"key":"Zm9v","sort_order":"NOPE"}"#),
        (
            "/v3/kv/compaction",
            r#"{"revision":"99999999999999999999"}"#,
        ),
        ("/v3/lease/keepalive", "x"),
        ("/v3/watch", "x"),
    ] {
        let (expected, answer) = (
            post(&genuine.address, path, body).await,
            post(&ours, path, body).await,
        );
        let code = |answer: &Answer| {
            let body: Json = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(body["error"], body["message"], "{path} {body}");
            (answer.status, body["code"].clone())
        };
        assert_eq!(code(&answer), code(&expected), "{path} {body}");
    }
    for method in ["GET", "PUT", "DELETE"] {
        let (expected, answer) = (
            send(&genuine.address, method, "/v3/kv/range", &[], "").await,
            send(&ours, method, "/v3/kv/range", &[], "").await,
        );
        assert_eq!(
            (answer.status, answer.body),
            (expected.status, expected.body)
        );
    }
    for body in [
        r#"{"create_request":{"key":"Zm9v","start_revision":"5"}}"#,
        r#"{"create_request":{"key":"Zm9v","start_revision":"1"}}"#,
    ] {
        let mut lines = Vec::new();
        for address in [&genuine.address, &ours] {
            let (_, mut stream) = open(address, "POST", "/v3/watch", &[], body).await;
            let mut two = [Json::Null, Json::Null];
            for line in &mut two {
                *line = serde_json::from_str(&stream.line().await.unwrap()).unwrap();
                masked("", line);
            }
            lines.push(two);
        }
        assert_eq!(lines[1], lines[0], "{body}");
    }
    member.store.shutdown().await;
}

/// Users are made, auth is switched on, and who is not allowed is told so through every door.
const WITH_USERS: &[(&str, &str, &str)] = &[
    ("", "/v3/auth/status", "{}"),
    ("", "/v3/auth/enable", "{}"),
    (
        "",
        "/v3/auth/authenticate",
        r#"{"name":"root","password":"x"}"#,
    ),
    ("", "/v3/auth/user/add", r#"{"name":"root","password":"x"}"#),
    ("", "/v3/auth/user/add", r#"{"name":"bob","password":"y"}"#),
    ("", "/v3/auth/role/add", r#"{"name":"root"}"#),
    ("", "/v3/auth/role/add", r#"{"name":"readers"}"#),
    (
        "",
        "/v3/auth/role/grant",
        r#"{"name":"readers","perm":{"permType":"READ","key":"YQ==","range_end":"Yg=="}}"#,
    ),
    (
        "",
        "/v3/auth/user/grant",
        r#"{"user":"root","role":"root"}"#,
    ),
    (
        "",
        "/v3/auth/user/grant",
        r#"{"user":"bob","role":"readers"}"#,
    ),
    (
        "",
        "/v3/auth/user/grant",
        r#"{"user":"bob","role":"nobody"}"#,
    ),
    ("", "/v3/auth/enable", "{}"),
    ("", "/v3/kv/range", r#"{"key":"YQ=="}"#),
    ("nonsense", "/v3/kv/range", r#"{"key":"YQ=="}"#),
    ("bob", "/v3/kv/range", r#"{"key":"YQ=="}"#),
    ("bob", "/v3/kv/range", r#"{"key":"eA=="}"#),
    ("bob", "/v3/kv/put", r#"{"key":"YQ==","value":"eA=="}"#),
    ("bob", "/v3/auth/user/list", "{}"),
    ("bob", "/v3/auth/user/get", r#"{"name":"bob"}"#),
    ("root", "/v3/lease/grant", r#"{"TTL":"100","ID":"77"}"#),
    ("", "/v3/lock/lock", r#"{"name":"YWE=","lease":"77"}"#),
    ("bob", "/v3/lock/lock", r#"{"name":"YWE=","lease":"77"}"#),
    ("root", "/v3/lock/lock", r#"{"name":"YWE=","lease":"77"}"#),
    ("bob", "/v3/lock/unlock", r#"{"key":"YWEvNGQ="}"#),
    (
        "bob",
        "/v3/election/campaign",
        r#"{"name":"YWE=","value":"eA==","lease":"77"}"#,
    ),
    ("bob", "/v3/election/leader", r#"{"name":"YWE="}"#),
    ("bob", "/v3/election/leader", r#"{"name":"eA=="}"#),
    ("root", "/v3/auth/user/list", "{}"),
    ("root", "/v3/auth/role/list", "{}"),
    ("root", "/v3/auth/role/get", r#"{"role":"readers"}"#),
    (
        "root",
        "/v3/auth/role/revoke",
        r#"{"role":"readers","key":"YQ==","range_end":"Yg=="}"#,
    ),
    ("root", "/v3/auth/user/delete", r#"{"name":"bob"}"#),
    ("root", "/v3/auth/disable", "{}"),
    ("", "/v3/kv/range", r#"{"key":"YQ=="}"#),
];

#[tokio::test]
async fn users_are_known_through_the_gateway_as_etcd_knows_them() {
    let Some(genuine) = Genuine::start().await else {
        return;
    };
    let single = Single::start().await;
    let ours = single.member.address();
    let mut answers = Vec::new();
    for address in [&genuine.address, &ours] {
        let mut of_one = Vec::new();
        for (user, path, body) in WITH_USERS {
            let token = match *user {
                "" | "nonsense" => (*user).to_owned(),
                user => token(address, user).await,
            };
            let headers = [("authorization", token.as_str())];
            let headers = if user.is_empty() { &[][..] } else { &headers };
            let answer = send(address, "POST", path, headers, body).await;
            of_one.push(comparable(path, &answer));
        }
        answers.push(of_one);
    }
    for (number, (user, path, body)) in WITH_USERS.iter().enumerate() {
        assert_eq!(
            answers[1][number], answers[0][number],
            "request {number}: {user:?} {path} {body}"
        );
    }
    single.member.store.shutdown().await;
}

/// Shows a password for a token.
async fn token(address: &str, user: &str) -> String {
    let password = if user == "root" { "x" } else { "y" };
    let body = format!(r#"{{"name":"{user}","password":"{password}"}}"#);
    let answer = post(address, "/v3/auth/authenticate", &body).await;
    let answer: Json = serde_json::from_str(&answer.body).unwrap();
    answer["token"].as_str().unwrap().to_owned()
}

/// How many watches the member has, by its own account.
async fn watches(address: &str) -> u64 {
    metric(address, "etcd_debugging_mvcc_watcher_total").await
}

async fn metric(address: &str, name: &str) -> u64 {
    let page = crate::http_client::get(address, "/metrics").await.body;
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_watch_lasts_as_long_as_its_reader() {
    let single = Single::start().await;
    let address = single.member.address();
    let create = r#"{"create_request":{"key":"YQ==","range_end":"eg=="}}"#;
    let (_, mut watch) = open(&address, "POST", "/v3/watch", &[], create).await;
    assert_eq!(watch.status, 200);
    assert!(watch.line().await.unwrap().contains("\"created\":true"));
    // The request has ended; the watch has not.
    for (value, version) in [("MQ==", 1), ("Mg==", 2)] {
        let put = format!(r#"{{"key":"Yg==","value":"{value}"}}"#);
        post(&address, "/v3/kv/put", &put).await;
        let line: Json = serde_json::from_str(&watch.line().await.unwrap()).unwrap();
        let kv = &line["result"]["events"][0]["kv"];
        assert_eq!(
            (&kv["value"], &kv["version"]),
            (&Json::from(value), &Json::from(version.to_string()))
        );
    }
    assert_eq!(watches(&address).await, 1);
    drop(watch);
    eventually("the watch is gone", || async {
        watches(&address).await == 0
    })
    .await;
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn a_waiting_lock_is_given_up_when_the_caller_goes() {
    let single = Single::start().await;
    let address = single.member.address();
    let held = post(&address, "/v3/lock/lock", r#"{"name":"cQ=="}"#).await;
    assert_eq!(held.status, 200);
    let keys = || async {
        let range = r#"{"key":"cS8=","range_end":"cTA="}"#;
        let body: Json =
            serde_json::from_str(&post(&address, "/v3/kv/range", range).await.body).unwrap();
        body["count"].as_str().unwrap_or("0").to_owned()
    };
    let call = {
        let address = address.clone();
        tokio::spawn(async move { post(&address, "/v3/lock/lock", r#"{"name":"cQ=="}"#).await })
    };
    eventually("the second waits", || async { keys().await == "2" }).await;
    call.abort();
    eventually("the second has left", || async { keys().await == "1" }).await;
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn streams_end_with_the_store() {
    let single = Single::start().await;
    let address = single.member.address();
    let create = r#"{"create_request":{"key":"YQ=="}}"#;
    let (_, mut watch) = open(&address, "POST", "/v3/watch", &[], create).await;
    watch.line().await.unwrap();
    let (_, last) = tokio::join!(soon(single.member.store.shutdown()), watch.line());
    let last: Json = serde_json::from_str(&last.unwrap()).unwrap();
    assert_eq!(last["error"]["message"], "etcdserver: server stopped");
    assert_eq!(last["error"]["http_status"], "Service Unavailable");
}

#[tokio::test]
async fn sizes_have_limits() {
    let single = Single::start().await;
    let address = single.member.address();
    let put = |bytes: usize| {
        let value = "A".repeat(bytes / 3 * 4);
        format!(r#"{{"key":"YQ==","value":"{value}"}}"#)
    };
    let answer = post(&address, "/v3/kv/put", &put(1_500_000)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    // Three limits: of a command, of a message, of its text.
    for (bytes, status, text) in [
        (1_800_000, 400, "etcdserver: request is too large"),
        (2_400_000, 429, "grpc: received message larger than max"),
        (6_000_000, 429, "the JSON of a message is longer than"),
    ] {
        let answer = post(&address, "/v3/kv/put", &put(bytes)).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.contains(text), "{}", answer.body);
    }
    let deep = r#"{"success":[{"request_txn":"#.repeat(10_000);
    assert_eq!(post(&address, "/v3/kv/txn", &deep).await.status, 400);
    single.member.store.shutdown().await;
}
