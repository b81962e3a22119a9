//! Flags of `trivet datastore`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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
