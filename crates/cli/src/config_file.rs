//! `config.yaml` and `config.yaml.d/*.yaml`: flags in a file, with K3s's rules.
//!
//! Every entry becomes a `--key=value` argument right after the subcommand, so that whatever
//! stands on the command line comes later and wins. A list given on the command line replaces
//! the file's list. Drop-ins are read in alphabetical order after the main file, also when that
//! does not exist; the last value of a key wins, a key that ends in `+` adds to it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Command};
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::args::REFUSED;

/// Where the file is looked for when none is named.
pub(crate) const DEFAULT_PATH: &str = "/etc/rancher/k3s/config.yaml";

/// A settings file larger than this is a mistake (a log, an image), not settings.
const SIZE_LIMIT_BYTES: u64 = 1024 * 1024;

/// Why a settings file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file that was named does not exist or cannot be read.
    #[error("cannot read settings file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Settings over HTTP would let whoever answers decide how the server runs.
    #[error("settings file {0}: only local files are read; fetch it first and name the copy")]
    Url(String),
    /// Not YAML, or not a map.
    #[error("settings file {path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Position and cause.
        message: String,
    },
    /// A key that is no flag.
    #[error("settings file {path}, line {line}: unknown key {key:?}{hint}")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Line of the value, from 1.
        line: u64,
        /// The key.
        key: String,
        /// What to do instead.
        hint: String,
    },
    /// A value of the wrong shape.
    #[error("settings file {path}, line {line}: {key}: {message}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Line of the value, from 1.
        line: u64,
        /// The key.
        key: String,
        /// What is wrong.
        message: String,
    },
}

/// Inserts what the settings files say into a command line. `arguments` is the whole line,
/// program name first; lines of commands without a `--config` flag come back unchanged.
pub(crate) fn expand(
    command: &Command,
    arguments: &[OsString],
    environment_path: Option<OsString>,
) -> Result<Vec<OsString>, Error> {
    let Some(subcommand) = arguments
        .get(1)
        .and_then(|name| name.to_str())
        .and_then(|name| command.find_subcommand(name))
        .filter(|subcommand| {
            subcommand
                .get_arguments()
                .any(|arg| arg.get_id() == "config")
        })
    else {
        return Ok(arguments.to_vec());
    };
    let named = named_path(&arguments[2..]).or(environment_path.filter(|path| !path.is_empty()));
    let (path, must_exist) = match named {
        Some(path) => (PathBuf::from(path), true),
        None => (PathBuf::from(DEFAULT_PATH), false),
    };
    if let Some(text) = path.to_str()
        && (text.starts_with("http://") || text.starts_with("https://"))
    {
        return Err(Error::Url(text.to_owned()));
    }

    let mut settings = Settings::default();
    if must_exist || path.exists() {
        settings.read(&path, command, subcommand)?;
    }
    for drop_in in drop_ins(&path, must_exist)? {
        settings.read(&drop_in, command, subcommand)?;
    }

    let mut expanded: Vec<OsString> = arguments[..2].to_vec();
    for (key, values) in settings.0 {
        if is_list(subcommand, &key) && is_given(subcommand, &key, &arguments[2..]) {
            continue;
        }
        for value in values {
            expanded.push(flag(&key, &value));
        }
    }
    expanded.extend_from_slice(&arguments[2..]);
    Ok(expanded)
}

/// `--key=value`; single letters are short flags, which take their value attached.
fn flag(key: &str, value: &str) -> OsString {
    if key.chars().count() == 1 {
        format!("-{key}{value}")
    } else {
        format!("--{key}={value}")
    }
    .into()
}

/// The value of `--config` or `-c`, the last one if there are several.
fn named_path(arguments: &[OsString]) -> Option<OsString> {
    let mut found = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(text) = argument.to_str() else {
            continue;
        };
        if text == "--config" || text == "-c" {
            found = rest.next().cloned();
        } else if let Some(value) = text.strip_prefix("--config=") {
            found = Some(value.into());
        } else if let Some(value) = text.strip_prefix("-c").filter(|_| !text.starts_with("--")) {
            found = Some(value.trim_start_matches('=').into());
        }
    }
    found
}

