//! Members as processes, and requests to them.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tonic::Status;
use trivet_harness::{Process, wait_for, wait_for_value};
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb as pb;

/// Generous: a busy machine is no failure, a hang is.
pub(crate) const STEP: Duration = Duration::from_secs(60);

/// Programs and people wait for this line.
const READY: &str = "ready to serve client requests";

pub(crate) fn trivet() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_trivet"))
}

/// A genuine etcd of the 3.5 line, or else of any.
pub(crate) fn genuine() -> Option<PathBuf> {
    let named = std::env::var_os("TRIVET_ETCD_DIR").map(|dir| PathBuf::from(dir).join("etcd"));
    let found = named.filter(|path| path.is_file()).or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|dir| dir.join("etcd"))
            .find(|path| path.is_file())
    });
    if found.is_none() {
        assert!(
            !trivet_harness::require_clients(),
            "no etcd found, and TRIVET_REQUIRE_CLIENTS=1"
        );
        println!("SKIPPED: no etcd on this machine");
    }
    found
}

/// Every etcdctl on this machine, with its directory first on the path where it matters.
pub(crate) fn etcdctls() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = trivet_harness::find_etcdctl()
        .into_iter()
        .map(|client| client.path)
        .collect();
    let newer = std::env::var_os("TRIVET_ETCD_DIR").map(|dir| PathBuf::from(dir).join("etcdctl"));
    found.extend(newer.filter(|path| path.is_file()));
    if found.is_empty() {
        assert!(
            !trivet_harness::require_clients(),
            "no etcdctl found, and TRIVET_REQUIRE_CLIENTS=1"
        );
        println!("SKIPPED: no etcdctl on this machine");
    }
    found
}

/// Ports that nobody uses right now.
fn free_ports(count: usize) -> Vec<u16> {
    let sockets: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
        .collect();
    sockets
        .iter()
        .map(|socket| socket.local_addr().unwrap().port())
        .collect()
}

/// A program with etcd's flags, without the settings of the surroundings.
pub(crate) fn command(program: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD") {
            command.env_remove(name);
        }
    }
    if program == trivet() {
        command.arg("etcd");
    }
    command.args(words).stdin(Stdio::null());
    command
}

/// Runs `trivet etcd` to its end, which must come soon.
pub(crate) fn run(words: &[&str]) -> Output {
    command(&trivet(), words).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Members of one test in a scratch directory, which is kept when the test fails.
pub(crate) struct Site {
    scratch: Option<tempfile::TempDir>,
    program: PathBuf,
    scheme: &'static str,
    /// Flags for every member.
    common: Vec<String>,
}

/// One member.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) client_url: String,
    pub(crate) peer_url: String,
    pub(crate) dir: PathBuf,
    program: PathBuf,
    words: Vec<String>,
    log: PathBuf,
    process: Option<Process>,
    tls: Option<std::sync::Arc<rustls::ClientConfig>>,
}

