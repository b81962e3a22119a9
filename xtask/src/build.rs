//! Building what the other commands run.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or(manifest.clone(), Path::to_owned)
}

/// A cargo command in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Where cargo puts its output.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Builds the release binary and says how long it took.
pub(crate) fn trivet() -> Result<PathBuf> {
    println!("building trivet (release) …");
    let start = Instant::now();
    run(cargo().args(["build", "--release", "--locked", "--package", "trivet-cli"]))?;
    let binary = target_dir().join("release/trivet");
    println!(
        "built in {:.0} s: {}",
        start.elapsed().as_secs_f64(),
        binary.display()
    );
    Ok(binary)
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!("{:?} ended with {status}", command);
    }
    Ok(())
}
