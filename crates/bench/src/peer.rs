//! A cluster under measurement: three processes on loopback, plaintext for clients. Between
//! members ours use mutual TLS, as always, and etcd plaintext.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use trivet_harness::{Process, Subnet};
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb::{PutRequest, StatusRequest};

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerKind {
    Ours,
    Etcd,
}

/// Three members.
pub(crate) struct Peer {
    kind: PeerKind,
    members: Vec<Process>,
    endpoints: Vec<String>,
}

const MEMBERS: [u8; 3] = [1, 2, 3];
const START: Duration = Duration::from_secs(30);

impl Peer {
    pub(crate) async fn start(kind: PeerKind, binary: &Path, scratch: &Path) -> Result<Self> {
        let subnet = Subnet::fresh();
        let mut peer = Self {
            kind,
            members: Vec::new(),
            endpoints: Vec::new(),
        };
        for number in MEMBERS {
            let mut command = Command::new(binary);
            let dir = scratch.join(format!("{}-{number}", kind.name()));
            command.arg("--data-dir").arg(&dir);
            match kind {
                PeerKind::Ours => ours(&mut command, subnet, number, &scratch.join("tls")),
                PeerKind::Etcd => etcd(&mut command, subnet, number),
            }
            let log = scratch.join(format!("{}-{number}.log", kind.name()));
            peer.members.push(Process::start(&mut command, &log)?);
            peer.endpoints
                .push(format!("{}:2379", subnet.address(number)));
            // Our members join a running cluster, one after the other; etcd's start together.
            if kind == PeerKind::Ours {
                peer.wait(usize::from(number) - 1).await?;
            }
        }
        for place in 0..peer.members.len() {
            peer.wait(place).await?;
        }
        Ok(peer)
    }

    /// Waits until a write succeeds through a member.
    async fn wait(&mut self, place: usize) -> Result<()> {
        let start = Instant::now();
        loop {
            let log = self.members[place].log();
            if let Some(status) = self.members[place].try_wait() {
                bail!("{} ended with {status}: {log}", self.name());
            }
            if write(&self.endpoints[place]).await.is_ok() {
                return Ok(());
            }
            if start.elapsed() > START {
                bail!(
                    "{} takes no writes on {}: {log}",
                    self.name(),
                    self.endpoints[place]
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Connections, spread over the members.
    pub(crate) async fn connect(&self, count: usize) -> Result<Vec<Client>> {
        let mut clients = Vec::new();
        for number in 0..count {
            let endpoint = &self.endpoints[number % self.endpoints.len()];
            clients.push(
                Client::connect(endpoint)
                    .await
                    .with_context(|| endpoint.clone())?,
            );
        }
        Ok(clients)
    }

    /// Resident memory of each member in MiB.
    pub(crate) fn resident_mib(&self) -> Vec<u64> {
        self.members
            .iter()
            .map(|member| member.resident_kib().unwrap_or(0) / 1024)
            .collect()
    }

    /// Processor time of all members.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.members.iter().filter_map(Process::cpu_time).sum()
    }
}

impl PeerKind {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "trivet",
            Self::Etcd => "etcd",
        }
    }
}

fn ours(command: &mut Command, subnet: Subnet, number: u8, tls_dir: &Path) {
    let address = subnet.address(number);
    command
        .args(["--client", &format!("{address}:2379")])
        .args(["--peer", &format!("{address}:2380")])
        .arg("--tls-dir")
        .arg(tls_dir);
    if number != MEMBERS[0] {
        command.args([
            "--join",
            &format!("https://{}:2380", subnet.address(MEMBERS[0])),
        ]);
    }
}

fn etcd(command: &mut Command, subnet: Subnet, number: u8) {
    let address = subnet.address(number);
    let initial: Vec<String> = MEMBERS
        .iter()
        .map(|&n| format!("m{n}=http://{}:2380", subnet.address(n)))
        .collect();
    command
        .args(["--name", &format!("m{number}")])
        .args(["--listen-client-urls", &format!("http://{address}:2379")])
        .args(["--advertise-client-urls", &format!("http://{address}:2379")])
        .args(["--listen-peer-urls", &format!("http://{address}:2380")])
        .args([
            "--initial-advertise-peer-urls",
            &format!("http://{address}:2380"),
        ])
        .args(["--initial-cluster", &initial.join(",")])
        .args(["--initial-cluster-state", "new"])
        .args(["--quota-backend-bytes", "8589934592"])
        .args(["--log-level", "error"]);
}

async fn write(endpoint: &str) -> Result<()> {
    let attempt = async {
        let client = Client::connect(endpoint).await?;
        client
            .maintenance()
            .status(StatusRequest::default())
            .await?;
        let put = PutRequest {
            key: "probe".into(),
            ..PutRequest::default()
        };
        client.kv().put(put).await?;
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(2), attempt).await?
}
