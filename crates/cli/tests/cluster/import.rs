//! A server on what a genuine etcd left.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use trivet_harness::{Process, find_etcdctl, require_clients, wait_for};

use crate::support::{STEP, Scenario};

/// The genuine programs, unless they are missing and may be.
fn installed() -> Option<PathBuf> {
    let runs = Command::new("etcd").arg("--version").output();
    let client = find_etcdctl();
    match (runs, client) {
        (Ok(_), Some(client)) => Some(client.path),
        _ => {
            assert!(
                !require_clients(),
                "no etcd and etcdctl found, and TRIVET_REQUIRE_CLIENTS=1"
            );
            println!("no etcd on this machine: the scenario is left out");
            None
        }
    }
}

/// A genuine etcd.
struct Genuine {
    _process: Process,
    etcdctl: PathBuf,
    url: String,
}

impl Genuine {
    fn start(scenario: &Scenario, etcdctl: PathBuf) -> Self {
        let address = scenario.cluster.address(90);
        let (url, peer) = (
            format!("http://{address}:2379"),
            format!("http://{address}:2380"),
        );
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(scenario.scratch().join("genuine"))
            .args([
                "--listen-client-urls",
                &url,
                "--advertise-client-urls",
                &url,
            ])
            .args(["--listen-peer-urls", &peer]);
        let process = Process::start(&mut command, &scenario.scratch().join("genuine.log"));
        let genuine = Self {
            _process: process.unwrap(),
            etcdctl,
            url,
        };
        wait_for("the genuine etcd to serve", STEP, || {
            let health = genuine.command(&["endpoint", "health"]).output();
            health.is_ok_and(|output| output.status.success())
        })
        .unwrap();
        genuine
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.etcdctl);
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.url])
            .args(words)
            .stdin(Stdio::null());
        command
    }

    fn ok(&self, words: &[&str]) -> String {
        succeeded(&self.command(words).output().unwrap())
    }

    /// Every pair, with revisions.
    fn pairs(&self) -> Value {
        let text = self.ok(&["get", "", "--from-key", "-w", "json"]);
        serde_json::from_str::<Value>(&text).unwrap()["kvs"].take()
    }
}

