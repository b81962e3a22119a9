//! `trivet agent`.

use std::net::SocketAddr;

use trivet_agent::{Agent, AgentConfig, Connection};
use trivet_env::Env;

use crate::args::AgentArgs;
use crate::failure::Failure;
use crate::{logging, node, paths, signals};

pub(crate) fn run(args: &AgentArgs, shown_arguments: Vec<String>) -> Result<(), Failure> {
    logging::install(&args.log).map_err(Failure::other)?;
    node::warn_tolerated(&args.tolerated);
    let server_url = args.join.server.clone().ok_or_else(|| {
        Failure::usage(
            "which cluster? pass --server https://HOST:6443 (or set K3S_URL) with any of its servers",
        )
    })?;
    let env = Env::real();
    let data_dir = paths::data_dir(args.join.data_dir.as_deref());
    let identity_dir = node::identity_dir(&args.node, &data_dir);
    let config = AgentConfig {
        server_url,
        token: node::required_token(&args.join)?,
        node: node::config(&args.node, &identity_dir, shown_arguments, &env)?,
        data_dir,
        identity_dir,
        connection: Connection::Balanced {
            listen: SocketAddr::new(args.lb_bind_address, args.node.lb_server_port),
        },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failure::other)?;
    runtime.block_on(serve(config, env))
}

async fn serve(config: AgentConfig, env: Env) -> Result<(), Failure> {
    let stop = signals::stop_token().map_err(Failure::other)?;
    tracing::info!(node = %config.node.name, server = %config.server_url, "starting an agent");
    let agent = tokio::select! {
        started = Agent::start(config, env) => started?,
        () = stop.cancelled() => return Ok(()),
    };
    stop.cancelled().await;
    agent.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}
