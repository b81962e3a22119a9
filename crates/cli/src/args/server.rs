//! `trivet server`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::{DatastoreKind, JoinArgs, LogArgs, NodeArgs, ToleratedArgs, boolish};

/// `trivet server`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) join: JoinArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) listener: ListenerArgs,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) tolerated: ToleratedArgs,
}

/// The cluster and its store.
#[derive(Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// Found a new cluster. Harmless on later starts: existing data is always resumed.
    #[arg(long, env = "K3S_CLUSTER_INIT", value_parser = boolish(), num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set, hide_default_value = true)]
    pub(crate) cluster_init: bool,
    /// Secret for agents only [default: the token].
    #[arg(
        long,
        env = "K3S_AGENT_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub(crate) agent_token: Option<String>,
    /// File that holds the agent token; beats --agent-token.
    #[arg(long, env = "K3S_AGENT_TOKEN_FILE", value_name = "FILE")]
    pub(crate) agent_token_file: Option<PathBuf>,
    /// Where the cluster's data lives.
    #[arg(long, env = "TRIVET_DATASTORE", value_enum, default_value_t = DatastoreKind::Etcd)]
    pub(crate) datastore: DatastoreKind,
    /// Interval of the store's heartbeats, in milliseconds.
    #[arg(long, default_value_t = 100, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=10_000), hide_short_help = true)]
    pub(crate) heartbeat_interval: u64,
    /// How long a follower waits before it stands for election, in milliseconds; at least five
    /// heartbeats.
    #[arg(long, default_value_t = 600, value_name = "MS", value_parser = clap::value_parser!(u64).range(50..=100_000), hide_short_help = true)]
    pub(crate) election_timeout: u64,
    /// How long a first join tries to reach the server before it gives up, in seconds.
    #[arg(
        long,
        default_value_t = 20,
        value_name = "SECONDS",
        hide_short_help = true
    )]
    pub(crate) join_timeout: u64,
}

// The agent token must not reach a log through `{:?}`.
impl std::fmt::Debug for ClusterArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterArgs")
            .field("cluster_init", &self.cluster_init)
            .field(
                "agent_token",
                &self.agent_token.as_ref().map(|_| "********"),
            )
            .field("agent_token_file", &self.agent_token_file)
            .field("datastore", &self.datastore)
            .finish_non_exhaustive()
    }
}

/// Where the server listens and under which names it answers.
#[derive(Debug, Args)]
#[command(next_help_heading = "Listeners")]
pub(crate) struct ListenerArgs {
    /// Address of every listener of this server, the datastore's included [default: all for
    /// 6443; node address and loopback for 2379 and 2380].
    #[arg(long, value_name = "IP")]
    pub(crate) bind_address: Option<IpAddr>,
    /// Port of the supervisor and the Kubernetes API.
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    pub(crate) https_listen_port: u16,
    /// Address that others reach this server's API at [default: node-external-ip, node-ip].
    #[arg(long, value_name = "IP")]
    pub(crate) advertise_address: Option<IpAddr>,
    /// Port that others reach this server's API at [default: https-listen-port].
    #[arg(long, value_name = "PORT")]
    pub(crate) advertise_port: Option<u16>,
    /// More names and addresses for the server certificates.
    #[arg(long, value_delimiter = ',', value_name = "NAME|IP")]
    pub(crate) tls_san: Vec<String>,
}

/// Cluster network: must be the same on every server.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster network (the same on every server)")]
pub(crate) struct NetworkArgs {
    /// Addresses for pods.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10.42.0.0/16",
        value_name = "CIDR"
    )]
    pub(crate) cluster_cidr: Vec<String>,
    /// Addresses for services.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10.43.0.0/16",
        value_name = "CIDR"
    )]
    pub(crate) service_cidr: Vec<String>,
    /// Address of the cluster's DNS service [default: the tenth of service-cidr].
    #[arg(long, value_name = "IP")]
    pub(crate) cluster_dns: Option<IpAddr>,
    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub(crate) cluster_domain: String,
    /// Pod network; recorded and compared between servers, pods are not run here.
    #[arg(long, default_value = "vxlan", value_name = "NAME")]
    pub(crate) flannel_backend: String,
    /// Egress mode; recorded and compared between servers.
    #[arg(long, default_value = "agent", value_name = "MODE")]
    pub(crate) egress_selector_mode: String,
    /// Packaged components to leave out; recorded and compared between servers.
    #[arg(long, value_delimiter = ',', value_name = "COMPONENT")]
    pub(crate) disable: Vec<String>,
    /// Recorded and compared between servers.
    #[arg(long, value_parser = boolish(), num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set, hide_default_value = true, hide_short_help = true)]
    pub(crate) disable_cloud_controller: bool,
    /// Recorded and compared between servers.
    #[arg(long, value_parser = boolish(), num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set, hide_default_value = true, hide_short_help = true)]
    pub(crate) disable_helm_controller: bool,
    /// Recorded and compared between servers.
    #[arg(long, value_parser = boolish(), num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set, hide_default_value = true, hide_short_help = true)]
    pub(crate) disable_network_policy: bool,
    /// Recorded and compared between servers.
    #[arg(long, value_parser = boolish(), num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set, hide_default_value = true, hide_short_help = true)]
    pub(crate) flannel_ipv6_masq: bool,
    /// Recorded and compared between servers.
    #[arg(long, value_parser = boolish(), num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set, hide_default_value = true, hide_short_help = true)]
    pub(crate) flannel_external_ip: bool,
    /// Recorded and compared between servers.
    #[arg(long, value_parser = boolish(), num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set, hide_default_value = true, hide_short_help = true)]
    pub(crate) embedded_registry: bool,
    /// Recorded and compared between servers.
    #[arg(long, value_parser = boolish(), num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set, hide_default_value = true, hide_short_help = true)]
    pub(crate) supervisor_metrics: bool,
    /// Run no node on this server.
    #[arg(long, value_parser = boolish(), num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = clap::ArgAction::Set, hide_default_value = true)]
    pub(crate) disable_agent: bool,
}

/// The administrator's kubeconfig.
#[derive(Debug, Args)]
#[command(next_help_heading = "Kubeconfig")]
pub(crate) struct OutputArgs {
    /// Where to write it [default: /etc/rancher/k3s/k3s.yaml, or ~/.kube/k3s.yaml if not root].
    #[arg(short = 'o', long, env = "K3S_KUBECONFIG_OUTPUT", value_name = "FILE")]
    pub(crate) write_kubeconfig: Option<PathBuf>,
    /// Its mode, in octal.
    #[arg(
        long,
        env = "K3S_KUBECONFIG_MODE",
        default_value = "0600",
        value_name = "MODE"
    )]
    pub(crate) write_kubeconfig_mode: String,
}
