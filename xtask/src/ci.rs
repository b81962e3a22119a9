//! `cargo xtask ci`: cheap checks first, then the quick matrix.

use anyhow::Result;

use crate::{build, matrix, tidy};

pub(crate) fn run() -> Result<()> {
    tidy::run()?;
    println!("== formatting");
    build::run(build::cargo().args(["fmt", "--all", "--check"]))?;
    println!("== lints");
    build::run(build::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;
    println!("== documentation");
    build::run(
        build::cargo()
            .args(["doc", "--workspace", "--no-deps", "--locked", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    matrix::run(&matrix::Options::quick())
}
