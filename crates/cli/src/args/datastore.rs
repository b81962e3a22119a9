//! Flags of `trivet datastore`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::OutputFormat;

/// `trivet datastore`.
#[derive(Debug, Args)]
pub(crate) struct DatastoreArgs {
    #[command(subcommand)]
    pub(crate) command: DatastoreCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DatastoreCommand {
    /// Show what lies in a directory: kind of store, keys, revision, damage. Changes nothing.
    ///
    /// Reads dqlite and SQLite of old K3s servers; other stores are recognised. Exits with 0 if
    /// nothing is wrong with what was found, 1 if something is damaged or cannot be read.
    Inspect(InspectArgs),
    /// Found a store from what a genuine etcd left, K3s's own among them.
    ///
    /// Keys keep their revisions, versions and leases. The server must not have a store yet, and
    /// the source is not changed. Exits with 3 if other data is in the way.
    Import(ImportArgs),
    /// Say what is damaged in the store of a stopped server that has no peers, what a repair would
    /// do and exactly what would be lost. Changes nothing without --yes.
    ///
    /// With --yes the repaired files are written beside the damaged ones, which are kept as
    /// `raft.damaged-<n>` and `state.damaged-<n>`. Exits with 0 if nothing is wrong or all was
    /// repaired, 1 if there is something to repair or it cannot be done.
    Repair(RepairArgs),
}

/// What is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFrom {
    /// A file from `etcdctl snapshot save` or `k3s etcd-snapshot save`.
    EtcdSnapshot,
    /// The data directory of a stopped etcd.
    EtcdDir,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// What kind of source it is.
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) from: ImportFrom,
    /// The snapshot file or the directory.
    #[arg(value_name = "SOURCE")]
    pub(crate) source: PathBuf,
    /// Data directory of the server that is to have the store.
    #[arg(short = 'd', long, env = "K3S_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Skip so many revisions and make all older ones unreadable, for clients that may have seen
    /// later ones of the old cluster.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) bump_revision: u64,
    /// Take a snapshot without a checksum, or with a wrong one: for a copy of a database file.
    #[arg(long)]
    pub(crate) skip_hash_check: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// Data directory of the server on this machine.
    #[arg(short = 'd', long, env = "K3S_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Show what would be done and change nothing (the default).
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
    /// Do it.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Output format.
    #[arg(short = 'o', long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A data directory, its server/db, or a store in it [default: the data directory].
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Output format.
    #[arg(short = 'o', long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
    /// Data directory of the server on this machine.
    #[arg(short = 'd', long, env = "K3S_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}
