//! A cluster under measurement: three processes on loopback, plaintext for clients. Between
//! members ours use mutual TLS unless they run as a stand-alone server, and etcd plaintext.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use trivet_harness::{Process, Subnet};
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb::{PutRequest, RangeRequest, StatusRequest};

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerKind {
    /// The example program of the store: mutual TLS between members.
    Example,
    /// `trivet etcd`: etcd's flags, plaintext between members.
    Standalone,
    Etcd,
}

/// Three members.
pub(crate) struct Peer {
    kind: PeerKind,
    binary: PathBuf,
    scratch: PathBuf,
    subnet: Subnet,
    members: Vec<Process>,
    endpoints: Vec<String>,
}

const MEMBERS: [u8; 3] = [1, 2, 3];
const START: Duration = Duration::from_secs(120);

impl Peer {
    pub(crate) async fn start(kind: PeerKind, binary: &Path, scratch: &Path) -> Result<Self> {
        let subnet = Subnet::fresh();
        let endpoints = MEMBERS.map(|number| format!("{}:2379", subnet.address(number)));
        let mut peer = Self {
            kind,
            binary: binary.to_owned(),
            scratch: scratch.to_owned(),
            subnet,
            members: Vec::new(),
            endpoints: endpoints.to_vec(),
        };
        for (place, number) in MEMBERS.into_iter().enumerate() {
            let process = peer.spawn(number)?;
            peer.members.push(process);
            // Members of the example join a running cluster, one after the other; the others
            // start together.
            if kind == PeerKind::Example {
                peer.wait(place).await?;
            }
        }
        peer.wait_for_all().await?;
        Ok(peer)
    }

    fn spawn(&self, number: u8) -> Result<Process> {
        let mut command = Command::new(&self.binary);
        if self.kind == PeerKind::Standalone {
            command.arg("etcd");
        }
        let dir = self.scratch.join(format!("{}-{number}", self.name()));
        command.arg("--data-dir").arg(&dir);
        match self.kind {
            PeerKind::Example => {
                example(&mut command, self.subnet, number, &self.scratch.join("tls"));
            }
            PeerKind::Standalone | PeerKind::Etcd => etcd(&mut command, self.subnet, number),
        }
        let log = self.scratch.join(format!("{}-{number}.log", self.name()));
        Process::start(&mut command, &log)
    }

    async fn wait_for_all(&mut self) -> Result<()> {
        for place in 0..self.members.len() {
            self.wait(place).await?;
        }
        Ok(())
    }

    /// Waits until a write succeeds through a member.
    async fn wait(&mut self, place: usize) -> Result<()> {
        let start = Instant::now();
        loop {
            let log = self.members[place].log();
            if let Some(status) = self.members[place].try_wait() {
                bail!("{} ended with {status}: {log}", self.name());
            }
            if probe(&self.endpoints[place]).await.is_ok() {
                return Ok(());
            }
            if start.elapsed() > START {
                bail!(
                    "{} takes no writes on {}: {log}",
                    self.name(),
                    self.endpoints[place]
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops all members in order, starts them together, and waits until each serves a
    /// linearizable read and a write; answers the time from the start.
    pub(crate) async fn restart(&mut self) -> Result<Duration> {
        for member in &mut self.members {
            member.stop(Duration::from_secs(60))?;
        }
        let start = Instant::now();
        for (place, number) in MEMBERS.into_iter().enumerate() {
            self.members[place] = self.spawn(number)?;
        }
        self.wait_for_all().await?;
        Ok(start.elapsed())
    }

    /// Kills the leader; answers the time until a write through another member is acknowledged.
    /// The killed member is started again afterwards.
    pub(crate) async fn fail_over(&mut self) -> Result<Duration> {
        let leader = self.leader().await?;
        let mut others = Vec::new();
        for (place, endpoint) in self.endpoints.iter().enumerate() {
            if place != leader {
                others.push(Client::connect(endpoint).await?);
            }
        }
        let start = Instant::now();
        self.members[leader].kill();
        for attempt in 0.. {
            let mut kv = others[attempt % others.len()].kv();
            let put = kv.put(PutRequest {
                key: "probe".into(),
                ..PutRequest::default()
            });
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(100), put).await {
                break;
            }
            if start.elapsed() > START {
                bail!("{} takes no writes after its leader died", self.name());
            }
            // An answer of "no leader" comes at once.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let gap = start.elapsed();
        self.members[leader] = self.spawn(MEMBERS[leader])?;
        self.wait_for_all().await?;
        Ok(gap)
    }

    /// The place of the leading member.
    async fn leader(&self) -> Result<usize> {
        for (place, endpoint) in self.endpoints.iter().enumerate() {
            let client = Client::connect(endpoint).await?;
            let mut maintenance = client.maintenance();
            let status = maintenance.status(StatusRequest::default()).await?;
            let status = status.into_inner();
            if status
                .header
                .is_some_and(|header| header.member_id == status.leader)
            {
                return Ok(place);
            }
        }
        bail!("{} has no leader", self.name())
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            PeerKind::Example | PeerKind::Standalone => "trivet",
            PeerKind::Etcd => "etcd",
        }
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

    /// Resident memory of the largest member in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        let kib = |member: &Process| member.resident_kib().unwrap_or(0);
        let most = self.members.iter().map(kib).max().unwrap_or(0);
        most as f64 / 1024.0
    }

    /// Processor time of all members.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.members.iter().filter_map(Process::cpu_time).sum()
    }
}

fn example(command: &mut Command, subnet: Subnet, number: u8, tls_dir: &Path) {
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

/// One linearizable read and one write.
async fn probe(endpoint: &str) -> Result<()> {
    let attempt = async {
        let client = Client::connect(endpoint).await?;
        let range = RangeRequest {
            key: "probe".into(),
            ..RangeRequest::default()
        };
        client.kv().range(range).await?;
        let put = PutRequest {
            key: "probe".into(),
            ..PutRequest::default()
        };
        client.kv().put(put).await?;
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(2), attempt).await?
}

/// The newest genuine etcd: of the one in `PATH` and of the one in the directory that the
/// variable `TRIVET_ETCD_DIR` names.
pub(crate) fn newest_etcd() -> PathBuf {
    let mut found = vec![PathBuf::from("etcd")];
    if let Some(dir) = std::env::var_os("TRIVET_ETCD_DIR") {
        found.push(Path::new(&dir).join("etcd"));
    }
    found
        .into_iter()
        .max_by_key(|binary| version(binary))
        .unwrap_or_else(|| "etcd".into())
}

/// The version of an etcd program; `None` when it cannot be run.
pub(crate) fn version(binary: &Path) -> Option<(u32, u32, u32)> {
    let output = Command::new(binary).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.lines().next()?.rsplit(' ').next()?.to_owned();
    let mut numbers = words.split('.').map(|word| word.parse().unwrap_or(0));
    Some((numbers.next()?, numbers.next()?, numbers.next()?))
}
