//! `cargo xtask fuzz`: mutated real inputs for everything that reads.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::build;

/// Options of the fuzzer. It is not guided by coverage.
#[derive(Args)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Repeats a run [default: a new one, printed].
    #[arg(long)]
    seed: Option<u64>,
    /// Only this one.
    target: Option<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    build::run(build::cargo().args(["build", "--locked", "-p", "trivet-fuzz"]))?;
    let mut command = Command::new(build::target_dir().join("debug/trivet-fuzz"));
    command.args(["--seconds", &options.seconds.to_string()]);
    if let Some(seed) = options.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    command.args(&options.target);
    build::run(&mut command)
}
