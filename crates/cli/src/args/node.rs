//! Flags that servers and agents share.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ToleratedArgs, boolish};

/// Logging.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// Log more.
    #[arg(long, env = "K3S_DEBUG", value_parser = boolish(), num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set, hide_default_value = true)]
    pub(crate) debug: bool,
    /// Append the log to this file instead of standard error.
    #[arg(short = 'l', long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Log to standard error as well when `--log` names a file.
    #[arg(long, value_parser = boolish(), num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set, hide_default_value = true)]
    pub(crate) alsologtostderr: bool,
    /// Lines for people or one JSON object per line.
    #[arg(long, env = "TRIVET_LOG_FORMAT", value_enum, default_value_t = LogFormat::Human)]
    pub(crate) log_format: LogFormat,
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Human,
    /// For machines.
    Json,
}

/// Where the cluster is and how to prove membership.
#[derive(Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct JoinArgs {
    /// Secret that servers and agents join with: a password or the full K10… form. Prefer
    /// the environment or --token-file: command lines can be read by others.
    #[arg(
        short = 't',
        long,
        env = "K3S_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub(crate) token: Option<String>,
    /// File that holds the token; beats --token.
    #[arg(long, env = "K3S_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A server of the cluster to join: https://host:6443.
    #[arg(short = 's', long, env = "K3S_URL", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Directory for all state [default: /var/lib/rancher/k3s, or ~/.rancher/k3s if not root].
    #[arg(short = 'd', long, env = "K3S_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Settings file; drop-ins are read from FILE.d/*.yaml.
    #[arg(short = 'c', long, env = "K3S_CONFIG_FILE", value_name = "FILE", default_value = crate::config_file::DEFAULT_PATH)]
    pub(crate) config: PathBuf,
}

// The token must not reach a log through `{:?}`.
impl std::fmt::Debug for JoinArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinArgs")
            .field("token", &self.token.as_ref().map(|_| "********"))
            .field("token_file", &self.token_file)
            .field("server", &self.server)
            .field("data_dir", &self.data_dir)
            .field("config", &self.config)
            .finish()
    }
}

/// The node this process registers.
#[derive(Debug, Args)]
#[command(next_help_heading = "Node")]
pub(crate) struct NodeArgs {
    /// Name of the node [default: the host name].
    #[arg(long, env = "K3S_NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Append a random identity to the node name, so that equal host names can join.
    #[arg(long, value_parser = boolish(), num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set, hide_default_value = true)]
    pub(crate) with_node_id: bool,
    /// Addresses of the node; the first is also the datastore's [default: the address of the
    /// default route].
    #[arg(short = 'i', long, value_delimiter = ',', value_name = "IP")]
    pub(crate) node_ip: Vec<IpAddr>,
    /// Addresses of the node as others outside see them.
    #[arg(long, value_delimiter = ',', value_name = "IP")]
    pub(crate) node_external_ip: Vec<IpAddr>,
    /// Labels for the node.
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE")]
    pub(crate) node_label: Vec<String>,
    /// Taints for the node.
    #[arg(long, value_delimiter = ',', value_name = "KEY[=VALUE]:EFFECT")]
    pub(crate) node_taint: Vec<String>,
    /// Port of the client-side load balancer on 127.0.0.1.
    #[arg(
        long,
        env = "K3S_LB_SERVER_PORT",
        default_value_t = 6444,
        value_name = "PORT"
    )]
    pub(crate) lb_server_port: u16,
    /// Directory of the node's own password and identity.
    #[arg(
        long,
        env = "TRIVET_NODE_DIR",
        value_name = "DIR",
        hide_short_help = true
    )]
    pub(crate) node_identity_dir: Option<PathBuf>,
}

/// `trivet agent`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    pub(crate) join: JoinArgs,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) tolerated: ToleratedArgs,
    /// Local address the load balancer listens on.
    #[arg(
        long,
        value_name = "IP",
        default_value = "127.0.0.1",
        hide_short_help = true
    )]
    pub(crate) lb_bind_address: IpAddr,
}
