//! `cargo xtask diff-etcd`: the same operations to our store and to a genuine etcd.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::build;

/// Options of the comparison.
#[derive(Args)]
pub(crate) struct Options {
    /// How many operations.
    #[arg(long, default_value_t = 5000)]
    ops: usize,
    /// Repeats a run [default: a new one, printed].
    #[arg(long)]
    seed: Option<u64>,
    /// The genuine etcd [default: TRIVET_ETCD_DIR, or the search path].
    #[arg(long)]
    etcd: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    build::run(build::cargo().args(["build", "--locked", "-p", "trivet-etcd-diff"]))?;
    let mut command = Command::new(build::target_dir().join("debug/trivet-etcd-diff"));
    command.args(["--ops", &options.ops.to_string()]);
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if let Some(etcd) = &options.etcd {
        command.arg("--etcd").arg(etcd);
    }
    build::run(&mut command)
}
