//! Where things lie below the data directory: K3s's names.

use std::path::{Path, PathBuf};

use trivet_datastore::TlsFiles;

/// Paths of one server.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    data_dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
        }
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(crate) fn server(&self) -> PathBuf {
        self.data_dir.join("server")
    }

    pub(crate) fn tls(&self, name: &str) -> PathBuf {
        self.server().join("tls").join(name)
    }

    pub(crate) fn passwd(&self) -> PathBuf {
        self.server().join("cred/passwd")
    }

    pub(crate) fn token(&self) -> PathBuf {
        self.server().join("token")
    }

    pub(crate) fn node_token(&self) -> PathBuf {
        self.server().join("node-token")
    }

    pub(crate) fn agent_token(&self) -> PathBuf {
        self.server().join("agent-token")
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.server().join("db")
    }

    /// Name of this server's member, and whether it joined: not in the store's own directory, which is the store's,
    /// and not in `db/etcd`, which is K3s's.
    pub(crate) fn member_name(&self) -> PathBuf {
        self.db().join("member-name")
    }

    /// The fallback for the file that remembers membership: outside `server/`, so that wiping
    /// that does not wipe the memory.
    pub(crate) fn node_dir(&self) -> PathBuf {
        self.data_dir.join("agent/etc")
    }

    pub(crate) fn peer_tls(&self) -> TlsFiles {
        TlsFiles {
            ca: self.tls("etcd/peer-ca.crt"),
            cert: self.tls("etcd/peer-server-client.crt"),
            key: self.tls("etcd/peer-server-client.key"),
        }
    }

    pub(crate) fn client_tls(&self) -> TlsFiles {
        TlsFiles {
            ca: self.tls("etcd/server-ca.crt"),
            cert: self.tls("etcd/server-client.crt"),
            key: self.tls("etcd/server-client.key"),
        }
    }
}
