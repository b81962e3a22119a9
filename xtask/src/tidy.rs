//! `cargo xtask tidy`: rules that review should not have to enforce.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build;

/// A source file longer than this holds more than one concept.
const LINES_LIMIT: usize = 600;

/// Words that say "not finished". Split so that this file does not find itself.
const UNFINISHED: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK:"),
    concat!("#[ig", "nore"),
];

pub(crate) fn run() -> Result<()> {
    let root = build::root();
    let mut findings = Vec::new();
    for path in tracked(&root)? {
        let generated = path
            .components()
            .any(|part| part.as_os_str() == "generated");
        if path.extension().is_some_and(|ending| ending == "rs") && !generated {
            check_source(&root, &path, &mut findings)?;
        }
    }
    check_documents(&root, &mut findings)?;
    if findings.is_empty() {
        println!("== project rules: nothing found");
        return Ok(());
    }
    for finding in &findings {
        println!("{finding}");
    }
    bail!("{} findings", findings.len())
}

/// The files that git knows.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root)
        .output()?;
    if !output.status.success() {
        bail!("git ls-files failed: the rules are checked on a git checkout");
    }
    Ok(String::from_utf8(output.stdout)?
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|path| root.join(path).is_file())
        .collect())
}

fn check_source(root: &Path, path: &Path, findings: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(root.join(path)).with_context(|| path.display().to_string())?;
    let lines = text.lines().count();
    if lines > LINES_LIMIT {
        findings.push(format!(
            "{}: {lines} lines; split by concept",
            path.display()
        ));
    }
    for (number, line) in text.lines().enumerate() {
        for word in UNFINISHED {
            if line.contains(word) {
                findings.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    Ok(())
}

/// Every crate has its paragraph in the map.
fn check_documents(root: &Path, findings: &mut Vec<String>) -> Result<()> {
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    for entry in fs::read_dir(root.join("crates"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !map.contains(&format!("`crates/{name}`")) {
            findings.push(format!("ARCHITECTURE.md does not mention `crates/{name}`"));
        }
    }
    for name in ["README.md", "LICENSE", ".ci/run"] {
        if !root.join(name).exists() {
            findings.push(format!("{name} is missing"));
        }
    }
    Ok(())
}