/// The files in `<path>.d`. Where nobody named the file, a directory that this user may not read
/// (root's, for a server that runs without root) counts as none.
fn drop_ins(path: &Path, named: bool) -> Result<Vec<PathBuf>, Error> {
    let mut directory = path.as_os_str().to_owned();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && !named => {
            return Ok(Vec::new());
        }
        Err(source) => {
            return Err(Error::Read {
                path: directory,
                source,
            });
        }
    };
    let mut files = Vec::new();
    for entry in entries {
        let file = entry
            .map_err(|source| Error::Read {
                path: directory.clone(),
                source,
            })?
            .path();
        if matches!(
            file.extension().and_then(OsStr::to_str),
            Some("yaml" | "yml")
        ) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Values by long flag name. One value for scalars, any number for lists.
#[derive(Default)]
struct Settings(BTreeMap<String, Vec<String>>);

impl Settings {
    fn read(&mut self, path: &Path, command: &Command, subcommand: &Command) -> Result<(), Error> {
        let read = |source| Error::Read {
            path: path.to_owned(),
            source,
        };
        if fs::metadata(path).map_err(read)?.len() > SIZE_LIMIT_BYTES {
            return Err(Error::Syntax {
                path: path.to_owned(),
                message: format!("larger than {SIZE_LIMIT_BYTES} bytes"),
            });
        }
        let text = fs::read_to_string(path).map_err(read)?;
        self.merge(path, &text, command, subcommand)
    }

    fn merge(
        &mut self,
        path: &Path,
        text: &str,
        command: &Command,
        subcommand: &Command,
    ) -> Result<(), Error> {
        let text = text.trim_start_matches('\u{feff}');
        let has_content = text.lines().any(|line| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#') && line != "---"
        });
        if !has_content {
            return Ok(());
        }
        let document: BTreeMap<String, Spanned<Value>> =
            serde_saphyr::from_str(text).map_err(|error| Error::Syntax {
                path: path.to_owned(),
                message: error.to_string(),
            })?;
        for (raw_key, entry) in document {
            let line = entry.referenced.line();
            let (key, append) = match raw_key.strip_suffix('+') {
                Some(key) => (key.to_owned(), true),
                None => (raw_key.clone(), false),
            };
            let Some(key) = canonical_key(subcommand, &key) else {
                return Err(Error::UnknownKey {
                    path: path.to_owned(),
                    line,
                    hint: hint(command, subcommand, &key),
                    key: raw_key,
                });
            };
            let values = texts(&entry.value).map_err(|message| Error::Value {
                path: path.to_owned(),
                line,
                key: raw_key,
                message,
            })?;
            if append {
                self.0.entry(key).or_default().extend(values);
            } else {
                self.0.insert(key, values);
            }
        }
        Ok(())
    }
}

/// The flag's long name (its short one where it has no other).
fn canonical_key(subcommand: &Command, key: &str) -> Option<String> {
    let argument = subcommand.get_arguments().find(|argument| {
        argument.get_long() == Some(key)
            || argument
                .get_short()
                .is_some_and(|short| key.chars().eq([short]))
    })?;
    match argument.get_long() {
        // A settings file that names its own path would be a circle.
        Some("config") => None,
        Some(long) => Some(long.to_owned()),
        None => argument.get_short().map(String::from),
    }
}

fn is_list(subcommand: &Command, key: &str) -> bool {
    subcommand
        .get_arguments()
        .find(|argument| argument.get_long() == Some(key))
        .is_some_and(|argument| matches!(argument.get_action(), ArgAction::Append))
}

fn is_given(subcommand: &Command, key: &str, arguments: &[OsString]) -> bool {
    let long = format!("--{key}");
    let short = subcommand
        .get_arguments()
        .find(|argument| argument.get_long() == Some(key))
        .and_then(|argument| argument.get_short())
        .map(|short| format!("-{short}"));
    arguments
        .iter()
        .filter_map(|argument| argument.to_str())
        .any(|argument| {
            argument
                .strip_prefix(&long)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
                || short
                    .as_ref()
                    .is_some_and(|short| !argument.starts_with("--") && argument.starts_with(short))
        })
}

/// A value as the texts of one or more flags.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Bool(flag) => Ok(vec![flag.to_string()]),
        Value::Number(number) => Ok(vec![number.to_string()]),
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(items) => {
            let mut all = Vec::new();
            for item in items {
                match item {
                    Value::Array(_) | Value::Object(_) => {
                        return Err("expected a list of plain values".into());
                    }
                    item => all.extend(texts(item)?),
                }
            }
            Ok(all)
        }
        Value::Object(_) => Err("expected a value or a list, not a map".into()),
    }
}

fn hint(command: &Command, subcommand: &Command, key: &str) -> String {
    if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == key) {
        return format!(": {reason}");
    }
    if key == "config" {
        return ": a settings file cannot name another one; use a drop-in in config.yaml.d".into();
    }
    let other = command.get_subcommands().find(|other| {
        other.get_name() != subcommand.get_name()
            && matches!(other.get_name(), "server" | "agent")
            && canonical_key(other, key).is_some()
    });
    if let Some(other) = other {
        return format!(
            "; it is a setting of `trivet {}`, not of this command",
            other.get_name()
        );
    }
    let nearest = subcommand
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .map(|long| (distance(key, long), long))
        .min();
    if let Some((distance, long)) = nearest
        && distance <= 1 + key.len() / 5
    {
        return format!("; did you mean {long:?}?");
    }
    format!("; see `trivet {} --help`", subcommand.get_name())
}

