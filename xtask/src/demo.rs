//! `cargo xtask demo`: the whole cluster on one machine, until Ctrl-C.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use trivet_harness::{Cluster, ClusterOptions, Subnet, find_kubectls, wait_for_value};

use crate::build;

/// Options of the demo.
#[derive(Args)]
pub(crate) struct Options {
    /// Directory for data and logs; must not exist yet [default: a new one in the temporary
    /// directory].
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Keep data and logs afterwards.
    #[arg(long)]
    keep: bool,
    /// End as soon as every node is Ready, instead of waiting for Ctrl-C.
    #[arg(long)]
    once: bool,
}

const SERVERS: [u8; 3] = [1, 2, 3];
const AGENT: u8 = 4;
const STEP: Duration = Duration::from_secs(60);

pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = build::trivet()?;
    let scratch = match &options.scratch {
        Some(path) => path.clone(),
        None => std::env::temp_dir().join(format!("trivet-demo-{}", std::process::id())),
    };
    if scratch.exists() {
        bail!(
            "{} exists; the demo wants a directory of its own",
            scratch.display()
        );
    }
    fs::create_dir_all(&scratch)?;

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }

    let mut cluster = Cluster::new(ClusterOptions {
        binary,
        scratch: scratch.clone(),
        subnet: Subnet::PLAIN,
        token: "trivet-demo".into(),
        datastore: "etcd".into(),
    });
    let result = show(&mut cluster, options, &stop);
    println!("stopping …");
    let stopped = cluster.stop(Duration::from_secs(20));
    if options.keep || result.is_err() || stopped.is_err() {
        println!("data and logs are kept in {}", scratch.display());
    } else {
        fs::remove_dir_all(&scratch)?;
    }
    result.and(stopped)
}

fn show(cluster: &mut Cluster, options: &Options, stop: &AtomicBool) -> Result<()> {
    let start = Instant::now();
    let say = |what: &str| println!("[{:5.1} s] {what}", start.elapsed().as_secs_f64());

    say(&format!(
        "server 1 founds the cluster on {}",
        cluster.address(1)
    ));
    cluster.found()?;
    cluster.wait_ready(1, STEP)?;
    say("server 1 is ready; servers 2 and 3 and an agent join");
    for number in [2, 3] {
        cluster.join(number, 1)?;
    }
    cluster.agent(AGENT, 1)?;
    for number in [2, 3] {
        cluster.wait_ready(number, STEP)?;
        say(&format!("server {number} is ready"));
    }

    let kubeconfig = cluster.kubeconfig(1);
    let expected = SERVERS.len() + 1;
    let nodes = wait_for_value("every node to be Ready", STEP, || {
        let status = cluster.status(1)?;
        let nodes = status["nodes"]
            .as_array()
            .context("status lists no nodes")?;
        let ready = nodes.iter().filter(|node| node["ready"] == true).count();
        if ready != expected {
            bail!("{ready} of {expected} nodes are Ready");
        }
        Ok(ready)
    })?;
    say(&format!("{nodes} nodes are Ready"));

    println!("\n  export KUBECONFIG={}\n", kubeconfig.display());
    let scratch = cluster.options().scratch.clone();
    match find_kubectls().last() {
        Some(kubectl) => {
            println!("$ kubectl get nodes   ({})", kubectl.version);
            print!(
                "{}",
                kubectl.kubectl_ok(&kubeconfig, &scratch, &["get", "nodes", "-o", "wide"])?
            );
        }
        None => println!("kubectl is not on the path; any kubectl from 1.20 on will do"),
    }
    println!(
        "\nlogs: {}",
        cluster.log_path(1).with_file_name("node-*.log").display()
    );
    if options.once {
        return Ok(());
    }
    println!("Ctrl-C ends the demo and removes its data.");
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(200));
        for number in SERVERS.into_iter().chain([AGENT]) {
            let node = cluster.node(number)?;
            if let Some(status) = node.try_wait()
                && !stop.load(Ordering::Relaxed)
            {
                bail!(
                    "node {number} ended with {status}:\n{}",
                    cluster.log_tail(number)
                );
            }
        }
    }
    Ok(())
}
