//! Project automation. `cargo xtask --help` lists the commands.
#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is its purpose

mod bench;
mod build;
mod ci;
mod demo;
mod diff_etcd;
mod fuzz;
mod gen_schema;
mod matrix;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Project automation")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure beside the real peer, as ratios in one run.
    Bench(bench::Options),
    /// Build, then run three servers and an agent on this machine until Ctrl-C.
    Demo(demo::Options),
    /// Check rules, formatting, lints and documents, then run every test: one table at the end.
    TestMatrix(matrix::Options),
    /// What CI runs: the quick matrix.
    Ci,
    /// Send the same operations to our store and to a genuine etcd, and compare every answer.
    DiffEtcd(diff_etcd::Options),
    /// Feed mutated real inputs to everything that reads from network or disk.
    Fuzz(fuzz::Options),
    /// Generate the field tables of the Kubernetes API from registry packages.
    GenSchema(gen_schema::Options),
    /// Check the project's own rules (file lengths, stray output, documents in step).
    Tidy,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::TestMatrix(options) => matrix::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Ci => ci::run(),
        Command::DiffEtcd(options) => diff_etcd::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::GenSchema(options) => gen_schema::run(&options),
        Command::Tidy => tidy::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
