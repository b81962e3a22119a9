//! The `trivet` binary: what was typed becomes settings, settings become a running node.
//!
//! Exit codes: 0 clean end · 1 failure · 2 wrong usage or settings · 3 foreign data in the way ·
//! 4 the cluster refused to be joined · 5 would have founded a second cluster · 6 the store is
//! damaged.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command's output is its purpose

mod agent;
mod args;
mod backend;
mod cloudinit;
mod config_file;
mod datastore;
mod etcd;
mod failure;
mod import;
mod logging;
mod member;
mod node;
mod paths;
mod repair;
mod server;
mod signals;
mod status;
mod token;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    match run(&std::env::args_os().collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(arguments: &[OsString]) -> Result<(), Failure> {
    if let Some(arguments) = etcd_arguments(arguments) {
        return etcd::run(arguments);
    }
    let command = Cli::command();
    let expanded = config_file::expand(&command, arguments, std::env::var_os("K3S_CONFIG_FILE"))
        .map_err(Failure::usage)?;
    let matches = match command.try_get_matches_from(&expanded) {
        Ok(matches) => matches,
        // Help and version are not errors; everything else exits with 2 by clap's own rules.
        Err(error) => error.exit(),
    };
    let cli = Cli::from_arg_matches(&matches).map_err(Failure::usage)?;
    let shown = node::masked_arguments(&expanded);
    match cli.command {
        Command::Server(args) => server::run(&args, shown),
        Command::Agent(args) => agent::run(&args, shown),
        Command::Status(args) => status::run(&args),
        Command::Member(args) => member::run(&args).map_err(Failure::other),
        Command::Datastore(args) => datastore::run(&args),
        Command::Etcd(args) => etcd::run(&args.arguments),
        Command::Token(args) => token::run(&args).map_err(Failure::other),
        Command::Cloudinit(args) => cloudinit::run(&args),
        Command::Completion(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "trivet", &mut script);
            match io::stdout().write_all(&script) {
                // A reader that has seen enough is no failure.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                other => other.map_err(Failure::other),
            }
        }
    }
}

/// What belongs to etcd's own command line: everything behind `trivet etcd`, or behind the name
/// of a link to this program that is named `etcd`.
fn etcd_arguments(arguments: &[OsString]) -> Option<&[OsString]> {
    let (program, rest) = arguments.split_first()?;
    if Path::new(program).file_name() == Some(OsStr::new("etcd")) {
        return Some(rest);
    }
    rest.split_first()
        .filter(|(word, _)| *word == "etcd")
        .map(|(_, rest)| rest)
}
