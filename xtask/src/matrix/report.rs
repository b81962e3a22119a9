//! The table at the end.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

/// How a cell ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything ran and passed.
    Passed,
    /// Something failed, or did not build.
    Failed,
    /// Nothing ran, which proves nothing.
    Empty,
}

/// One cell's result.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) backend: &'static str,
    pub(crate) topology: &'static str,
    pub(crate) suite: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) elapsed: Duration,
    pub(crate) log: PathBuf,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Failed => "FAILED",
            Self::Empty => "EMPTY",
        }
    }
}

/// Numbers of a `test result:` line: passed and failed.
pub(crate) fn parse_result(line: &str) -> Option<(u64, u64)> {
    let rest = line.trim_start().strip_prefix("test result: ")?;
    let number_before = |word: &str| {
        let (before, _) = rest.split_once(word)?;
        before.trim_end().rsplit(' ').next()?.parse().ok()
    };
    Some((number_before(" passed")?, number_before(" failed")?))
}

pub(crate) fn print(rows: &[Row]) {
    println!(
        "\n{:<14} {:<12} {:<22} {:>7} {:>7} {:>8}  result",
        "backend", "topology", "suite", "passed", "failed", "seconds"
    );
    for row in rows {
        println!(
            "{:<14} {:<12} {:<22} {:>7} {:>7} {:>8.1}  {}",
            row.backend,
            row.topology,
            row.suite,
            row.passed,
            row.failed,
            row.elapsed.as_secs_f64(),
            row.outcome.word()
        );
        if row.outcome != Outcome::Passed {
            println!("    log: {}", row.log.display());
        }
    }
    let passed: u64 = rows.iter().map(|row| row.passed).sum();
    let broken = rows
        .iter()
        .filter(|row| row.outcome != Outcome::Passed && row.failed == 0)
        .count();
    let failed: u64 = rows.iter().map(|row| row.failed).sum::<u64>() + broken as u64;
    println!("\n{passed} passed, {failed} failed");
}

pub(crate) fn json(rows: &[Row], seed: u64) -> Result<String> {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "backend": row.backend,
                "topology": row.topology,
                "suite": row.suite,
                "result": row.outcome.word(),
                "passed": row.passed,
                "failed": row.failed,
                "seconds": row.elapsed.as_secs_f64(),
            })
        })
        .collect();
    Ok(serde_json::to_string_pretty(
        &json!({ "seed": seed, "cells": rows }),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(parse_result(line), Some((12, 3)));
        assert_eq!(parse_result("running 3 tests"), None);
    }
}
