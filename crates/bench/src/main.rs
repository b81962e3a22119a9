//! Benchmarks: our store and a genuine etcd side by side, in alternating runs.
//!
//! Both run as three local processes with durable writes. A row is measured on one, then on the
//! other, round after round; medians and their ratios are printed, because only a ratio within
//! one run says anything on a shared machine.
#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is its purpose

mod kv;
mod life;
mod load;
mod peer;
mod report;
mod rows;
mod session;
mod streams;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use peer::{Peer, PeerKind};
use session::{Plan, Session};

#[derive(Parser)]
#[command(about = "Our store beside a genuine etcd: three processes each, alternating runs")]
struct Options {
    /// The program that runs one member of our store: its example, or `trivet` (with
    /// --standalone).
    #[arg(long)]
    store: PathBuf,
    /// The store is run as `trivet etcd` with etcd's flags: plaintext between members on both
    /// sides.
    #[arg(long)]
    standalone: bool,
    /// The genuine etcd [default: the newer one of PATH and TRIVET_ETCD_DIR].
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Directory for data; on the disk that is to be measured.
    #[arg(long)]
    scratch: PathBuf,
    /// Seconds for each measurement [default: 3; with --quick 0.4].
    #[arg(long)]
    seconds: Option<f64>,
    /// Rounds; the median over them is shown [default: 3; with --quick 1].
    #[arg(long)]
    rounds: Option<usize>,
    /// Only rows whose name contains one of these texts, separated by commas; a text with a `$`
    /// at its end must be the end of the name.
    #[arg(long, alias = "only", value_delimiter = ',')]
    rows: Vec<String>,
    /// Keys that are loaded first [default: 100000; with --quick 2000].
    #[arg(long)]
    keys: Option<u64>,
    /// A short run that only shows that every row works.
    #[arg(long)]
    quick: bool,
    /// Also with a million keys of 1 KiB: memory, snapshot and restart. Takes minutes more.
    #[arg(long)]
    large: bool,
    /// Leave out the genuine etcd.
    #[arg(long)]
    alone: bool,
    /// Form of the result on standard output; the progress goes to standard error with json.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Also write the result as JSON to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    let kind = if options.standalone {
        PeerKind::Standalone
    } else {
        PeerKind::Example
    };
    let mut peers = vec![Peer::start(kind, &options.store, &options.scratch).await?];
    let say = |text: &str| match options.output {
        Output::Table => println!("{text}"),
        Output::Json => eprintln!("{text}"),
    };
    if !options.alone {
        let etcd = options.etcd.clone().unwrap_or_else(peer::newest_etcd);
        let version = peer::version(&etcd)
            .with_context(|| format!("{} cannot be run (--alone leaves it out)", etcd.display()))?;
        let (major, minor, patch) = version;
        say(&format!("etcd {major}.{minor}.{patch}"));
        peers.push(Peer::start(PeerKind::Etcd, &etcd, &options.scratch).await?);
    }
    say(if options.standalone {
        "plaintext on loopback everywhere"
    } else {
        "clients speak plaintext on loopback to both; between members ours use mutual TLS, etcd \
         plaintext"
    });
    let plan = Plan {
        seconds: options
            .seconds
            .unwrap_or(if options.quick { 0.4 } else { 3.0 }),
        rounds: options.rounds.unwrap_or(if options.quick { 1 } else { 3 }),
        keys: options
            .keys
            .unwrap_or(if options.quick { 2000 } else { 100_000 }),
        quick: options.quick,
        large: options.large,
        rows: options.rows.clone(),
    };
    let table = Session::new(peers, plan, &say).run().await?;
    if options.output == Output::Table {
        table.print();
    } else {
        println!("{}", serde_json::to_string_pretty(&table.json())?);
    }
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&table.json())?)?;
    }
    let insane = table.insane();
    anyhow::ensure!(insane.is_empty(), "no sane figures in: {insane:?}");
    Ok(())
}
