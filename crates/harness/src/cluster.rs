//! A cluster of `trivet` processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Process, wait_for};

/// The first three bytes of the addresses a cluster uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet(pub [u8; 3]);

impl Subnet {
    /// 127.0.0.x, for people.
    pub const PLAIN: Self = Self([127, 0, 0]);

    /// One that no other cluster of this process, and hardly one of another, uses.
    pub fn fresh() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let process = std::process::id() as u16;
        let number = process
            .wrapping_mul(61)
            .wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let [a, b] = number.to_be_bytes();
        Self([127, 64 | (a & 0x7f), b])
    }

    /// Address number `host`.
    pub fn address(self, host: u8) -> String {
        let [a, b, c] = self.0;
        format!("{a}.{b}.{c}.{host}")
    }
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// `trivet server`.
    Server,
    /// `trivet agent`.
    Agent,
}

/// How a cluster is made.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The `trivet` binary.
    pub binary: PathBuf,
    /// Where data, logs and kubeconfigs go.
    pub scratch: PathBuf,
    /// The addresses.
    pub subnet: Subnet,
    /// The token of servers and agents.
    pub token: String,
    /// `--datastore`.
    pub datastore: String,
}

/// Nodes by number; a number is also the last byte of the node's address. Dropping the cluster
/// kills what still runs.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    nodes: Vec<Option<Process>>,
}

impl Cluster {
    /// A cluster without nodes.
    pub fn new(options: ClusterOptions) -> Self {
        Self {
            options,
            nodes: Vec::new(),
        }
    }

    /// The options it was made with.
    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    /// Address of node `number`.
    pub fn address(&self, number: u8) -> String {
        self.options.subnet.address(number)
    }

    /// Join URL of server `number`.
    pub fn url(&self, number: u8) -> String {
        format!("https://{}:6443", self.address(number))
    }

    /// Data directory of node `number`.
    pub fn data_dir(&self, number: u8) -> PathBuf {
        self.options.scratch.join(format!("node-{number}"))
    }

    /// Kubeconfig that server `number` writes.
    pub fn kubeconfig(&self, number: u8) -> PathBuf {
        self.options
            .scratch
            .join(format!("kubeconfig-{number}.yaml"))
    }

    /// The command that starts server `number`, without founding or joining.
    pub fn server_command(&self, number: u8) -> Command {
        let mut command = self.command("server", number);
        command
            .args(["--node-name", &format!("server-{number}")])
            .args(["--bind-address", &self.address(number)])
            .args(["--datastore", &self.options.datastore])
            .arg("--write-kubeconfig")
            .arg(self.kubeconfig(number));
        command
    }

    /// The command that starts agent `number`, joined to server `via`.
    pub fn agent_command(&self, number: u8, via: u8) -> Command {
        let mut command = self.command("agent", number);
        command
            .args(["--node-name", &format!("agent-{number}")])
            .args(["--lb-bind-address", &self.address(number)])
            .args(["--server", &self.url(via)]);
        command
    }

    fn command(&self, role: &str, number: u8) -> Command {
        let mut command = Command::new(&self.options.binary);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("K3S_") || name.starts_with("TRIVET_") {
                command.env_remove(name);
            }
        }
        command
            .env("K3S_TOKEN", &self.options.token)
            .arg(role)
            .arg("--data-dir")
            .arg(self.data_dir(number))
            .arg("--node-identity-dir")
            .arg(self.data_dir(number).join("identity"))
            .args(["--node-ip", &self.address(number)]);
        command
    }

    /// Founds the cluster with server 1.
    pub fn found(&mut self) -> Result<()> {
        let mut command = self.server_command(1);
        command.arg("--cluster-init");
        self.start(1, &mut command)
    }

    /// Joins server `number` through server `via`.
    pub fn join(&mut self, number: u8, via: u8) -> Result<()> {
        let mut command = self.server_command(number);
        command.args(["--server", &self.url(via)]);
        self.start(number, &mut command)
    }

    /// Starts server `number` again with its data alone.
    pub fn resume(&mut self, number: u8) -> Result<()> {
        let mut command = self.server_command(number);
        self.start(number, &mut command)
    }

    /// Starts agent `number`, configured with server `via`.
    pub fn agent(&mut self, number: u8, via: u8) -> Result<()> {
        let mut command = self.agent_command(number, via);
        self.start(number, &mut command)
    }

    /// Starts any command as node `number`.
    pub fn start(&mut self, number: u8, command: &mut Command) -> Result<()> {
        let place = usize::from(number);
        if self.nodes.len() <= place {
            self.nodes.resize_with(place + 1, || None);
        }
        if let Some(running) = &mut self.nodes[place]
            && running.try_wait().is_none()
        {
            bail!("node {number} is already running");
        }
        self.nodes[place] = Some(Process::start(command, &self.log_path(number))?);
        Ok(())
    }

    /// Log of node `number`, over all its starts.
    pub fn log_path(&self, number: u8) -> PathBuf {
        self.options.scratch.join(format!("node-{number}.log"))
    }

    /// The process of node `number`.
    pub fn node(&mut self, number: u8) -> Result<&mut Process> {
        self.nodes
            .get_mut(usize::from(number))
            .and_then(Option::as_mut)
            .with_context(|| format!("node {number} was never started"))
    }

    /// kill -9.
    pub fn kill(&mut self, number: u8) -> Result<()> {
        self.node(number)?.kill();
        Ok(())
    }

    /// `trivet status -o json` as server `number` sees it.
    pub fn status(&self, number: u8) -> Result<Value> {
        let output = self.status_output(number)?;
        if !output.status.success() {
            bail!("trivet status: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The whole run of `trivet status -o json`.
    pub fn status_output(&self, number: u8) -> Result<Output> {
        Ok(Command::new(&self.options.binary)
            .args(["status", "-o", "json", "--data-dir"])
            .arg(self.data_dir(number))
            .output()?)
    }

    /// Waits until server `number` serves: its kubeconfig is written and its store takes
    /// writes. Fails at once, with the end of the log, when the process ends.
    pub fn wait_ready(&mut self, number: u8, deadline: Duration) -> Result<Duration> {
        let start = Instant::now();
        let mut died = None;
        let waited = wait_for(&format!("server {number} to be ready"), deadline, || {
            if let Ok(process) = self.node(number)
                && let Some(status) = process.try_wait()
            {
                died = Some(status);
                return true;
            }
            self.kubeconfig(number).exists()
                && self
                    .status(number)
                    .is_ok_and(|status| status["writable"] == true && status["ready"] == true)
        });
        if let Some(status) = died {
            bail!(
                "server {number} ended with {status}:\n{}",
                self.log_tail(number)
            );
        }
        waited.with_context(|| self.log_tail(number))?;
        Ok(start.elapsed())
    }

    /// The last lines of a node's log.
    pub fn log_tail(&self, number: u8) -> String {
        tail(&self.log_path(number), 30)
    }

    /// Stops every node with SIGTERM, agents' and servers' order as numbered backwards.
    pub fn stop(&mut self, deadline: Duration) -> Result<()> {
        for node in self.nodes.iter_mut().rev().flatten() {
            node.stop(deadline)?;
        }
        Ok(())
    }
}

fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
