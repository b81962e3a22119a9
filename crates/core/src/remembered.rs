//! The memory of having been a member.
//!
//! A server whose `server/` was wiped cannot tell from its flags that its cluster lives on;
//! `--cluster-init` would found a second one. So membership is remembered outside `server/`.
//! What the memory cannot cover (everything wiped) [`crate::founding`] tries to notice.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{StartError, files};

const FILE: &str = "trivet-cluster.json";

/// What is remembered. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Remembered {
    /// Hash of the cluster's CA, as in a token.
    pub(crate) ca_hash: String,
    /// Name of this server's member.
    pub(crate) member: String,
    /// `host:port` of the other servers.
    pub(crate) other_servers: Vec<String>,
}

impl Remembered {
    pub(crate) fn path(node_dir: &Path) -> PathBuf {
        node_dir.join(FILE)
    }

    /// Reads it; a damaged file counts as a memory of unknown servers.
    pub(crate) fn load(node_dir: &Path) -> Result<Option<Self>, StartError> {
        let Some(bytes) = files::read(&Self::path(node_dir))? else {
            return Ok(None);
        };
        Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            Self {
                ca_hash: String::new(),
                member: String::new(),
                other_servers: vec!["<another server>:6443".to_owned()],
            }
        })))
    }

    /// Writes it, if it changed.
    pub(crate) fn save(&self, node_dir: &Path) -> Result<(), StartError> {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        files::write(&Self::path(node_dir), text.as_bytes(), files::PRIVATE)
    }
}

/// May this machine, which has no data, found a cluster?
pub(crate) fn may_found(node_dir: &Path) -> Result<(), StartError> {
    match Remembered::load(node_dir)? {
        Some(memory) if !memory.other_servers.is_empty() => Err(StartError::WasMember {
            servers: memory.other_servers,
            marker: Remembered::path(node_dir),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_former_member_may_not_found() {
        let dir = tempfile::tempdir().unwrap();
        may_found(dir.path()).unwrap();
        let mut memory = Remembered {
            ca_hash: "h".to_owned(),
            member: "a-1".to_owned(),
            other_servers: Vec::new(),
        };
        memory.save(dir.path()).unwrap();
        // A cluster of one dies with its data.
        may_found(dir.path()).unwrap();
        memory.other_servers.push("10.0.0.2:6443".to_owned());
        memory.save(dir.path()).unwrap();
        let text = may_found(dir.path()).unwrap_err().to_string();
        assert!(
            text.contains("--server https://10.0.0.2:6443") && text.contains(FILE),
            "{text}"
        );
        std::fs::write(Remembered::path(dir.path()), "{").unwrap();
        assert!(may_found(dir.path()).is_err());
    }
}
