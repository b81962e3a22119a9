//! Genuine etcd servers and their tools.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb::StatusRequest;

use crate::support::{eventually, free_address};

/// One version of etcd on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// Where the programs are; empty for those in the search path.
    dir: PathBuf,
    pub(crate) name: &'static str,
}

impl Tools {
    /// Every version there is: Debian's in the search path, and a newer one where
    /// `TRIVET_ETCD_DIR` says.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        let debian = Self {
            dir: PathBuf::new(),
            name: "the etcd in the search path",
        };
        if debian.runs("etcd") && debian.runs("etcdctl") {
            all.push(debian);
        } else {
            let required = std::env::var_os("TRIVET_REQUIRE_CLIENTS");
            assert!(
                required.is_none_or(|value| value != "1"),
                "etcd and etcdctl are required and missing"
            );
            eprintln!("SKIPPED: etcd and etcdctl are not installed");
        }
        if let Some(dir) = std::env::var_os("TRIVET_ETCD_DIR") {
            let newer = Self {
                dir: dir.into(),
                name: "the etcd in TRIVET_ETCD_DIR",
            };
            assert!(
                newer.runs("etcdutl"),
                "there is no etcdutl in TRIVET_ETCD_DIR"
            );
            all.push(newer);
        } else {
            eprintln!("SKIPPED: TRIVET_ETCD_DIR names no newer etcd");
        }
        all
    }

    fn runs(&self, program: &str) -> bool {
        let mut command = self.program(program);
        let word = if program == "etcd" {
            "--version"
        } else {
            "version"
        };
        command
            .arg(word)
            .output()
            .is_ok_and(|output| output.status.success())
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.dir.join(name));
        command.env("ETCDCTL_API", "3");
        command
    }

    fn is_newer(&self) -> bool {
        self.dir != Path::new("")
    }

    /// What works on snapshot files without a server.
    fn file_tool(&self) -> Command {
        self.program(if self.is_newer() {
            "etcdutl"
        } else {
            "etcdctl"
        })
    }

    /// The client's command line.
    pub(crate) fn client(&self, endpoint: &str) -> Command {
        let mut command = self.program("etcdctl");
        command.args(["--endpoints", endpoint]);
        command
    }

    pub(crate) fn save(&self, endpoint: &str, file: &Path) {
        let mut command = self.program("etcdctl");
        command.args(["--endpoints", endpoint, "snapshot", "save"]);
        done(command.arg(file));
    }

    /// What the tool says of a snapshot file, as JSON.
    pub(crate) fn status(&self, file: &Path) -> serde_json::Value {
        let mut command = self.file_tool();
        let output = done(command.args(["snapshot", "status", "-w", "json"]).arg(file));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn restore(&self, file: &Path, dir: &Path) {
        let mut command = self.file_tool();
        command.args(["snapshot", "restore"]).arg(file);
        done(command.arg("--data-dir").arg(dir));
    }

    /// Starts a server on a directory, which may be new.
    pub(crate) async fn start(&self, dir: &Path) -> Server {
        let (client, peer) = (free_address(), free_address());
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let log = std::fs::File::create(dir.with_extension("log")).unwrap();
        let child = self
            .program("etcd")
            .env_remove("ETCDCTL_API")
            .arg("--data-dir")
            .arg(dir)
            .args(["--listen-client-urls", &client_url])
            .args(["--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Server {
            child,
            endpoint: client.to_string(),
            client: None,
        };
        eventually("a genuine etcd serves", || async {
            let Ok(client) = Client::connect(&server.endpoint).await else {
                return false;
            };
            let status = client.maintenance().status(StatusRequest {}).await;
            match status {
                Ok(status) => status.into_inner().leader != 0,
                // Not to be told by somebody unknown is an answer too.
                Err(status) => status.message().contains("user name is empty"),
            }
        })
        .await;
        server.client = Some(Client::connect(&server.endpoint).await.unwrap());
        server
    }
}

pub(crate) fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) endpoint: String,
    client: Option<Client>,
}

impl Server {
    pub(crate) fn client(&self) -> &Client {
        self.client.as_ref().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
