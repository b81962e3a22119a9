//! Feeding a target.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use trivet_etcd_diff::Dice;

use crate::{Target, mutate};

/// An input that takes longer is a finding.
pub const SLOW: Duration = Duration::from_secs(5);

/// An input that makes the process larger by this is a finding.
pub const LARGE_KIB: u64 = 256 * 1024;

/// What went wrong.
#[derive(Debug)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// What happened.
    pub what: String,
}

/// What came of feeding a target.
#[derive(Debug, Default)]
pub struct Report {
    /// Inputs that were fed.
    pub inputs: usize,
    /// At most one: the first.
    pub finding: Option<Finding>,
}

/// Feeds real inputs, then mutated ones, for this long or until something is found.
pub fn run(target: &mut Target, seed: u64, length: Duration) -> Report {
    let mut dice = Dice::new(seed);
    let mut report = Report::default();
    let start = Instant::now();
    let real = target.corpus.clone();
    for input in &real {
        report.inputs += 1;
        if let Some(what) = feed(target, input) {
            report.finding = Some(Finding {
                input: input.clone(),
                what,
            });
            return report;
        }
    }
    while start.elapsed() < length {
        let input = mutate(&mut dice, &real);
        report.inputs += 1;
        if let Some(what) = feed(target, &input) {
            report.finding = Some(Finding { input, what });
            break;
        }
    }
    report
}

/// What is wrong with this input, if anything.
fn feed(target: &mut Target, input: &[u8]) -> Option<String> {
    let (start, before) = (Instant::now(), peak_kib());
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.read)(input)));
    let elapsed = start.elapsed();
    let grown = peak_kib().saturating_sub(before);
    if let Err(panic) = outcome {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("?");
        return Some(format!("panic: {text}"));
    }
    if elapsed > SLOW {
        return Some(format!("took {elapsed:?}"));
    }
    (grown > LARGE_KIB).then(|| format!("grew by {grown} KiB"))
}

/// The most memory that the process ever had, where that can be told.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(read: fn(&[u8])) -> Target {
        Target {
            name: "planted",
            corpus: vec![b"a good input".to_vec()],
            read: Box::new(read),
        }
    }

    #[test]
    fn planted_faults_are_found() {
        let length = Duration::from_secs(5);
        let mut panics = target(|input| assert!(!input.contains(&0xff), "planted"));
        let found = run(&mut panics, 1, length).finding.expect("a finding");
        assert_eq!(found.what, "panic: planted");
        assert!(found.input.contains(&0xff));
        let mut grows = target(|input| {
            if input.len() < 4 {
                std::hint::black_box(vec![1_u8; 400 << 20]);
            }
        });
        let found = run(&mut grows, 1, length).finding.expect("a finding");
        assert!(found.what.starts_with("grew by"), "{}", found.what);
        let mut fine = target(|_| {});
        let report = run(&mut fine, 1, Duration::from_millis(50));
        assert!(report.finding.is_none() && report.inputs > 100);
    }
}
