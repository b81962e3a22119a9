//! A state machine to replicate, and a cluster of it.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use trivet_env::Env;
use trivet_raft_node::testing::{Network, Parts, Retention};
use trivet_raft_node::{
    AppliedBatch, LeaderQuery, LogPosition, Peer, RaftNode, Result, SnapshotSource, StartMode,
    StateMachine, testing,
};

pub(crate) const CLUSTER: u64 = 0xc0ffee;
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(40);
pub(crate) const ELECTION: Duration = Duration::from_millis(200);

/// An append-only list of commands, with the position of each entry.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) applied: LogPosition,
    pub(crate) commands: Vec<Bytes>,
    pub(crate) installed: usize,
}

/// What one member has in memory, and what it would find after a crash.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    pub(crate) live: Arc<Mutex<State>>,
    pub(crate) saved: Arc<Mutex<State>>,
    /// Whether this member's disk gives wrong data back when the command `rot` needs it.
    pub(crate) rotten: Arc<AtomicBool>,
}

impl Memory {
    pub(crate) fn commands(&self) -> Vec<Bytes> {
        self.live.lock().expect("live").commands.clone()
    }
}

pub(crate) struct Toy {
    memory: Memory,
    /// A checkpoint after this many entries.
    every: u64,
}

impl Toy {
    /// What a restart finds: the last checkpoint.
    pub(crate) fn open(memory: &Memory, every: u64) -> Box<Self> {
        let saved = memory.saved.lock().expect("saved").clone();
        *memory.live.lock().expect("live") = saved;
        Box::new(Self {
            memory: memory.clone(),
            every,
        })
    }
}

struct Chunks(std::vec::IntoIter<Bytes>);

impl SnapshotSource for Chunks {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        Ok(self.0.next())
    }
}

impl StateMachine for Toy {
    fn applied(&self) -> LogPosition {
        self.memory.live.lock().expect("live").applied
    }

    fn durable(&self) -> LogPosition {
        self.memory.saved.lock().expect("saved").applied
    }

    fn apply(&mut self, batch: &AppliedBatch) -> io::Result<Vec<Bytes>> {
        let mut state = self.memory.live.lock().expect("live");
        assert!(
            batch.position.index > state.applied.index,
            "an entry twice: {:?}",
            batch.position
        );
        assert!(batch.position.term >= state.applied.term);
        state.applied = batch.position;
        let mut answers = Vec::new();
        for command in &batch.commands {
            if &command[..] == b"rot" && self.memory.rotten.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a bit is wrong"));
            }
            if &command[..] == b"panic" {
                return Err(io::Error::other("told to fail"));
            }
            state.commands.push(command.clone());
            answers.push(Bytes::copy_from_slice(
                &(state.commands.len() as u64).to_le_bytes(),
            ));
        }
        Ok(answers)
    }

    fn checkpoint(&mut self, force: bool) -> io::Result<()> {
        let live = self.memory.live.lock().expect("live").clone();
        let mut saved = self.memory.saved.lock().expect("saved");
        if force || live.applied.index >= saved.applied.index + self.every {
            *saved = live;
        }
        Ok(())
    }

    fn snapshot(&mut self) -> io::Result<(LogPosition, Box<dyn SnapshotSource>)> {
        let state = self.memory.live.lock().expect("live").clone();
        Ok((state.applied, Box::new(Chunks(state.commands.into_iter()))))
    }

    fn install(
        &mut self,
        position: LogPosition,
        chunks: &mut dyn Iterator<Item = io::Result<Bytes>>,
    ) -> io::Result<()> {
        let commands = chunks.collect::<io::Result<Vec<_>>>()?;
        let mut live = self.memory.live.lock().expect("live");
        *live = State {
            applied: position,
            commands,
            installed: live.installed + 1,
        };
        *self.memory.saved.lock().expect("saved") = live.clone();
        self.memory.rotten.store(false, Ordering::Relaxed);
        Ok(())
    }
}

/// Answers with who it is.
pub(crate) struct Named(pub(crate) u64);

#[async_trait]
impl LeaderQuery for Named {
    async fn answer(&self, question: Bytes) -> std::result::Result<Bytes, String> {
        match &question[..] {
            b"who" => Ok(Bytes::copy_from_slice(&self.0.to_le_bytes())),
            _ => Err("what?".into()),
        }
    }

    async fn answer_here(&self, question: Bytes) -> std::result::Result<Bytes, String> {
        self.answer(question).await
    }
}

pub(crate) fn url(id: u64) -> String {
    format!("https://127.0.0.1:{}", 10_000 + id)
}

pub(crate) fn peer(id: u64) -> Peer {
    Peer {
        id,
        name: format!("server{id}-{id:08x}"),
        peer_url: url(id),
        client_url: String::new(),
    }
}

