//! The real kubectl and etcdctl.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// kubectl.
    Kubectl,
    /// etcdctl.
    Etcdctl,
}

/// A client program on this machine.
#[derive(Debug, Clone)]
pub struct Client {
    /// What it is.
    pub kind: ClientKind,
    /// The program.
    pub path: PathBuf,
    /// What it says its version is.
    pub version: String,
}

/// Whether a missing real client is a failure (`TRIVET_REQUIRE_CLIENTS=1`, as CI sets it).
pub fn require_clients() -> bool {
    env::var_os("TRIVET_REQUIRE_CLIENTS").is_some_and(|value| value == "1")
}

/// Every kubectl to test with: those listed in `TRIVET_KUBECTL` (colon-separated) and the one
/// on the path.
pub fn find_kubectls() -> Vec<Client> {
    let mut paths: Vec<PathBuf> = env::var_os("TRIVET_KUBECTL")
        .map(|list| env::split_paths(&list).collect())
        .unwrap_or_default();
    paths.extend(on_path("kubectl"));
    let mut found: Vec<Client> = Vec::new();
    for path in paths {
        if let Some(version) = version(&path, &["version", "--client", "-o", "json"], "gitVersion")
            && !found.iter().any(|client| client.version == version)
        {
            found.push(Client {
                kind: ClientKind::Kubectl,
                path,
                version,
            });
        }
    }
    found
}

/// The etcdctl on the path.
pub fn find_etcdctl() -> Option<Client> {
    let path = on_path("etcdctl")?;
    let output = Command::new(&path)
        .arg("version")
        .env("ETCDCTL_API", "3")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().next()?.rsplit(' ').next()?.to_owned();
    Some(Client {
        kind: ClientKind::Etcdctl,
        path,
        version,
    })
}

impl Client {
    /// Runs kubectl against a kubeconfig; discovery is cached under `scratch`.
    pub fn kubectl(&self, kubeconfig: &Path, scratch: &Path, arguments: &[&str]) -> Result<Output> {
        Command::new(&self.path)
            .env("KUBECONFIG", kubeconfig)
            .env("HOME", scratch)
            .arg("--cache-dir")
            .arg(scratch.join(format!("kube-cache-{}", self.version)))
            .args(arguments)
            .output()
            .with_context(|| format!("cannot run {}", self.path.display()))
    }

    /// As [`Client::kubectl`]; the standard output of a run that must succeed.
    pub fn kubectl_ok(
        &self,
        kubeconfig: &Path,
        scratch: &Path,
        arguments: &[&str],
    ) -> Result<String> {
        let output = self.kubectl(kubeconfig, scratch, arguments)?;
        if !output.status.success() {
            bail!(
                "kubectl {} {}: {}{}",
                self.version,
                arguments.join(" "),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

fn version(path: &Path, arguments: &[&str], field: &str) -> Option<String> {
    let output = Command::new(path).args(arguments).output().ok()?;
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    Some(value.get("clientVersion")?.get(field)?.as_str()?.to_owned())
}