impl Site {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, trivet(), "http")
    }

    /// With another program, or with TLS.
    pub(crate) fn with(name: &str, program: PathBuf, scheme: &'static str) -> Self {
        let scratch = tempfile::Builder::new()
            .prefix(&format!("trivet-etcd-{name}-"))
            .tempdir()
            .unwrap();
        Self {
            scratch: Some(scratch),
            program,
            scheme,
            common: [
                "--heartbeat-interval=50",
                "--election-timeout=500",
                "--initial-cluster-token=test",
            ]
            .map(str::to_owned)
            .to_vec(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.scratch.as_ref().map(tempfile::TempDir::path).unwrap()
    }

    /// Flags for every member from now on.
    pub(crate) fn flags(&mut self, words: &[&str]) {
        self.common
            .extend(words.iter().map(|word| (*word).to_owned()));
    }

    /// A member that is not started yet.
    pub(crate) fn member(&self, name: &str) -> Member {
        let ports = free_ports(2);
        let url = |port| format!("{}://127.0.0.1:{port}", self.scheme);
        let dir = self.path().join(name);
        let (client_url, peer_url) = (url(ports[0]), url(ports[1]));
        let mut words: Vec<String> = vec![
            format!("--name={name}"),
            format!("--data-dir={}", dir.display()),
            format!("--listen-client-urls={client_url}"),
            format!("--advertise-client-urls={client_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
        ];
        words.extend(self.common.iter().cloned());
        Member {
            name: name.to_owned(),
            client_url,
            peer_url,
            log: self.path().join(format!("{name}.log")),
            dir,
            program: self.program.clone(),
            words,
            process: None,
            tls: None,
        }
    }

    /// Members that found a cluster together, all ready.
    pub(crate) fn founded(&self, names: &[&str]) -> Vec<Member> {
        let mut members: Vec<Member> = names.iter().map(|name| self.member(name)).collect();
        let list = list(&members);
        for member in &mut members {
            member.flag(&format!("--initial-cluster={list}"));
            member.start();
        }
        for member in &members {
            member.ready();
        }
        members
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(scratch) = self.scratch.take()
        {
            println!(
                "data and logs of the failed test: {}",
                scratch.keep().display()
            );
        }
    }
}

/// What `--initial-cluster` says.
pub(crate) fn list(members: &[Member]) -> String {
    let entries: Vec<String> = members
        .iter()
        .map(|member| format!("{}={}", member.name, member.peer_url))
        .collect();
    entries.join(",")
}

impl Member {
    pub(crate) fn flag(&mut self, word: &str) {
        self.words.push(word.to_owned());
    }

    pub(crate) fn tls(&mut self, config: std::sync::Arc<rustls::ClientConfig>) {
        self.tls = Some(config);
    }

    pub(crate) fn start(&mut self) {
        // A restart is ready when it says so itself.
        let _ = std::fs::remove_file(&self.log);
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let mut command = command(&self.program, &words);
        self.process = Some(Process::start(&mut command, &self.log).unwrap());
    }

    pub(crate) fn log(&self) -> String {
        text(&std::fs::read(&self.log).unwrap_or_default())
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.log().contains(READY)
    }

    /// Waits until it serves.
    pub(crate) fn ready(&self) {
        if let Err(error) = wait_for(&format!("{} to be ready", self.name), STEP, || {
            self.is_ready()
        }) {
            panic!("{error}\n{}", self.log());
        }
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.process().kill();
    }

    /// SIGTERM.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.process().stop(STEP).unwrap()
    }

    /// Waits for the end that comes by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        match self.process().wait(STEP) {
            Ok(status) => status,
            Err(error) => panic!("{error}\n{}", self.log()),
        }
    }

    /// Makes it what follows `member add`.
    pub(crate) fn existing(&mut self, others: &[&Member]) {
        let mut entries: Vec<String> = others
            .iter()
            .map(|member| format!("{}={}", member.name, member.peer_url))
            .collect();
        entries.push(format!("{}={}", self.name, self.peer_url));
        self.flag("--initial-cluster-state=existing");
        self.flag(&format!("--initial-cluster={}", entries.join(",")));
    }

    /// Asks this member something.
    pub(crate) fn ask<T, F>(&self, question: impl FnOnce(Client) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let (_, address) = self.client_url.split_once("://").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let connecting = async {
                match &self.tls {
                    None => Client::connect(address).await,
                    Some(tls) => Client::connect_tls(address, tls.clone()).await,
                }
            };
            let client = connecting
                .await
                .map_err(|error| Status::unavailable(format!("no connection: {error:?}")))?;
            let answer = tokio::time::timeout(Duration::from_secs(12), question(client)).await;
            let answer = answer.map_err(|_| Status::deadline_exceeded("no answer"))?;
            answer.map(tonic::Response::into_inner)
        })
    }

    pub(crate) fn put(&self, key: &str, value: &str) -> Result<pb::PutResponse, Status> {
        let request = pb::PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..Default::default()
        };
        self.ask(async |client| client.kv().put(request).await)
    }

    /// The value as a quorum has it.
    pub(crate) fn get(&self, key: &str) -> Result<Option<String>, Status> {
        let request = pb::RangeRequest {
            key: key.to_owned().into(),
            ..Default::default()
        };
        let answer = self.ask(async |client| client.kv().range(request).await)?;
        Ok(answer.kvs.first().map(|kv| text(&kv.value)))
    }

    pub(crate) fn status(&self) -> Result<pb::StatusResponse, Status> {
        self.ask(async |client| client.maintenance().status(pb::StatusRequest {}).await)
    }

    pub(crate) fn list(&self) -> Result<Vec<pb::Member>, Status> {
        let request = pb::MemberListRequest { linearizable: true };
        let answer = self.ask(async |client| client.cluster().member_list(request).await)?;
        Ok(answer.members)
    }

    pub(crate) fn add(&self, peer_url: &str, learner: bool) -> Result<pb::Member, Status> {
        let request = pb::MemberAddRequest {
            peer_ur_ls: vec![peer_url.to_owned()],
            is_learner: learner,
        };
        let answer = self.ask(async |client| client.cluster().member_add(request).await)?;
        Ok(answer.member.unwrap())
    }

    pub(crate) fn remove(&self, id: u64) -> Result<(), Status> {
        let request = pb::MemberRemoveRequest { id };
        self.ask(async |client| client.cluster().member_remove(request).await)
            .map(drop)
    }

    pub(crate) fn promote(&self, id: u64) -> Result<(), Status> {
        let request = pb::MemberPromoteRequest { id };
        self.ask(async |client| client.cluster().member_promote(request).await)
            .map(drop)
    }

    pub(crate) fn id(&self) -> u64 {
        self.status().unwrap().header.unwrap().member_id
    }
}

/// Repeats what fails only because members are still getting together.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, Status>) -> T {
    wait_for_value(what, STEP, || {
        attempt().map_err(|status| anyhow::anyhow!("{status}"))
    })
    .unwrap()
}

/// The position of the member that leads, once all of them agree.
pub(crate) fn leader(members: &[&Member]) -> usize {
    wait_for_value("one leader", STEP, || {
        let mut leaders = Vec::new();
        let mut ids = Vec::new();
        for member in members {
            let status = member
                .status()
                .map_err(|status| anyhow::anyhow!("{status}"))?;
            leaders.push(status.leader);
            ids.push(status.header.unwrap_or_default().member_id);
        }
        let same = leaders.iter().all(|leader| *leader == leaders[0]);
        let position = ids.iter().position(|id| *id == leaders[0]);
        position
            .filter(|_| same)
            .ok_or_else(|| anyhow::anyhow!("leaders {leaders:x?} of {ids:x?}"))
    })
    .unwrap()
}

/// How long something takes until it works.
pub(crate) fn time_until(what: &str, mut works: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    wait_for(what, STEP, &mut works).unwrap();
    start.elapsed()
}
