//! The real `etcdctl`: what it prints of users and permissions here and at a genuine etcd.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use trivet_datastore::Datastore;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb::StatusRequest;

use super::somebody::single;
use crate::support::{eventually, free_address};

const ROOT: &str = "--user=root:rp";
const ALICE: &str = "--user=alice:ap";

/// A command a line, as everybody: `R` is root, `A` is alice, `-` nobody. What stands in quotes is
/// one word.
const TOUR: &str = "
- auth enable
- role add r
- role add r
- role add other
- role grant-permission r readwrite a c
- role grant-permission r readwrite c d
- role grant-permission r write w
- role grant-permission r read pre --prefix
- role grant-permission r read z --from-key
- role grant-permission none read a
- role grant-permission r nonsense a
- role get r
- role get none
- role list
- role revoke-permission r nothing
- role revoke-permission r z --from-key
- role get r
- user add root:rp
- user add root:rp
- user add alice:ap
- user add bob:bp
- user add certificate --no-password
- user grant-role alice r
- user grant-role alice r
- user grant-role alice none
- user grant-role none r
- user revoke-role alice other
- user get alice
- user get alice --detail
- user get none
- user list
- user delete none
- auth enable
- role list
- put a 1
- get a
R put a 1
R put secret 1
R user list
A put a 2
A put c 2
A put d 2
A put w 2 --prev-kv
A put w 2
A get a d
A get a e
A get w
A get pre --prefix
A get --prefix p
A del w
A del w --prev-kv
A del a --prefix --prev-kv
A put secret 2
--user=alice:wrong get a
--user=nobody:ap get a
--user=certificate:x get a
A user get alice
A user get root
A role get r
A role get other
A user list
A role list
A user add eve:ep
A role add eve
A user delete alice
A auth disable
A member add m --peer-urls=http://127.0.0.1:1
A member remove 1234
- auth disable
R user delete root
R role delete root
R user revoke-role root root
R role delete r
R user get alice
A get a
R role grant-permission other read a
R user grant-role alice other
A get a
R user passwd alice
A get a
--user=alice:new get a
R user delete alice
--user=alice:new get a
R auth disable
- get a
- user get bob
- role delete other
- user delete root
";

/// Where programs of one version are; empty for those in the search path.
struct Tools(PathBuf);

impl Tools {
    /// The version in the search path, or the one in `TRIVET_ETCD_DIR`.
    fn find(newer: bool) -> Option<Self> {
        let dir = if newer {
            std::env::var_os("TRIVET_ETCD_DIR").map(PathBuf::from)
        } else {
            Some(PathBuf::new())
        };
        let tools = dir.map(Self).filter(|tools| {
            let runs = |program: &str, word: &str| {
                let output = tools.program(program).arg(word).output();
                output.is_ok_and(|output| output.status.success())
            };
            runs("etcd", "--version") && runs("etcdctl", "version")
        });
        if tools.is_none() {
            let required = std::env::var_os("TRIVET_REQUIRE_CLIENTS");
            assert!(
                newer || required.is_none_or(|value| value != "1"),
                "etcd and etcdctl are required and missing"
            );
            eprintln!("SKIPPED: etcd and etcdctl (newer: {newer}) are not there");
        }
        tools
    }

    fn program(&self, name: &str) -> Command {
        Command::new(self.0.join(name))
    }

    /// Exit code, and what was printed without what differs from run to run.
    async fn run(&self, endpoint: &str, line: &str) -> (Option<i32>, String) {
        let (who, words) = line.split_once(' ').unwrap();
        let mut command = self.program("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={endpoint}"))
            .args(words.split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        match who {
            "-" => {}
            "R" => drop(command.arg(ROOT)),
            "A" => drop(command.arg(ALICE)),
            user => drop(command.arg(user)),
        }
        if words.starts_with("user passwd") {
            command.arg("--interactive=false");
        }
        let work = tokio::task::spawn_blocking(move || {
            use std::io::Write as _;
            let mut child = command.spawn().unwrap();
            // For `user passwd` alone; the others do not read it.
            let _ = child.stdin.take().unwrap().write_all(b"new\n");
            child.wait_with_output().unwrap()
        });
        let output = tokio::time::timeout(crate::support::PATIENCE, work)
            .await
            .unwrap()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        // Lines of its log carry times and addresses.
        let text = text
            .lines()
            .filter(|line| !line.starts_with("{\"level\""))
            .map(|line| line.replace(endpoint, "ENDPOINT") + "\n")
            .collect();
        (output.status.code(), text)
    }
}

/// A genuine server; gone when dropped.
struct Genuine {
    child: Child,
    endpoint: String,
}

impl Genuine {
    async fn start(tools: &Tools, dir: &Path) -> Self {
        let (client, peer) = (free_address(), free_address());
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let child = tools
            .program("etcd")
            .arg("--data-dir")
            .arg(dir.join("etcd"))
            .args(["--listen-client-urls", &client_url])
            .args(["--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url])
            .args(["--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .args(["--bcrypt-cost", "4"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let genuine = Self {
            child,
            endpoint: client.to_string(),
        };
        eventually("a genuine etcd leads itself", || async {
            let Ok(client) = Client::connect(&genuine.endpoint).await else {
                return false;
            };
            let status = client.maintenance().status(StatusRequest {}).await;
            status.is_ok_and(|status| status.into_inner().leader != 0)
        })
        .await;
        genuine
    }
}

impl Drop for Genuine {
    fn drop(&mut self) {
        // Nothing more can be done where this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn tour(newer: bool) {
    let Some(tools) = Tools::find(newer) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let genuine = Genuine::start(&tools, dir.path()).await;
    let ours = single().await;
    let endpoint = ours.member.address();
    let mut differences = String::new();
    for line in TOUR.lines().filter(|line| !line.is_empty()) {
        let (theirs, ours) = tokio::join!(
            tools.run(&genuine.endpoint, line),
            tools.run(&endpoint, line)
        );
        if theirs != ours {
            use std::fmt::Write as _;
            writeln!(differences, "{line}\n  etcd: {theirs:?}\n  here: {ours:?}").unwrap();
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
    ours.member.store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_etcdctl_in_the_search_path_sees_no_difference() {
    tour(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_etcdctl_sees_no_difference() {
    tour(true).await;
}
