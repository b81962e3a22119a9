//! What can be typed: subcommands, flags and environment variables, with K3s's names.
//!
//! Clap's derive gives parsing, `--help` and completions from one table. What was typed
//! ([`ServerArgs`], [`AgentArgs`]) and what it means (`trivet_core` and `trivet_agent`
//! settings) are different types; the conversion lives with the commands.

mod cloudinit;
mod datastore;
mod node;
mod server;
mod tolerated;
mod utility;

use std::ffi::OsString;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use cloudinit::{
    CloudinitArgs, CloudinitCommand, ClusterCommand, FindingsArgs, MergeArgs,
};
pub(crate) use datastore::{
    DatastoreArgs, DatastoreCommand, ImportArgs, ImportFrom, InspectArgs, RepairArgs,
};
pub(crate) use node::{AgentArgs, JoinArgs, LogArgs, LogFormat, NodeArgs};
pub(crate) use server::{NetworkArgs, ServerArgs};
pub(crate) use tolerated::{REFUSED, ToleratedArgs, refused_variable};
pub(crate) use utility::{
    CompletionArgs, MemberArgs, MemberCommand, OutputFormat, StatusArgs, TokenArgs, TokenCommand,
};

/// The version that `--version` prints: ours, and the Kubernetes API level it speaks.
pub(crate) const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (Kubernetes API v1.35, K3s-compatible)"
);

/// A K3s-compatible, highly available Kubernetes control plane with its database inside.
///
/// Found a cluster:      K3S_TOKEN=SECRET trivet server --cluster-init
/// Join a server:        K3S_TOKEN=SECRET trivet server --server https://IP:6443
/// Join a worker:        K3S_TOKEN=SECRET trivet agent  --server https://IP:6443
///
/// Flags may also stand in /etc/rancher/k3s/config.yaml (long names without dashes) and in
/// config.yaml.d/*.yaml beside it. A flag beats the file, the file beats the environment.
#[derive(Debug, Parser)]
#[command(name = "trivet", version = VERSION, verbatim_doc_comment, args_override_self = true)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a server: control plane, datastore and (unless disabled) a node of its own.
    Server(Box<ServerArgs>),
    /// Run a worker node that joins a cluster.
    Agent(Box<AgentArgs>),
    /// Show members, roles, leader, lag and how many failures the cluster survives now.
    Status(StatusArgs),
    /// List the datastore's members, or remove one that is gone for good.
    Member(MemberArgs),
    /// Look into datastores on disk, those of old K3s servers too.
    Datastore(DatastoreArgs),
    /// Run the datastore alone, as an etcd-compatible server with etcd's own flags.
    #[command(disable_help_flag = true)]
    Etcd(EtcdArgs),
    /// Show or generate the secrets that nodes join with.
    Token(TokenArgs),
    /// Check, merge and render k3OS-style cloud-config files.
    Cloudinit(CloudinitArgs),
    /// Print a shell completion script.
    Completion(CompletionArgs),
}

/// `trivet etcd`. Its flags are etcd's and are read by etcd's rules; see `trivet etcd --help`.
#[derive(Debug, Args)]
pub(crate) struct EtcdArgs {
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "FLAGS"
    )]
    pub(crate) arguments: Vec<OsString>,
}

/// `--datastore`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DatastoreKind {
    /// Embedded etcd on Raft: durable, replicated.
    Etcd,
    /// In memory: gone when the process ends. For tests.
    Memory,
}

/// Values a boolean flag takes when one is given after `=`: true/false, yes/no, on/off, 1/0.
pub(crate) fn boolish() -> BoolishValueParser {
    BoolishValueParser::new()
}
