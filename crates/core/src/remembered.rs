//! The memory of having been a member.
//!
//! A server whose `server/` was wiped cannot tell from its flags that its cluster lives on;
//! `--cluster-init` would found a second one. So membership is remembered outside `server/`.
//! What the memory cannot cover (everything wiped) [`crate::founding`] tries to notice.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{StartError, files};

/// Where the memory of the server in `data_dir` lies. The name depends on the data directory,
/// because several servers of one machine may share `node_dir`.
pub(crate) fn path(node_dir: &Path, data_dir: &Path) -> PathBuf {
    let digest = trivet_pki::sha256_hex(data_dir.as_os_str().as_encoded_bytes());
    node_dir.join(format!("trivet-cluster-{}.json", &digest[..8]))
}

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
    /// Reads it; a damaged file counts as a memory of unknown servers.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>, StartError> {
        let Some(bytes) = files::read(path)? else {
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
    pub(crate) fn save(&self, path: &Path) -> Result<(), StartError> {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        files::write(path, text.as_bytes(), files::PRIVATE)
    }
}

/// May this machine, which has no data, found a cluster?
pub(crate) fn may_found(path: &Path) -> Result<(), StartError> {
    match Remembered::load(path)? {
        Some(memory) if !memory.other_servers.is_empty() => Err(StartError::WasMember {
            servers: memory.other_servers,
            marker: path.to_owned(),
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
        let path = path(dir.path(), Path::new("/data"));
        may_found(&path).unwrap();
        let mut memory = Remembered {
            ca_hash: "h".to_owned(),
            member: "a-1".to_owned(),
            other_servers: Vec::new(),
        };
        memory.save(&path).unwrap();
        // A cluster of one dies with its data.
        may_found(&path).unwrap();
        memory.other_servers.push("10.0.0.2:6443".to_owned());
        memory.save(&path).unwrap();
        let text = may_found(&path).unwrap_err().to_string();
        assert!(
            text.contains("--server https://10.0.0.2:6443") && text.contains("trivet-cluster-"),
            "{text}"
        );
        std::fs::write(&path, "{").unwrap();
        assert!(may_found(&path).is_err());
    }
}
