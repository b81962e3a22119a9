//! One build of every test; then the executables are run as often as cells want them.
//!
//! Building once for the whole workspace matters: asked crate by crate, cargo would choose other
//! features of the dependencies each time and build them again.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::build;

/// A test executable.
#[derive(Debug, Clone)]
pub(crate) struct Artifact {
    pub(crate) package: String,
    pub(crate) target: String,
    pub(crate) program: PathBuf,
    /// Tests expect to run in their crate's directory.
    pub(crate) directory: PathBuf,
}

/// Builds every test of the workspace.
pub(crate) fn build_all(release: bool) -> Result<Vec<Artifact>> {
    println!(
        "building every test{} …",
        if release { " (release)" } else { "" }
    );
    let start = Instant::now();
    let mut command = build::cargo();
    command
        .args([
            "test",
            "--workspace",
            "--locked",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ])
        .stdout(Stdio::piped());
    if release {
        command.arg("--release");
    }
    let output = command
        .spawn()
        .context("cannot start cargo")?
        .wait_with_output()?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let found: Vec<Artifact> = String::from_utf8(output.stdout)?
        .lines()
        .filter_map(artifact)
        .collect();
    println!(
        "built {} test programs in {:.0} s",
        found.len(),
        start.elapsed().as_secs_f64()
    );
    Ok(found)
}

fn artifact(line: &str) -> Option<Artifact> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let manifest = PathBuf::from(message["manifest_path"].as_str()?);
    let directory = manifest.parent()?.to_owned();
    // Packages are named after their directories, with a prefix except for xtask.
    let folder = directory.file_name()?.to_str()?.to_owned();
    let package = if folder == "xtask" {
        folder
    } else {
        format!("trivet-{folder}")
    };
    Some(Artifact {
        package,
        target: message["target"]["name"].as_str()?.to_owned(),
        program: message["executable"].as_str()?.into(),
        directory,
    })
}
