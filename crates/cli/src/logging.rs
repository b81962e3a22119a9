//! The log of the process: lines for people or JSON, to standard error or a file.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;

use anyhow::{Context, Result};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt};

use crate::args::{LogArgs, LogFormat};

/// Libraries below us are quiet unless something is wrong; `RUST_LOG` overrides everything.
const FILTER: &str = "warn,openraft=error,trivet=info,trivet_core=info,trivet_apiserver=info,trivet_agent=info,\
    trivet_store_etcd=info,trivet_raft_node=info,trivet_wal=info,trivet_https=info,\
    trivet_join=info,trivet_pki=info";

/// Installs the process's logger. Called once, before anything logs.
pub(crate) fn install(args: &LogArgs) -> Result<()> {
    let default = if args.debug {
        FILTER.replace("=info", "=debug")
    } else {
        FILTER.to_owned()
    };
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => {
            EnvFilter::try_new(&directives).with_context(|| format!("RUST_LOG={directives}"))?
        }
        _ => EnvFilter::new(default),
    };
    let writer: BoxMakeWriter = match &args.log {
        None => BoxMakeWriter::new(io::stderr),
        Some(path) => {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path)
                .with_context(|| format!("cannot write the log to {}", path.display()))?;
            let file = Mutex::new(file);
            if args.alsologtostderr {
                BoxMakeWriter::new(file.and(io::stderr))
            } else {
                BoxMakeWriter::new(file)
            }
        }
    };
    let colours = args.log.is_none() && io::stderr().is_terminal();
    subscribe(args.log_format, filter, writer, colours);
    Ok(())
}

fn subscribe<W>(format: LogFormat, filter: EnvFilter, writer: W, colours: bool)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    match format {
        LogFormat::Human => builder.with_ansi(colours).with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
