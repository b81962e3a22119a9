//! Why a control plane could not be built or started.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use trivet_datastore::Footprint;
use trivet_join::{JoinError, SettingDifference};

/// Settings that contradict each other or are incomplete. Found without any I/O.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A setting without which nothing works is missing.
    #[error("{0} is required")]
    Missing(&'static str),
    /// A setting has an impossible value.
    #[error("{0}")]
    Invalid(String),
}

/// Why a control plane did not start. Unless the text says otherwise nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Data of another store lies in the data directory and would be left behind.
    #[error(
        "{data_dir} holds data that --datastore {backend} would leave behind: {}. Nothing was changed. \
         To go on using it, start the program that wrote it; to start without it, use another --data-dir, \
         or set it aside: {}",
        footprints(found),
        set_aside(data_dir)
    )]
    ForeignData {
        /// The directory that was looked at.
        data_dir: PathBuf,
        /// The chosen kind of store.
        backend: String,
        /// What was found.
        found: Vec<Footprint>,
    },
    /// The server could not be joined.
    #[error("cannot join: {0}")]
    Join(#[from] JoinError),
    /// Critical settings differ from the cluster's.
    #[error(
        "cannot join: settings that all servers must share differ: {}",
        list(differences)
    )]
    SettingsDiffer {
        /// One entry per flag.
        differences: Vec<SettingDifference>,
    },
    /// Another server already has this node name.
    #[error(
        "cannot join: the node name {node:?} is already taken by the server at {peer_url} (member {member}). \
         Choose another with --node-name. If that server is gone for good, first remove its member on another \
         server: trivet member remove {id:x}"
    )]
    DuplicateNode {
        /// The node name.
        node: String,
        /// Name of the member that has it.
        member: String,
        /// Identity of that member.
        id: u64,
        /// Where that member is.
        peer_url: String,
    },
    /// The identity on disk is another cluster's.
    #[error(
        "cannot join: {path} belongs to another cluster. If nothing there is needed, move {server_dir} away and try again"
    )]
    OtherIdentity {
        /// The first file that differs.
        path: PathBuf,
        /// The directory to move away.
        server_dir: PathBuf,
    },
    /// This machine was a member of a cluster whose other servers may live.
    #[error(
        "this server was a member of a cluster (servers: {}), but its data is gone; founding a new cluster here \
         would split yours in two. To rejoin, start it with --server https://{} and the token. \
         To really found a new cluster, remove {marker} first",
        servers.join(", "),
        servers.first().map_or("<another server>:6443", String::as_str)
    )]
    WasMember {
        /// `host:port` of the other servers.
        servers: Vec<String>,
        /// The file that remembers it.
        marker: PathBuf,
    },
    /// Servers of a living cluster still count on this address.
    #[error(
        "a server at {peer} is trying to reach a member at this address ({local}): this machine still belongs to a \
         running cluster, and founding a new one here would split it in two. To rejoin, start with \
         --server https://<that server>:6443 and the token. To really found a new cluster, stop the other servers first"
    )]
    LivingCluster {
        /// Where the connection came from.
        peer: SocketAddr,
        /// Where it arrived.
        local: SocketAddr,
    },
    /// A full token names a CA that is not here.
    #[error(
        "the token names the CA of an existing cluster, which is not on this machine. To join that cluster, start \
         with --server https://<one of its servers>:6443. To found a new one, use a token without K10<hash>::"
    )]
    FullTokenToFound,
    /// The token is not the one that the data on disk was made with.
    #[error(
        "the token does not match this server's data in {data_dir}; use the token that the cluster was created with"
    )]
    OtherToken {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// The store's bootstrap data cannot be used.
    #[error("{0}")]
    Bootstrap(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be read or written. Files before it may have been written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Keys or certificates on disk are not usable.
    #[error("{path}: {source}")]
    Pki {
        /// The file, or the directory it would be in.
        path: PathBuf,
        /// Why.
        source: trivet_pki::Error,
    },
    /// The clock is outside the validity of the cluster's CA.
    #[error(transparent)]
    Clock(trivet_pki::Error),
    /// The store cannot be opened.
    #[error("cannot open the datastore: {0}")]
    Store(trivet_datastore::Error),
    /// The Kubernetes API cannot start.
    #[error("cannot start the Kubernetes API: {0}")]
    Api(String),
}

impl StartError {
    /// The exit code of a program that ends for this: 3 foreign data, 4 join refused, 5 would
    /// found a second cluster, 1 anything else. (2 is for settings: [`BuildError`].)
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::ForeignData { .. } => 3,
            Self::Join(_)
            | Self::SettingsDiffer { .. }
            | Self::DuplicateNode { .. }
            | Self::OtherIdentity { .. } => 4,
            Self::WasMember { .. } | Self::LivingCluster { .. } | Self::FullTokenToFound => 5,
            Self::Store(trivet_datastore::Error::Corrupt(_)) => 6,
            _ => 1,
        }
    }
}

fn footprints(found: &[Footprint]) -> String {
    let texts: Vec<_> = found
        .iter()
        .map(|f| format!("{} ({}: {})", f.path.display(), f.backend, f.description))
        .collect();
    texts.join("; ")
}

/// The command that sets everything aside with one rename, for a shell. Files that belong
/// together, such as a database and its log, stay together.
fn set_aside(dir: &Path) -> String {
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let mut aside = dir.as_os_str().to_owned();
    aside.push(".set-aside");
    format!("mv -nT {} {}", quoted(dir), quoted(Path::new(&aside)))
}

fn list(differences: &[SettingDifference]) -> String {
    let texts: Vec<_> = differences.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
