//! `trivet server`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use trivet_agent::{Agent, AgentConfig, Connection, NodeConfig};
use trivet_core::{ControlPlane, ControlPlaneBuilder, Running};
use trivet_env::Env;
use trivet_join::ClusterSettings;

use crate::args::{DatastoreKind, NetworkArgs, ServerArgs, refused_variable};
use crate::failure::Failure;
use crate::{backend, logging, node, paths, signals};

/// Threads that run futures. Disk and consensus have threads of their own.
const WORKER_THREADS: usize = 4;

/// Everything that is decided before the first byte is read from disk or network.
struct Plan {
    control_plane: ControlPlaneBuilder,
    node: NodeConfig,
    data_dir: PathBuf,
    identity_dir: PathBuf,
    run_agent: bool,
    env: Env,
}

pub(crate) fn run(args: &ServerArgs, shown_arguments: Vec<String>) -> Result<(), Failure> {
    logging::install(&args.log).map_err(Failure::other)?;
    if let Some(problem) = refused_variable(|name| std::env::var_os(name)) {
        return Err(Failure::usage(problem));
    }
    node::warn_tolerated(&args.tolerated);
    let plan = plan(args, shown_arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(
            std::thread::available_parallelism()
                .map_or(1, usize::from)
                .clamp(2, WORKER_THREADS),
        )
        .enable_all()
        .build()
        .map_err(Failure::other)?;
    runtime.block_on(serve(plan))
}

fn plan(args: &ServerArgs, shown_arguments: Vec<String>) -> Result<Plan, Failure> {
    let env = Env::real();
    let data_dir = paths::data_dir(args.join.data_dir.as_deref());
    let identity_dir = node::identity_dir(&args.node, &data_dir);
    check(args)?;

    let node = node::config(&args.node, &identity_dir, shown_arguments, &env)?;
    let bind = args
        .listener
        .bind_address
        .unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let mut builder = ControlPlane::builder()
        .data_dir(&data_dir)
        .backend(backend::chosen(args.cluster.datastore))
        .bind(bind, args.listener.https_listen_port)
        .advertise(advertised(args), args.listener.advertise_port)
        .node_name(&node.name)
        .node_ip(node.internal_ips.clone())
        .tls_san(args.listener.tls_san.clone())
        .cluster_init(args.cluster.cluster_init)
        .settings(settings(&args.network))
        .write_kubeconfig(
            paths::kubeconfig(args.output.write_kubeconfig.as_deref()),
            kubeconfig_mode(&args.output.write_kubeconfig_mode)?,
        )
        .node_dir(&identity_dir)
        .heartbeat(Duration::from_millis(args.cluster.heartbeat_interval))
        .election_timeout(Duration::from_millis(args.cluster.election_timeout))
        .join_timeout(Duration::from_secs(args.cluster.join_timeout))
        .env(env.clone());
    for other in backend::all() {
        builder = builder.probe(other);
    }
    let join = &args.join;
    if let Some(token) = node::secret("token", join.token.as_deref(), join.token_file.as_deref())? {
        builder = builder.token(token);
    }
    let cluster = &args.cluster;
    let agent_token = node::secret(
        "agent-token",
        cluster.agent_token.as_deref(),
        cluster.agent_token_file.as_deref(),
    )?;
    if let Some(token) = agent_token {
        builder = builder.agent_token(token);
    }
    if let Some(url) = &args.join.server {
        builder = builder.server_url(url);
    }
    Ok(Plan {
        control_plane: builder,
        node,
        data_dir,
        identity_dir,
        run_agent: !args.network.disable_agent,
        env,
    })
}

/// Combinations that cannot be meant.
fn check(args: &ServerArgs) -> Result<(), Failure> {
    if args.cluster.election_timeout < 5 * args.cluster.heartbeat_interval {
        return Err(Failure::usage(format!(
            "--election-timeout {} is too short for --heartbeat-interval {}: at least five \
             heartbeats must fit in, or leaders are deposed without need",
            args.cluster.election_timeout, args.cluster.heartbeat_interval
        )));
    }
    if args.cluster.datastore == DatastoreKind::Memory && args.join.server.is_some() {
        return Err(Failure::usage(
            "--datastore memory cannot be shared between servers: leave out --server, or use \
             --datastore etcd",
        ));
    }
    Ok(())
}

async fn serve(plan: Plan) -> Result<(), Failure> {
    let stop = signals::stop_token().map_err(Failure::other)?;
    let control_plane = plan.control_plane.build().map_err(Failure::usage)?;
    let running = tokio::select! {
        started = control_plane.start() => started?,
        () = stop.cancelled() => return Ok(()),
    };
    tracing::info!(
        url = %running.url(),
        kubeconfig = %running.kubeconfig_path().unwrap_or(Path::new("none")).display(),
        "the server is up"
    );
    let mut agent = None;
    if plan.run_agent {
        let config = AgentConfig {
            server_url: running.url(),
            token: running.agent_token(),
            data_dir: plan.data_dir,
            identity_dir: plan.identity_dir,
            node: plan.node,
            connection: Connection::Direct,
        };
        tokio::select! {
            started = start_agent(&running, config, plan.env) => match started {
                Ok(started) => agent = Some(started),
                Err(failure) => {
                    running.shutdown().await;
                    return Err(failure);
                }
            },
            () = stop.cancelled() => {}
        }
    }
    stop.cancelled().await;
    if let Some(agent) = agent {
        agent.shutdown().await;
    }
    running.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// The server's own node: it needs the API, which needs a quorum, which is waited for.
async fn start_agent(running: &Running, config: AgentConfig, env: Env) -> Result<Agent, Failure> {
    running.ready().await;
    Ok(Agent::start(config, env).await?)
}

fn advertised(args: &ServerArgs) -> Option<IpAddr> {
    args.listener
        .advertise_address
        .or_else(|| args.node.node_external_ip.first().copied())
}

fn settings(args: &NetworkArgs) -> ClusterSettings {
    ClusterSettings {
        cluster_cidr: args.cluster_cidr.clone(),
        service_cidr: args.service_cidr.clone(),
        cluster_dns: args.cluster_dns.iter().map(IpAddr::to_string).collect(),
        cluster_domain: args.cluster_domain.clone(),
        flannel_backend: args.flannel_backend.clone(),
        flannel_ipv6_masq: args.flannel_ipv6_masq,
        flannel_external_ip: args.flannel_external_ip,
        egress_selector_mode: args.egress_selector_mode.clone(),
        disable_cloud_controller: args.disable_cloud_controller,
        disable_helm_controller: args.disable_helm_controller,
        disable_network_policy: args.disable_network_policy,
        disable_service_lb: args
            .disable
            .iter()
            .any(|component| component == "servicelb"),
        embedded_registry: args.embedded_registry,
        supervisor_metrics: args.supervisor_metrics,
        // Refused by name in settings files and unknown as a flag until it does something.
        secrets_encryption: false,
    }
}

fn kubeconfig_mode(text: &str) -> Result<u32, Failure> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !0o777 == 0 => Ok(mode),
        _ => Err(Failure::usage(format!(
            "--write-kubeconfig-mode {text:?}: write an octal mode such as 0600"
        ))),
    }
}
