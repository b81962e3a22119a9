//! `cargo xtask bench`: builds in release and hands over to `trivet-bench`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::build;

/// Options of the benchmarks.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Our store beside a genuine etcd, three processes each, alternating.
    Store {
        /// Where the data goes: on the disk that is to be measured [default: below target].
        #[arg(long)]
        scratch: Option<PathBuf>,
        /// Further arguments for trivet-bench (see `cargo xtask bench store -- --help`).
        #[arg(last = true)]
        rest: Vec<String>,
    },
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let What::Store { scratch, rest } = &options.what;
    build::run(build::cargo().args([
        "build",
        "--release",
        "--locked",
        "-p",
        "trivet-store-etcd",
        "--example",
        "store",
    ]))?;
    build::run(build::cargo().args(["build", "--release", "--locked", "-p", "trivet-bench"]))?;
    let scratch = scratch
        .clone()
        .unwrap_or_else(|| build::target_dir().join(format!("bench-{}", std::process::id())));
    if scratch.exists() {
        bail!(
            "{} exists; the benchmark wants a directory of its own",
            scratch.display()
        );
    }
    std::fs::create_dir_all(&scratch)?;
    let release = build::target_dir().join("release");
    let result = build::run(
        std::process::Command::new(release.join("trivet-bench"))
            .arg("--store")
            .arg(release.join("examples/store"))
            .arg("--scratch")
            .arg(&scratch)
            .args(rest),
    );
    std::fs::remove_dir_all(&scratch)?;
    result
}
