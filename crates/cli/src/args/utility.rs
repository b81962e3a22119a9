//! Flags of the commands that look at a cluster.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::Shell;

/// `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// `trivet status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Output format.
    #[arg(short = 'o', long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,
    /// Data directory of the server on this machine; its certificate is used.
    #[arg(short = 'd', long, env = "K3S_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Ask this server instead of the one recorded in the data directory.
    #[arg(short = 's', long, value_name = "URL")]
    pub(crate) server: Option<String>,
}

/// `trivet member`.
#[derive(Debug, Args)]
pub(crate) struct MemberArgs {
    #[command(subcommand)]
    pub(crate) command: MemberCommand,
    /// Data directory of the server on this machine; its certificate is used.
    #[arg(
        short = 'd',
        long,
        global = true,
        env = "K3S_DATA_DIR",
        value_name = "DIR"
    )]
    pub(crate) data_dir: Option<PathBuf>,
    /// Ask this server instead of the one recorded in the data directory.
    #[arg(short = 's', long, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
}

/// What to do with members.
#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// List names and identities.
    List,
    /// Remove a member that is gone for good. Refused when the rest would have no quorum.
    Remove {
        /// Its name or hexadecimal identity, as `list` shows it.
        member: String,
    },
}

/// `trivet token`.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print the token that servers (or with --agent, agents) join with, in its full form that
    /// pins the cluster's CA.
    Show {
        /// The agents' token.
        #[arg(long)]
        agent: bool,
        /// Data directory of the server on this machine.
        #[arg(short = 'd', long, env = "K3S_DATA_DIR", value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Print a new random secret, fit for K3S_TOKEN of a new cluster. Nothing is stored.
    Generate,
}

/// `trivet completion`.
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}
