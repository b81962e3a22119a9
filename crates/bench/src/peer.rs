//! A cluster under measurement: three processes, plaintext on loopback.

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
        let name = kind.name();
        let initial: Vec<String> = MEMBERS
            .iter()
            .map(|&number| format!("m{number}=http://{}:2380", subnet.address(number)))
            .collect();
        let mut members = Vec::new();
        let mut endpoints = Vec::new();
        for number in MEMBERS {
            let address = subnet.address(number);
            let dir = scratch.join(format!("{name}-{number}"));
            let mut command = Command::new(binary);
            match kind {
                PeerKind::Ours => {
                    let peers: Vec<String> = MEMBERS.iter().map(|&n| subnet.address(n)).collect();
                    command
                        .args(["--member", &number.to_string()])
                        .args(["--addresses", &peers.join(",")])
                        .arg("--data-dir")
                        .arg(&dir);
                }
                PeerKind::Etcd => {
                    command
                        .args(["--name", &format!("m{number}")])
                        .arg("--data-dir")
                        .arg(&dir)
                        .args(["--listen-client-urls", &format!("http://{address}:2379")])
                        .args(["--advertise-client-urls", &format!("http://{address}:2379")])
                        .args(["--listen-peer-urls", &format!("http://{address}:2380")])
                        .args(["--initial-advertise-peer-urls", &format!("http://{address}:2380")])
                        .args(["--initial-cluster", &initial.join(",")])
                        .args(["--initial-cluster-state", "new"])
                        .args(["--quota-backend-bytes", "8589934592"])
                        .args(["--log-level", "error"]);
                }
            }
            members.push(Process::start(&mut command, &scratch.join(format!("{name}-{number}.log")))?);
            endpoints.push(format!("{address}:2379"));
        }
        let mut peer = Self { kind, members, endpoints };
        peer.wait().await?;
        Ok(peer)
    }

    /// Waits until a write succeeds through every member.
    async fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        for (place, endpoint) in self.endpoints.clone().iter().enumerate() {
            loop {
                if let Some(status) = self.members[place].try_wait() {
                    bail!("{} ended with {status}: {}", self.name(), self.members[place].log());
                }
                if write(endpoint).await.is_ok() {
                    break;
                }
                if start.elapsed() > START {
                    bail!("{} takes no writes on {endpoint}: {}", self.name(), self.members[place].log());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    pub(crate) fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Connections, spread over the members.
    pub(crate) async fn connect(&self, count: usize) -> Result<Vec<Client>> {
        let mut clients = Vec::new();
        for number in 0..count {
            let endpoint = &self.endpoints[number % self.endpoints.len()];
            clients.push(Client::connect(endpoint).await.with_context(|| endpoint.clone())?);
        }
        Ok(clients)
    }

    /// Resident memory of each member in MiB.
    pub(crate) fn resident_mib(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.resident_kib().unwrap_or(0) / 1024).collect()
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

async fn write(endpoint: &str) -> Result<()> {
    let attempt = async {
        let client = Client::connect(endpoint).await?;
        client.maintenance().status(StatusRequest::default()).await?;
        let put = PutRequest { key: "probe".into(), ..PutRequest::default() };
        client.kv().put(put).await?;
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(2), attempt).await?
}
