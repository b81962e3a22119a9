//! `trivet cloudinit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `trivet cloudinit`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct CloudinitArgs {
    #[command(subcommand)]
    pub(crate) command: CloudinitCommand,
}

/// What to do with configuration files.
#[derive(Debug, Subcommand)]
pub(crate) enum CloudinitCommand {
    /// Check files: every mistake with its place and what to write instead. Exit code 0 if there
    /// is none, 1 otherwise.
    Validate {
        /// The files; - is standard input.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        output: FindingsArgs,
    },
    /// Look at the files of several nodes together.
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Merge all sources of one node as k3OS does and print what is in effect.
    ///
    /// Reads the places k3OS reads below --root, or only the sources that are named.
    Merge(MergeArgs),
    /// Show what a configuration leads to: files, commands, and the exact command line and
    /// environment of the node. Of several files later ones are stronger.
    Render {
        /// The files; - is standard input.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Print secrets in clear.
        #[arg(long)]
        show_secrets: bool,
    },
}

/// What to do with the files of a cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Check that the files fit together: one token, one founding server, different names, equal
    /// critical flags, an odd number of servers, join URLs that lead somewhere.
    Check {
        /// One file for every node.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        output: FindingsArgs,
    },
}

/// How findings are shown and counted.
#[derive(Debug, Args)]
pub(crate) struct FindingsArgs {
    /// Fail on warnings too.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print a JSON array with one object for every finding.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `trivet cloudinit merge`.
#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// Where the machine's files are.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
    /// The configuration from the installation (weakest).
    #[arg(long, value_name = "FILE")]
    pub(crate) system: Option<PathBuf>,
    /// A kernel command line.
    #[arg(long, value_name = "FILE")]
    pub(crate) cmdline: Option<PathBuf>,
    /// The local configuration.
    #[arg(long, value_name = "FILE")]
    pub(crate) local: Option<PathBuf>,
    /// SSH keys from the provider, one on a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) authorized_keys: Option<PathBuf>,
    /// The host name from the provider.
    #[arg(long, value_name = "FILE")]
    pub(crate) local_hostname: Option<PathBuf>,
    /// User data from the provider: a configuration or a script.
    #[arg(long, value_name = "FILE")]
    pub(crate) userdata: Option<PathBuf>,
    /// A directory of configurations (strongest), in the order of their names.
    #[arg(long, value_name = "DIR")]
    pub(crate) config_dir: Option<PathBuf>,
    /// Show where every value came from, what it replaced and what was dropped.
    #[arg(long)]
    pub(crate) explain: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Print secrets in clear.
    #[arg(long)]
    pub(crate) show_secrets: bool,
}
