//! `cargo xtask test-matrix`: every test of the project in cells, one table at the end.
//!
//! A cell is one cargo test run. It passes when the run succeeds *and* executed something: a
//! filter that matches nothing is a failure, not a success.

mod cells;
mod report;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build;
use cells::Cell;
use report::{Outcome, Row};

/// Options of the matrix.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Short profiles of the random and fault tests: what CI runs.
    #[arg(long)]
    quick: bool,
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
    let cells: Vec<Cell> = cells::all()
        .into_iter()
        .filter(|cell| {
            options
                .only
                .as_ref()
                .is_none_or(|text| cell.name().contains(text.as_str()))
        })
        .collect();
    if options.list {
        for cell in &cells {
            println!("{}", cell.name());
        }
        return Ok(());
    }
    if cells.is_empty() {
        bail!("no cell matches; see --list");
    }
    let seed = options.seed.unwrap_or_else(fresh_seed);
    println!("seed {seed}: repeat with --seed {seed}");
    let logs = build::target_dir().join("matrix");
    fs::create_dir_all(&logs)?;

    let mut rows = Vec::new();
    for (number, cell) in cells.iter().enumerate() {
        println!("\n== {}/{}  {}", number + 1, cells.len(), cell.name());
        rows.push(run_cell(cell, options.quick, seed, &logs)?);
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
            "{} of {} cells failed; repeat the first with: cargo xtask test-matrix --only '{}' --seed {seed}",
            failed.len(),
            rows.len(),
            first.name
        );
    }
    Ok(())
}

fn run_cell(cell: &Cell, quick: bool, seed: u64, logs: &std::path::Path) -> Result<Row> {
    let log = logs.join(format!("{}.log", cell.name().replace([' ', '/', ','], "_")));
    let mut log_file = fs::File::create(&log)?;
    let start = Instant::now();
    let mut command = build::cargo();
    command
        .args(cell.cargo_arguments())
        .env("TRIVET_TEST_SEED", seed.to_string())
        .env("TRIVET_TEST_PROFILE", if quick { "quick" } else { "full" })
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    // Compiler messages and panics of tests go where they always go; results are counted.
    let mut child = command.spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("the pipe was asked for")?;
    let (mut passed, mut failed) = (0, 0);
    for line in BufReader::new(output).lines() {
        let line = line?;
        writeln!(log_file, "{line}")?;
        if let Some((ok, bad)) = report::parse_result(&line) {
            passed += ok;
            failed += bad;
        }
        if !line.is_empty() && !line.ends_with("... ok") {
            println!("   {line}");
        }
    }
    let status = child.wait()?;
    let outcome = if !status.success() {
        Outcome::Failed
    } else if passed == 0 {
        Outcome::Empty
    } else {
        Outcome::Passed
    };
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
