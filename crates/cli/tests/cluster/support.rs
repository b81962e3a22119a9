//! What every scenario needs.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use trivet_harness::{Client, Cluster, ClusterOptions, Subnet, find_kubectls, require_clients};

/// Generous: a busy machine is no failure, a hang is.
pub(crate) const STEP: Duration = Duration::from_secs(60);

/// One scenario at a time.
static ONE: Mutex<()> = Mutex::new(());

/// A cluster in a scratch directory that is kept when the scenario fails.
pub(crate) struct Scenario {
    pub(crate) cluster: Cluster,
    scratch: Option<tempfile::TempDir>,
    _turn: MutexGuard<'static, ()>,
}

impl Scenario {
    pub(crate) fn new(name: &str) -> Self {
        let turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = tempfile::Builder::new()
            .prefix(&format!("trivet-{name}-"))
            .tempdir()
            .unwrap();
        let cluster = Cluster::new(ClusterOptions {
            binary: PathBuf::from(env!("CARGO_BIN_EXE_trivet")),
            scratch: scratch.path().to_owned(),
            subnet: Subnet::fresh(),
            token: "scenario-secret".into(),
            datastore: "etcd".into(),
        });
        Self {
            cluster,
            scratch: Some(scratch),
            _turn: turn,
        }
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.scratch
            .as_ref()
            .map(|dir| dir.path().to_owned())
            .expect("kept until the drop")
    }

    /// Three servers, all ready.
    pub(crate) fn three_servers(&mut self) {
        self.cluster.found().unwrap();
        self.cluster.wait_ready(1, STEP).unwrap();
        for number in [2, 3] {
            self.cluster.join(number, 1).unwrap();
        }
        for number in [2, 3] {
            self.cluster.wait_ready(number, STEP).unwrap();
        }
    }

    /// The number of the server that leads, as server `via` sees it.
    pub(crate) fn leader(&self, via: u8) -> Option<u8> {
        let status = self.cluster.status(via).ok()?;
        let members = status["members"].as_array()?;
        let leader = members.iter().find(|member| member["leader"] == true)?;
        leader["node"]
            .as_str()?
            .strip_prefix("server-")?
            .parse()
            .ok()
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(scratch) = self.scratch.take()
        {
            println!(
                "data and logs of the failed scenario: {}",
                scratch.keep().display()
            );
        }
    }
}

/// Every kubectl on this machine. Without one: a failure where clients are required, otherwise
/// a line that says what was not tested.
pub(crate) fn kubectls() -> Vec<Client> {
    let found = find_kubectls();
    assert!(
        !found.is_empty() || !require_clients(),
        "no kubectl found, and TRIVET_REQUIRE_CLIENTS=1"
    );
    if found.is_empty() {
        println!("no kubectl on this machine: its part of the scenario is left out");
    }
    found
}

/// Names of the nodes whose STATUS column is exactly Ready, with their ROLES.
pub(crate) fn ready_nodes(table: &str) -> Vec<(String, String)> {
    table
        .lines()
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            let (name, status, roles) = (columns.next()?, columns.next()?, columns.next()?);
            (status == "Ready").then(|| (name.to_owned(), roles.to_owned()))
        })
        .collect()
}
