//! `cargo xtask test-matrix`: every test of the project in cells, one table at the end.
//!
//! A cell passes when its tests pass *and* there were some: a selection that matches nothing is
//! a failure, not a success.

mod artifacts;
mod cells;
mod report;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build;
use artifacts::Artifact;
use cells::{Cell, Select};
use report::{Outcome, Row};

/// Options of the matrix.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Short profiles of the random and fault tests, unoptimised: what CI runs, and the default.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Long profiles of the random and fault tests, optimised: for nights and releases.
    #[arg(long)]
    full: bool,
    /// Only cells whose name contains this text (see --list).
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// List the cells and end.
    #[arg(long)]
    list: bool,
    /// Also write the table as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seed of the random tests [default: a new one, printed].
    #[arg(long)]
    seed: Option<u64>,
}

impl Options {
    pub(crate) fn quick() -> Self {
        Self {
            quick: true,
            ..Self::default()
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let cells = cells::all();
    let wanted = |cell: &&Cell| {
        options
            .only
            .as_ref()
            .is_none_or(|text| cell.name().contains(text.as_str()))
    };
    let chosen: Vec<&Cell> = cells.iter().filter(wanted).collect();
    if options.list {
        for cell in &chosen {
            println!("{}", cell.name());
        }
        return Ok(());
    }
    if chosen.is_empty() {
        bail!("no cell matches; see --list");
    }
    let seed = options.seed.unwrap_or_else(fresh_seed);
    println!("seed {seed}: repeat with --seed {seed}");
    let logs = build::target_dir().join("matrix");
    fs::create_dir_all(&logs)?;
    let needs_tests =
        |cell: &&Cell| matches!(cell.select, Select::Crates(_) | Select::Named { .. });
    let artifacts = match chosen.iter().any(needs_tests) {
        true => artifacts::build_all(options.full)?,
        false => Vec::new(),
    };

    let mut rows = Vec::new();
    for (number, cell) in chosen.iter().enumerate() {
        println!("\n== {}/{}  {}", number + 1, chosen.len(), cell.name());
        let commands = commands(cell, &cells, &artifacts);
        rows.push(run_cell(cell, commands, !options.full, seed, &logs)?);
    }

    report::print(&rows);
    if let Some(path) = &options.json {
        fs::write(path, report::json(&rows, seed)?)?;
    }
    let failed: Vec<&Row> = rows
        .iter()
        .filter(|row| row.outcome != Outcome::Passed)
        .collect();
    if let Some(first) = failed.first() {
        bail!(
            "{} of {} cells failed; repeat the first with: cargo xtask test-matrix{} --only '{}' --seed {seed}",
            failed.len(),
            rows.len(),
            if options.full { " --full" } else { "" },
            first.name
        );
    }
    Ok(())
}

/// The runs that make up a cell.
fn commands(cell: &Cell, all: &[Cell], artifacts: &[Artifact]) -> Vec<Command> {
    let start = |artifact: &Artifact| {
        let mut command = Command::new(&artifact.program);
        command.current_dir(&artifact.directory).arg("--nocapture");
        command
    };
    match &cell.select {
        Select::Crates(crates) => artifacts
            .iter()
            .filter(|artifact| crates.contains(&artifact.package.as_str()))
            .filter_map(|artifact| {
                let mut command = start(artifact);
                // What other cells name is theirs.
                for other in all {
                    if let Select::Named {
                        package,
                        target,
                        prefixes,
                    } = other.select
                        && artifact.package == package
                        && artifact.target == target
                    {
                        if prefixes.is_empty() {
                            return None;
                        }
                        for prefix in prefixes {
                            command.args(["--skip", prefix]);
                        }
                    }
                }
                Some(command)
            })
            .collect(),
        Select::Named {
            package,
            target,
            prefixes,
        } => artifacts
            .iter()
            .filter(|artifact| artifact.package == *package && artifact.target == *target)
            .map(|artifact| {
                let mut command = start(artifact);
                command.args(*prefixes);
                command
            })
            .collect(),
        Select::Rules => Vec::new(),
        Select::Cargo(arguments) => {
            let mut command = build::cargo();
            command.args(*arguments).env("RUSTDOCFLAGS", "-D warnings");
            vec![command]
        }
        Select::Doc => {
            let mut command = build::cargo();
            command.args(["test", "--workspace", "--locked", "--doc", "--quiet"]);
            vec![command]
        }
    }
}

fn run_cell(
    cell: &Cell,
    commands: Vec<Command>,
    quick: bool,
    seed: u64,
    logs: &Path,
) -> Result<Row> {
    let log = logs.join(format!("{}.log", cell.name().replace([' ', '/'], "_")));
    let mut log_file = fs::File::create(&log)?;
    let start = Instant::now();
    let (mut passed, mut failed, mut broken) = (0, 0, false);
    for mut command in commands {
        command
            .env("TRIVET_TEST_SEED", seed.to_string())
            .env("TRIVET_TESTKIT_SEED", seed.to_string())
            .env("PROPTEST_RNG_SEED", seed.to_string())
            .env("TRIVET_TEST_PROFILE", if quick { "quick" } else { "full" })
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file.try_clone()?);
        let mut child = command.spawn().context("cannot start a test program")?;
        let output = child.stdout.take().context("the pipe was asked for")?;
        for line in BufReader::new(output).lines() {
            let line = line?;
            writeln!(log_file, "{line}")?;
            if let Some((ok, bad)) = report::parse_result(&line) {
                passed += ok;
                failed += bad;
                println!("   {line}");
            } else if line.contains("... FAILED") || line.starts_with("data and logs of") {
                println!("   {line}");
            }
        }
        let success = child.wait()?.success();
        broken |= !success;
        if success && matches!(cell.select, Select::Cargo(_)) {
            passed += 1;
        }
    }
    if matches!(cell.select, Select::Rules) {
        match crate::tidy::run() {
            Ok(()) => passed += 1,
            Err(error) => {
                broken = true;
                println!("   {error}");
            }
        }
    }
    let outcome = match (broken || failed > 0, passed) {
        (true, _) => Outcome::Failed,
        (false, 0) => Outcome::Empty,
        (false, _) => Outcome::Passed,
    };
    if outcome == Outcome::Failed {
        println!("   --- end of {}", log.display());
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(60)..] {
            println!("   {line}");
        }
    }
    Ok(Row {
        name: cell.name(),
        backend: cell.backend,
        topology: cell.topology,
        suite: cell.suite,
        outcome,
        passed,
        failed,
        elapsed: start.elapsed(),
        log,
    })
}

fn fresh_seed() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_nanos() as u64
        % 1_000_000_000
}