fn succeeded(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn import(kind: &str, source: &Path, data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trivet"));
    command
        .args(["datastore", "import", "--json", "--from", kind])
        .arg(source)
        .arg("--data-dir")
        .arg(data_dir);
    command
}

/// Every pair below a prefix that a server of ours has.
fn pairs_of(scenario: &Scenario, server: u8, etcdctl: &Path, prefix: &str) -> Value {
    let tls = scenario.cluster.data_dir(server).join("server/tls/etcd");
    let output = Command::new(etcdctl)
        .env("ETCDCTL_API", "3")
        .arg(format!(
            "--endpoints=https://{}:2379",
            scenario.cluster.address(server)
        ))
        .arg(format!("--cacert={}", tls.join("server-ca.crt").display()))
        .arg(format!("--cert={}", tls.join("client.crt").display()))
        .arg(format!("--key={}", tls.join("client.key").display()))
        .args(["get", prefix, "--prefix", "-w", "json"])
        .output()
        .unwrap();
    serde_json::from_str::<Value>(&succeeded(&output)).unwrap()["kvs"].take()
}

#[test]
fn a_server_starts_on_an_imported_store() {
    let Some(etcdctl) = installed() else { return };
    let mut scenario = Scenario::new("import");
    let genuine = Genuine::start(&scenario, etcdctl.clone());
    let lease = genuine.ok(&["lease", "grant", "600"]);
    let lease = lease.split_whitespace().nth(1).unwrap().to_owned();
    for number in 0..10 {
        let key = format!("/mine/{number}");
        genuine.ok(&["put", &key, "first"]);
        genuine.ok(&["put", &key, "second", "--lease", &lease]);
    }
    genuine.ok(&["del", "/mine/3"]);
    genuine.ok(&["put", "/bootstrap/0123456789ab", "sealed"]);
    let expected = genuine.pairs();
    let file = scenario.scratch().join("saved");
    genuine.ok(&["snapshot", "save", file.to_str().unwrap()]);

    let data_dir = scenario.cluster.data_dir(1);
    let output = import("etcd-snapshot", &file, &data_dir).output().unwrap();
    let report: Value = serde_json::from_str(&succeeded(&output)).unwrap();
    assert_eq!(
        (&report["keys"], &report["leases"]),
        (&10.into(), &1.into()),
        "{report}"
    );
    assert_eq!(report["bootstrapKeys"][0], "/bootstrap/0123456789ab");
    // A second one would have to replace the first.
    let output = import("etcd-snapshot", &file, &data_dir).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");

    scenario.cluster.found().unwrap();
    scenario.cluster.wait_ready(1, STEP).unwrap();
    let found = pairs_of(&scenario, 1, &etcdctl, "/mine/");
    let mine: Vec<&Value> = expected.as_array().unwrap().iter().collect();
    let mine: Vec<&Value> = mine
        .into_iter()
        .filter(|pair| pair["lease"] != Value::Null)
        .collect();
    assert_eq!(found.as_array().unwrap().iter().collect::<Vec<_>>(), mine);
    // A server that joins has never seen the log that began after the import.
    scenario.cluster.join(2, 1).unwrap();
    scenario.cluster.wait_ready(2, STEP).unwrap();
    assert_eq!(pairs_of(&scenario, 2, &etcdctl, "/mine/"), found);
}

#[test]
fn an_import_that_is_killed_leaves_no_store() {
    let Some(etcdctl) = installed() else { return };
    let scenario = Scenario::new("import-killed");
    let genuine = Genuine::start(&scenario, etcdctl);
    let large = scenario.scratch().join("large");
    std::fs::write(&large, vec![b'x'; 1_000_000]).unwrap();
    for number in 0..40 {
        let mut put = genuine.command(&["put", &format!("large{number}")]);
        put.stdin(std::fs::File::open(&large).unwrap());
        succeeded(&put.output().unwrap());
    }
    let file = scenario.scratch().join("saved");
    genuine.ok(&["snapshot", "save", file.to_str().unwrap()]);

    let data_dir = scenario.cluster.data_dir(1);
    let store = data_dir.join("server/db/trivet");
    let whole = Instant::now();
    succeeded(
        &import("etcd-snapshot", &file, &scenario.cluster.data_dir(2))
            .output()
            .unwrap(),
    );
    let whole = whole.elapsed();
    let mut killed = 0;
    for step in 1..=12u32 {
        let mut command = import("etcd-snapshot", &file, &data_dir);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole * step / 14 + Duration::from_millis(1));
        child.kill().unwrap();
        child.wait().unwrap();
        if store.exists() {
            // It was quicker than the signal; then it is all there.
            break;
        }
        killed += 1;
    }
    assert!(killed > 3, "the import was never interrupted");
    if !store.exists() {
        // A server does not found an empty store where one was to be imported.
        let mut command = scenario.cluster.server_command(1);
        command.arg("--cluster-init");
        let log = scenario.scratch().join("refused.log");
        let mut process = Process::start(&mut command, &log).unwrap();
        let status = process.wait(STEP).unwrap();
        assert_eq!(status.code(), Some(3), "{}", process.log());
        assert!(
            process.log().contains("did not finish"),
            "{}",
            process.log()
        );
        succeeded(&import("etcd-snapshot", &file, &data_dir).output().unwrap());
    }
    let entries = std::fs::read_dir(data_dir.join("server/db")).unwrap();
    let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["trivet"], "nothing lies about");
    let mut inspect = Command::new(env!("CARGO_BIN_EXE_trivet"));
    inspect.args(["datastore", "inspect"]).arg(&data_dir);
    assert!(succeeded(&inspect.output().unwrap()).contains("a Trivet etcd store"));
}
