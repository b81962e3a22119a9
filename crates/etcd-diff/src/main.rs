//! The same operations to our store and to a genuine etcd; prints where they differ.
#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is its purpose

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Parser;
use trivet_etcd_diff::{
    Generator, Genuine, Mismatch, Op, Ours, Report, Side, Source, find_etcd, run, shrink,
};

#[derive(Parser)]
#[command(about = "Our store beside a genuine etcd: the same operations, every answer compared")]
struct Options {
    /// How many operations.
    #[arg(long, default_value_t = 5000)]
    ops: usize,
    /// Repeats a run [default: a new one, printed].
    #[arg(long)]
    seed: Option<u64>,
    /// The genuine etcd [default: TRIVET_ETCD_DIR, or the search path].
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Stop after so many mismatches.
    #[arg(long, default_value_t = 1)]
    mismatches: usize,
    /// How many attempts to spend on the shortest run that shows a mismatch.
    #[arg(long, default_value_t = 24)]
    shrink: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    match runtime
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(compare(&options)))
    {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the two are the same.
async fn compare(options: &Options) -> Result<bool> {
    let program = options
        .etcd
        .clone()
        .or_else(find_etcd)
        .context("no etcd: name one with --etcd")?;
    let seed = options.seed.unwrap_or_else(fresh_seed);
    println!(
        "seed {seed}: repeat with --seed {seed} --ops {}",
        options.ops
    );
    let start = Instant::now();
    let generator = Box::new(Generator::new(seed));
    let source = Source::Generated(generator, options.ops);
    let report = once(&program, source, options.mismatches).await?;
    print(&report);
    println!("{:.1} s", start.elapsed().as_secs_f64());
    let Some(first) = report.mismatches.first() else {
        return Ok(true);
    };
    if options.shrink > 0 {
        let mut ops = report.ops.clone();
        ops.truncate(first.index + 1);
        println!("\nlooking for a shorter run …");
        let attempt = |ops| {
            let program = program.clone();
            async move {
                let report = once(&program, Source::Given(ops), 1).await.ok()?;
                report.mismatches.into_iter().next()
            }
        };
        if let (ops, Some(mismatch)) = shrink::shrink(ops, options.shrink, attempt).await {
            println!("{} operations are enough:", ops.len());
            tell(&ops);
            print_mismatch(&mismatch);
        }
    }
    println!("\nrepeat with --seed {seed} --ops {}", options.ops);
    Ok(false)
}

async fn once(program: &Path, source: Source, enough: usize) -> Result<Report> {
    let (genuine, ours) = tokio::try_join!(Genuine::start(program), Ours::start())?;
    let mut our_side = Side::connect(ours.address, false).await?;
    let mut their_side = Side::connect(genuine.address, true).await?;
    println!("etcd {} beside {}", their_side.version, our_side.version);
    let report = run(&mut our_side, &mut their_side, source, enough).await;
    drop((our_side, their_side));
    ours.stop().await;
    report
}

fn print(report: &Report) {
    let total: usize = report.kinds.values().sum();
    println!("{total} operations, {} events of watches", report.events);
    for (kind, count) in &report.kinds {
        println!("  {count:>6}  {kind}");
    }
    println!("refused alike:");
    for (text, count) in &report.refusals {
        println!("  {count:>6}  {text}");
    }
    println!("known differences met:");
    for (name, count) in &report.tolerated {
        println!("  {count:>6}  {name}");
    }
    for mismatch in &report.mismatches {
        print_mismatch(mismatch);
    }
    println!("{} mismatches", report.mismatches.len());
}

fn print_mismatch(mismatch: &Mismatch) {
    println!(
        "\nMISMATCH at operation {}: {}",
        mismatch.index, mismatch.op
    );
    println!("  ours:   {}", mismatch.ours);
    println!("  theirs: {}", mismatch.theirs);
}

fn tell(ops: &[Op]) {
    const MOST: usize = 40;
    let hidden = ops.len().saturating_sub(MOST);
    if hidden > 0 {
        println!("  (the first {hidden} are not shown)");
    }
    for op in &ops[hidden..] {
        let mut text = format!("{op:?}");
        if let Some((cut, _)) = text.char_indices().nth(400) {
            text.truncate(cut);
        }
        println!("  {text}");
    }
}

fn fresh_seed() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |since| since.as_nanos() as u64 % 1_000_000_000)
}
