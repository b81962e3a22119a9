//! The log in etcd's shape: one JSON object per line, or its console form.

use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::flags::Given;

/// Installs the process's logger. Called once, before anything logs.
pub(super) fn install(given: &Given) -> Result<(), String> {
    let level = match given.get("log-level").unwrap_or("info") {
        "debug" => "debug",
        "" | "info" => "info",
        "warn" => "warn",
        "error" | "dpanic" | "panic" | "fatal" => "error",
        other => {
            return Err(format!(
                "--log-level {other:?}: debug, info, warn, error, panic or fatal is expected"
            ));
        }
    };
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => EnvFilter::try_new(&directives)
            .map_err(|error| format!("RUST_LOG={directives}: {error}"))?,
        _ => EnvFilter::new(filter(level)),
    };
    let shape = match given.get("log-format").unwrap_or("json") {
        "" | "json" => Shape::Json,
        "console" => Shape::Console,
        other => {
            return Err(format!(
                "--log-format {other:?}: \"json\" or \"console\" is expected"
            ));
        }
    };
    let writer = writer(given.get("log-outputs").unwrap_or("default"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .event_format(shape)
        .init();
    Ok(())
}

/// Libraries are quiet unless something is wrong.
fn filter(level: &str) -> String {
    let others = if level == "error" { "error" } else { "warn" };
    let ours = [
        "trivet",
        "trivet_store_etcd",
        "trivet_raft_node",
        "trivet_wal",
        "trivet_pki",
    ];
    let mut text = format!("{others},openraft=error");
    for name in ours {
        // Writing to a String cannot fail.
        let _ = write!(text, ",{name}={level}");
    }
    text
}

fn writer(outputs: &str) -> Result<BoxMakeWriter, String> {
    let mut all: Option<BoxMakeWriter> = None;
    for output in outputs.split(',').map(str::trim) {
        let one = match output {
            "" | "default" | "stderr" => BoxMakeWriter::new(io::stderr),
            "stdout" => BoxMakeWriter::new(io::stdout),
            // Under systemd standard error goes to the journal.
            "systemd/journal" => BoxMakeWriter::new(io::stderr),
            path => {
                let file = OpenOptions::new()
                    .create(true)
                    .append(true)
                    .mode(0o600)
                    .open(path)
                    .map_err(|error| format!("--log-outputs: cannot write to {path}: {error}"))?;
                BoxMakeWriter::new(Arc::new(Mutex::new(file)).shared())
            }
        };
        all = Some(match all {
            Some(before) => BoxMakeWriter::new(before.and(one)),
            None => one,
        });
    }
    Ok(all.unwrap_or_else(|| BoxMakeWriter::new(io::stderr)))
}

/// A file that several events write to, one after the other.
struct SharedFile(Arc<Mutex<std::fs::File>>);

trait Shared {
    fn shared(self) -> SharedFile;
}

impl Shared for Arc<Mutex<std::fs::File>> {
    fn shared(self) -> SharedFile {
        SharedFile(self)
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for SharedFile {
    type Writer = SharedFile;

    fn make_writer(&'a self) -> Self::Writer {
        Self(self.0.clone())
    }
}

impl io::Write for SharedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        io::Write::write(&mut *file, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The shape of a line.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Json,
    Console,
}

impl<S, N> FormatEvent<S, N> for Shape
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = Line {
            level: *event.metadata().level(),
            at: OffsetDateTime::now_utc(),
            caller: event.metadata().target(),
            fields,
        };
        writeln!(writer, "{}", line.render(*self))
    }
}

struct Line<'a> {
    level: Level,
    at: OffsetDateTime,
    caller: &'a str,
    fields: Fields,
}

impl Line<'_> {
    fn render(self, shape: Shape) -> String {
        let level = match self.level {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => "debug",
        };
        let format = format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        );
        let at = self.at.format(format).unwrap_or_default();
        match shape {
            Shape::Json => {
                let mut line = Map::new();
                line.insert("level".to_owned(), level.into());
                line.insert("ts".to_owned(), at.into());
                line.insert("caller".to_owned(), self.caller.into());
                line.insert("msg".to_owned(), self.fields.message.into());
                line.extend(self.fields.others);
                Value::Object(line).to_string()
            }
            Shape::Console => {
                let mut text = format!(
                    "{at}\t{}\t{}\t{}",
                    level.to_uppercase(),
                    self.caller,
                    self.fields.message
                );
                if !self.fields.others.is_empty() {
                    let _ = write!(text, "\t{}", Value::Object(self.fields.others));
                }
                text
            }
        }
    }
}

/// What an event says.
#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", value) => self.message = value.to_string(),
            (name, value) => {
                self.others.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line<'static> {
        let mut others = Map::new();
        others.insert("id".to_owned(), "\"quoted\"".into());
        Line {
            level: Level::INFO,
            at: OffsetDateTime::UNIX_EPOCH,
            caller: "trivet::etcd",
            fields: Fields {
                message: "ready".to_owned(),
                others,
            },
        }
    }

    #[test]
    fn lines_have_etcds_shape() {
        let json: Value = serde_json::from_str(&line().render(Shape::Json)).unwrap();
        assert_eq!(json["level"], "info");
        assert_eq!(json["ts"], "1970-01-01T00:00:00.000Z");
        assert_eq!(json["msg"], "ready");
        assert_eq!(json["id"], "\"quoted\"");
        assert_eq!(
            line().render(Shape::Console),
            "1970-01-01T00:00:00.000Z\tINFO\ttrivet::etcd\tready\t{\"id\":\"\\\"quoted\\\"\"}"
        );
    }
}
