//! The Python client `etcd3` at its daily work, a restart of the server included.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use trivet_datastore::Datastore;
use trivet_env::Env;
use trivet_store_etcd::StoreConfig;

use crate::support::{Member, PATIENCE, free_address, settings};

/// Versions that go together and run on current Pythons.
const PACKAGES: [&str; 5] = [
    "etcd3==0.12.0",
    "protobuf==3.20.3",
    "grpcio==1.62.3",
    "tenacity==6.3.1",
    "six==1.17.0",
];

const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/clients/etcd3_daily_work.py"
);

/// The client, unless it cannot be had and need not be.
fn installed(into: &Path) -> bool {
    let done = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--only-binary", "grpcio"])
        .args([
            "--disable-pip-version-check",
            "--timeout",
            "10",
            "--retries",
            "1",
        ])
        .arg("--target")
        .arg(into)
        .args(PACKAGES)
        .output()
        .is_ok_and(|output| output.status.success());
    if !done {
        assert!(
            std::env::var_os("TRIVET_REQUIRE_CLIENTS").is_none_or(|value| value != "1"),
            "the Python client is required and cannot be installed"
        );
        eprintln!("SKIPPED: the Python client etcd3 cannot be installed");
    }
    done
}

fn config(dir: &Path) -> StoreConfig {
    let mut config = settings(Env::real(), dir.join("trivet"));
    // The same after the restart.
    config.clients[0].address = free_address();
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd3_does_its_daily_work() {
    let dir = tempfile::tempdir().unwrap();
    let packages = dir.path().join("python");
    if !tokio::task::block_in_place(|| installed(&packages)) {
        return;
    }
    let config = config(dir.path());
    let mut member = Member::open(config.clone()).await;
    let mut child = Command::new("python3")
        .arg(SCRIPT)
        .arg(config.clients[0].address.port().to_string())
        .env("PYTHONPATH", &packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // The generated code of this client is older than protobuf's compiled parser.
        .env("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let mut told = Vec::new();
    while let Ok(Some(line)) = tokio::time::timeout(PATIENCE * 2, lines.recv()).await {
        if line == "restart" {
            member.store.shutdown().await;
            drop(member);
            member = Member::open(config.clone()).await;
            input.write_all(b"\n").unwrap();
        }
        told.push(line);
    }
    if told.last().map(String::as_str) != Some("done") {
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {told:#?}");
    assert!(told.len() > 20, "{told:#?}");
    member.store.shutdown().await;
}
