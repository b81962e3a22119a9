//! Benchmarks: our store and a genuine etcd side by side, in alternating runs.
//!
//! Both run as three local processes with durable writes. A row is measured on one, then on the
//! other, round after round; medians and their ratios are printed, because only a ratio within
//! one run says anything on a shared machine.
#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is its purpose

mod load;
mod peer;
mod report;
mod rows;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use peer::{Peer, PeerKind};
use report::Table;
use rows::Row;

/// What has to be known to read the figures.
const TRANSPORTS: &str = "clients speak plaintext on loopback to both; between members ours use \
    mutual TLS (there is no other mode), etcd plaintext";

#[derive(Parser)]
#[command(about = "Our store beside a genuine etcd: three processes each, alternating runs")]
struct Options {
    /// The example program that runs one member of our store.
    #[arg(long)]
    store: PathBuf,
    /// The genuine etcd.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    /// Directory for data; on the disk that is to be measured.
    #[arg(long)]
    scratch: PathBuf,
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds; the median over them is shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only rows whose name contains this text.
    #[arg(long)]
    only: Option<String>,
    /// Keys that are loaded first.
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Leave out the genuine etcd.
    #[arg(long)]
    alone: bool,
    /// Also write the table as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
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
    let mut peers = vec![Peer::start(PeerKind::Ours, &options.store, &options.scratch).await?];
    if !options.alone {
        let etcd = Peer::start(PeerKind::Etcd, &options.etcd, &options.scratch)
            .await
            .context("is etcd installed? (--alone leaves it out)")?;
        peers.push(etcd);
    }
    println!("{TRANSPORTS}");
    for peer in &mut peers {
        let loaded = load::fill(peer, options.keys).await?;
        println!(
            "{}: {} keys of 1 KiB in {:.1} s; RSS per member {} MiB",
            peer.name(),
            options.keys,
            loaded.as_secs_f64(),
            peer.resident_mib()
                .iter()
                .map(u64::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    let resident: Vec<u64> = peers
        .iter()
        .map(|peer| peer.resident_mib().into_iter().max().unwrap_or(0))
        .collect();

    let rows: Vec<Row> = rows::all()
        .into_iter()
        .filter(|row| {
            options
                .only
                .as_ref()
                .is_none_or(|text| row.name().contains(text.as_str()))
        })
        .collect();
    let length = Duration::from_secs_f64(options.seconds);
    let mut table = Table::new(peers.iter().map(|peer| peer.name().to_owned()).collect());
    for round in 0..options.rounds {
        for row in &rows {
            // Who goes first changes, so that neither always meets the other's leftovers.
            let mut order: Vec<usize> = (0..peers.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let result = row.measure(&peers[index], length, options.keys).await;
                let result =
                    result.with_context(|| format!("{} on {}", row.name(), peers[index].name()))?;
                println!(
                    "round {}  {:<28} {:<8} {:>9.0} /s  p50 {:>8.2} ms  p99 {:>8.2} ms  {:>7.1} us CPU/op",
                    round + 1,
                    row.name(),
                    peers[index].name(),
                    result.per_second,
                    result.p50_ms,
                    result.p99_ms,
                    result.cpu_us
                );
                table.add(row.name(), index, result);
            }
        }
    }
    table.set_resident_mib(resident);
    table.print();
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&table.json())?)?;
    }
    Ok(())
}