/// The members of one test.
pub(crate) struct Cluster {
    pub(crate) network: Network,
    pub(crate) env: Env,
    pub(crate) dir: PathBuf,
    _guard: Option<tempfile::TempDir>,
    pub(crate) nodes: std::collections::BTreeMap<u64, Arc<RaftNode>>,
    pub(crate) memories: std::collections::BTreeMap<u64, Memory>,
    pub(crate) retention: Retention,
    pub(crate) checkpoint_every: u64,
    pub(crate) election: Duration,
}

impl Cluster {
    pub(crate) fn empty() -> Self {
        let guard = tempfile::tempdir().expect("a directory");
        Self {
            network: Network::new(1),
            env: Env::real(),
            dir: guard.path().to_owned(),
            _guard: Some(guard),
            nodes: Default::default(),
            memories: Default::default(),
            retention: Retention::default(),
            checkpoint_every: 1000,
            election: ELECTION,
        }
    }

    pub(crate) fn parts(&self, id: u64, start: StartMode) -> Parts {
        Parts {
            env: self.env.clone(),
            dir: self.dir.join(id.to_string()),
            local: peer(id),
            cluster_id: CLUSTER,
            heartbeat: HEARTBEAT,
            election_timeout: self.election,
            start,
            plaintext_urls: false,
            retention: self.retention,
        }
    }

    pub(crate) async fn try_start(&mut self, id: u64, start: StartMode) -> Result<()> {
        let memory = self.memories.entry(id).or_default().clone();
        let toy = Toy::open(&memory, self.checkpoint_every);
        let node = testing::start(
            self.parts(id, start),
            toy,
            Arc::new(Named(id)),
            &self.network,
        )
        .await?;
        self.nodes.insert(id, node);
        Ok(())
    }

    pub(crate) async fn start(&mut self, id: u64, start: StartMode) {
        self.try_start(id, start).await.expect("the member starts");
    }

    /// Members 1 to `size`, each joined through the first.
    pub(crate) async fn of(size: u64) -> Self {
        Self::empty().grow(size).await
    }

    pub(crate) async fn grow(mut self, size: u64) -> Self {
        self.start(1, StartMode::Found).await;
        for id in 2..=size {
            self.join(id).await;
        }
        self
    }

    pub(crate) async fn join(&mut self, id: u64) {
        self.start(
            id,
            StartMode::Join {
                peer_urls: vec![url(1)],
            },
        )
        .await;
    }

    pub(crate) fn node(&self, id: u64) -> &Arc<RaftNode> {
        &self.nodes[&id]
    }

    /// Gone without a word, as by kill -9: nothing it still does reaches anybody.
    pub(crate) async fn kill(&mut self, id: u64) {
        let here = url(id);
        let others: Vec<String> = self
            .memories
            .keys()
            .filter(|other| **other != id)
            .map(|id| url(*id))
            .collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        self.network.isolate(&here, &others);
        self.network.remove(&here);
        let node = self.nodes.remove(&id).expect("it runs");
        // Its directory must be free before it can start again.
        stop_abruptly(node).await;
        self.network.heal();
    }

    /// Its process ends: the machine goes on and says so to whoever asks.
    pub(crate) async fn end(&mut self, id: u64) {
        self.network.remove(&url(id));
        let node = self.nodes.remove(&id).expect("it runs");
        stop_abruptly(node).await;
    }

    pub(crate) async fn leader(&self) -> u64 {
        let mut found = None;
        eventually("one leader, known to all", || {
            let leaders: Vec<_> = self
                .nodes
                .values()
                .map(|node| node.leadership().borrow().leader)
                .collect();
            found = leaders[0];
            found.is_some_and(|id| self.nodes.contains_key(&id))
                && leaders.iter().all(|leader| *leader == found)
        })
        .await;
        found.expect("just found")
    }

    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self
            .nodes
            .keys()
            .find(|id| **id != leader)
            .expect("a follower")
    }

    /// All members have applied the same commands.
    pub(crate) async fn converged(&self) -> Vec<Bytes> {
        let mut all = Vec::new();
        eventually("the same state everywhere", || {
            all = self
                .nodes
                .keys()
                .map(|id| self.memories[id].commands())
                .collect::<Vec<_>>();
            all.iter().all(|state| *state == all[0])
        })
        .await;
        all.swap_remove(0)
    }

    pub(crate) async fn shutdown(&mut self) {
        for node in std::mem::take(&mut self.nodes).into_values() {
            node.shutdown().await;
        }
    }
}

/// Drops the node and waits until it holds nothing any more.
async fn stop_abruptly(node: Arc<RaftNode>) {
    let weak = Arc::downgrade(&node);
    testing::abort(&node).await;
    drop(node);
    eventually("the node to be gone", || weak.strong_count() == 0).await;
}

/// Waits for a condition, not for a time.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "waited too long for: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn command(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
