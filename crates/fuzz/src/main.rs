//! Feeds mutated real inputs to everything that reads; prints what goes wrong.
#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is its purpose

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use trivet_fuzz::{run, targets};

#[derive(Parser)]
#[command(about = "Mutated real inputs for everything that reads (not guided by coverage)")]
struct Options {
    /// Seconds for each target.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Repeats a run [default: a new one, printed].
    #[arg(long)]
    seed: Option<u64>,
    /// Only this one.
    target: Option<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(1, |since| since.as_nanos() as u64 % 1_000_000_000)
    });
    println!("seed {seed}; not guided by coverage");
    let mut targets = match targets(options.target.as_deref()) {
        Ok(targets) => targets,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut code = ExitCode::SUCCESS;
    for target in &mut targets {
        let report = run(target, seed, Duration::from_secs_f64(options.seconds));
        println!("{:<20} {:>9} inputs", target.name, report.inputs);
        if let Some(finding) = report.finding {
            println!("FOUND in {}: {}", target.name, finding.what);
            println!("  input: {}", finding.input.escape_ascii());
            println!(
                "  repeat with: cargo xtask fuzz --seed {seed} {}",
                target.name
            );
            code = ExitCode::FAILURE;
        }
    }
    code
}
