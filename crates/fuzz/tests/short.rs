//! A short run over every target.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::time::Duration;

use trivet_fuzz::{run, targets};

#[test]
fn nothing_falls_over() {
    let given = std::env::var("TRIVET_TEST_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let full = std::env::var("TRIVET_TEST_PROFILE").is_ok_and(|profile| profile == "full");
    let length = Duration::from_millis(if full { 60_000 } else { 1500 });
    for target in &mut targets(None).unwrap() {
        let report = run(target, seed, length);
        eprintln!("{}: {} inputs", target.name, report.inputs);
        if let Some(finding) = report.finding {
            panic!(
                "{} (seed {seed}): {}\ninput: {}",
                target.name,
                finding.what,
                finding.input.escape_ascii()
            );
        }
        assert!(report.inputs > target.corpus.len() / 2);
    }
}
