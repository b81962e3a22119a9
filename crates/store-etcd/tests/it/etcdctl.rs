//! The real `etcdctl` (API version 3) against a member.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use crate::support::{Single, soon};
use trivet_datastore::Datastore;

/// The program, unless it is missing and may be.
pub(crate) fn installed() -> bool {
    let found = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg("version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        assert!(
            std::env::var_os("TRIVET_REQUIRE_CLIENTS").is_none_or(|value| value != "1"),
            "etcdctl is required and missing"
        );
        eprintln!("SKIPPED: etcdctl is not installed");
    }
    found
}

pub(crate) fn command(endpoint: &str, words: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command
        .env("ETCDCTL_API", "3")
        .arg("--endpoints")
        .arg(endpoint)
        .args(words);
    command
}

/// Runs it with this input; its output, and whether it succeeded.
pub(crate) async fn run(endpoint: &str, words: &[&str], input: &str) -> (String, bool) {
    let mut command = command(endpoint, words);
    let input = input.to_owned();
    let work = tokio::task::spawn_blocking(move || {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (text, output.status.success())
    });
    soon(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_etcdctl_works() {
    if !installed() {
        return;
    }
    let single = Single::start().await;
    let endpoint = single.member.address();
    let ok = |words: &'static [&'static str], input: &'static str| {
        let endpoint = endpoint.clone();
        async move {
            let (text, success) = run(&endpoint, words, input).await;
            assert!(success, "etcdctl {words:?}: {text}");
            text
        }
    };
    // A watch from the beginning, in a process of its own.
    let mut watcher = command(&endpoint, &["watch", "--prefix", "k", "--rev", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let watched = BufReader::new(watcher.stdout.take().unwrap());

    assert_eq!(ok(&["put", "k1", "one"], "").await, "OK\n");
    assert_eq!(ok(&["put", "k2", "two", "--prev-kv"], "").await, "OK\n");
    assert_eq!(ok(&["get", "k1"], "").await, "k1\none\n");
    assert_eq!(
        ok(&["get", "--prefix", "k", "--keys-only"], "").await,
        "k1\n\nk2\n\n"
    );
    assert_eq!(
        ok(
            &["get", "k1", "--consistency", "s", "--print-value-only"],
            ""
        )
        .await,
        "one\n"
    );
    assert_eq!(ok(&["del", "k1"], "").await, "1\n");
    assert_eq!(ok(&["del", "k1"], "").await, "0\n");
    let txn = ok(
        &["txn"],
        "value(\"k2\") = \"two\"\n\nput k3 three\nget k3\n\nget k2\n\n",
    )
    .await;
    assert_eq!(txn, "SUCCESS\n\nOK\n\nk3\nthree\n");
    let txn = ok(&["txn"], "mod(\"k2\") = \"1\"\n\nput k3 four\n\nget k2\n\n").await;
    assert_eq!(txn, "FAILURE\n\nk2\ntwo\n");

    let granted = ok(&["lease", "grant", "100"], "").await;
    let id = granted.split_whitespace().nth(1).unwrap().to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(100s)\n"));
    let (text, success) = run(&endpoint, &["put", "--lease", &id, "k4", "leased"], "").await;
    assert!(success, "{text}");
    let (text, _) = run(&endpoint, &["lease", "timetolive", &id, "--keys"], "").await;
    assert!(
        text.starts_with(&format!("lease {id} granted with TTL(100s), remaining(")),
        "{text}"
    );
    assert!(text.contains("attached keys([k4])"), "{text}");
    let (text, _) = run(&endpoint, &["lease", "keep-alive", "--once", &id], "").await;
    assert_eq!(text, format!("lease {id} keepalived with TTL(100)\n"));
    assert_eq!(
        ok(&["lease", "list"], "").await,
        format!("found 1 leases\n{id}\n")
    );
    let (text, _) = run(&endpoint, &["lease", "revoke", &id], "").await;
    assert_eq!(text, format!("lease {id} revoked\n"));
    assert_eq!(ok(&["get", "k4"], "").await, "");
    assert_eq!(
        ok(&["lease", "timetolive", "1234"], "").await,
        "lease 0000000000001234 already expired\n"
    );

    let list = ok(&["member", "list"], "").await;
    assert!(
        list.contains(", started, single, https://localhost:2380,"),
        "{list}"
    );
    let status = ok(&["endpoint", "status"], "").await;
    assert!(
        status.contains(&endpoint)
            && status.contains(", 3.5.")
            && status.contains(", true, false, "),
        "{status}"
    );
    // With a scheme, clients of 3.4 call the server by the whole URL.
    let (text, success) = run(&format!("http://{endpoint}"), &["endpoint", "status"], "").await;
    assert!(success && text.contains(", 3.5."), "{text}");
    let health = ok(&["endpoint", "health"], "").await;
    assert!(health.contains("is healthy"), "{health}");
    let compacted = ok(&["compact", "3"], "").await;
    assert_eq!(compacted, "compacted revision 3\n");
    let (text, success) = run(&endpoint, &["get", "k1", "--rev", "2"], "").await;
    assert!(
        !success && text.contains("etcdserver: mvcc: required revision has been compacted"),
        "{text}"
    );

    let expected = "PUT k1 one PUT k2 two DELETE k1 PUT k3 three PUT k4 leased DELETE k4";
    let seen = tokio::task::spawn_blocking(move || {
        let words = expected.split(' ').count();
        let lines = watched
            .lines()
            .map_while(Result::ok)
            .filter(|line| !line.is_empty());
        lines.take(words).collect::<Vec<_>>().join(" ")
    });
    assert_eq!(soon(seen).await.unwrap(), expected);
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    single.member.store.shutdown().await;
}
