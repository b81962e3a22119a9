//! Where things are when nobody says otherwise: K3s's places.

use std::env;
use std::path::{Path, PathBuf};

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The data directory: as given, else by user.
pub(crate) fn data_dir(given: Option<&Path>) -> PathBuf {
    match given {
        Some(path) => path.to_owned(),
        None if is_root() => PathBuf::from("/var/lib/rancher/k3s"),
        None => home().join(".rancher/k3s"),
    }
}

/// The administrator's kubeconfig: as given, else by user.
pub(crate) fn kubeconfig(given: Option<&Path>) -> PathBuf {
    match given {
        Some(path) => path.to_owned(),
        None if is_root() => PathBuf::from("/etc/rancher/k3s/k3s.yaml"),
        None => home().join(".kube/k3s.yaml"),
    }
}

/// Where files may be made that nobody needs afterwards.
pub(crate) fn scratch() -> PathBuf {
    env::temp_dir()
}

fn home() -> PathBuf {
    env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map_or_else(|| PathBuf::from("."), PathBuf::from)
}