/// Optimal string alignment distance: insertions, deletions, replacements, and swaps of
/// neighbours, which is what mistyped words are made of.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + replaced);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use proptest::prelude::*;

    use super::*;
    use crate::args::{Cli, Command as Parsed};

    /// Expands `server` arguments with `text` as the settings file.
    fn expanded(text: &str, cli: &[&str]) -> Result<Vec<String>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        fs::write(&path, text).unwrap();
        expand_in(&path, cli)
    }

    fn expand_in(path: &Path, cli: &[&str]) -> Result<Vec<String>, Error> {
        let mut arguments: Vec<OsString> = vec!["trivet".into(), "server".into()];
        arguments.extend(cli.iter().map(OsString::from));
        let all = expand(&Cli::command(), &arguments, Some(path.into()))?;
        Ok(all
            .into_iter()
            .map(|argument| argument.into_string().unwrap())
            .collect())
    }

    fn server(arguments: &[String]) -> crate::args::ServerArgs {
        match Cli::try_parse_from(arguments).unwrap().command {
            Parsed::Server(server) => *server,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn command_line_beats_file() {
        let all = expanded(
            "https-listen-port: 7000\ntoken: filed\ncluster-init: true\n",
            &["--token", "typed"],
        )
        .unwrap();
        let server = server(&all);
        assert_eq!(server.join.token.as_deref(), Some("typed"));
        assert_eq!(server.listener.https_listen_port, 7000);
        assert!(server.cluster.cluster_init);
    }

    #[test]
    fn lists_are_repeated_and_replaced_by_the_command_line() {
        let all = expanded("tls-san: [a, b]\nnode-label:\n- x=1\n", &["--tls-san", "c"]).unwrap();
        let server = server(&all);
        assert_eq!(server.listener.tls_san, ["c"]);
        assert_eq!(server.node.node_label, ["x=1"]);
    }

    #[test]
    fn short_keys_are_understood() {
        let all = expanded("t: short\n", &[]).unwrap();
        assert_eq!(server(&all).join.token.as_deref(), Some("short"));
    }

    #[test]
    fn drop_ins_come_after_and_may_append() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        fs::create_dir(dir.path().join("config.yaml.d")).unwrap();
        fs::write(&path, "tls-san: [a]\nnode-name: one\n").unwrap();
        fs::write(dir.path().join("config.yaml.d/20.yaml"), "tls-san+: c\n").unwrap();
        fs::write(
            dir.path().join("config.yaml.d/10.yml"),
            "tls-san+: b\nnode-name: two\n",
        )
        .unwrap();
        fs::write(
            dir.path().join("config.yaml.d/readme.txt"),
            "not: yaml: at all",
        )
        .unwrap();
        let server = server(&expand_in(&path, &[]).unwrap());
        assert_eq!(server.listener.tls_san, ["a", "b", "c"]);
        assert_eq!(server.node.node_name.as_deref(), Some("two"));
    }

    #[test]
    fn unknown_keys_are_refused_with_line_and_suggestion() {
        let error = expanded("node-name: a\ntls-sna: b\n", &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(error.contains("did you mean \"tls-san\"?"), "{error}");
        let error = expanded("cluster-reset: true\n", &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("not available yet"), "{error}");
        let error = expanded("lb-bind-address: 127.0.0.1\n", &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("trivet agent"), "{error}");
    }

    #[test]
    fn missing_named_file_is_an_error_and_a_missing_default_is_not() {
        assert!(matches!(
            expand_in(Path::new("/nowhere/x.yaml"), &[]),
            Err(Error::Read { .. })
        ));
        assert!(matches!(
            expand_in(Path::new("https://example.com/c.yaml"), &[]),
            Err(Error::Url(_))
        ));
    }

    #[test]
    fn nested_values_and_non_maps_are_refused() {
        assert!(matches!(
            expanded("token: {a: b}\n", &[]),
            Err(Error::Value { .. })
        ));
        assert!(matches!(
            expanded("- a\n- b\n", &[]),
            Err(Error::Syntax { .. })
        ));
        assert!(expanded("# only a comment\n", &[]).is_ok());
    }

    #[test]
    fn distance_counts_swaps_once() {
        assert_eq!(distance("tls-sna", "tls-san"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("token", "token"), 0);
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer_not_a_panic(text in "(?s).{0,200}") {
            let _ = expanded(&text, &[]);
        }

        #[test]
        fn any_yaml_like_text_is_an_answer(
            lines in proptest::collection::vec("[a-z+-]{1,12}: ?[\\[\\]{}&*!'\"a-z0-9,: -]{0,20}", 0..6)
        ) {
            let _ = expanded(&lines.join("\n"), &[]);
        }
    }
}
