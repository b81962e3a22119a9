//! What a configuration leads to, for people and for machines.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use crate::config::{Document, Origin};
use crate::files::PlannedFile;
use crate::merge::Merged;
use crate::secrets::{mask_config, mask_environment, mask_words};
use crate::ssh::AuthorizedKey;
use crate::start::Start;
use crate::yaml::to_yaml;

/// Lines of a file's content that are shown.
const SHOWN_LINES: usize = 40;

/// Whether secrets are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// Replaced by stars.
    Masked,
    /// In clear.
    Shown,
}

/// The canonical configuration.
fn config(document: &Document, secrets: Secrets) -> Json {
    let mut config = document.to_json();
    if secrets == Secrets::Masked {
        mask_config(&mut config);
    }
    config
}

fn start(document: &Document, secrets: Secrets) -> (Start, Vec<String>, BTreeMap<String, String>) {
    let start = Start::of(document);
    let (argv, env) = match secrets {
        Secrets::Masked => (mask_words(&start.argv), mask_environment(&start.env)),
        Secrets::Shown => (start.argv.clone(), start.env.clone()),
    };
    (start, argv, env)
}

/// `config`, `k3s`, and where there are such, `files` and `ssh`.
pub fn to_json(document: &Document, secrets: Secrets) -> Json {
    let (start, argv, env) = start(document, secrets);
    let mut object = Map::new();
    object.insert("config".into(), config(document, secrets));
    object.insert(
        "k3s".into(),
        json!({ "role": start.role.name(), "argv": argv, "env": env }),
    );
    let files: Vec<Json> = PlannedFile::all(document)
        .iter()
        .map(PlannedFile::to_json)
        .collect();
    if !files.is_empty() {
        object.insert("files".into(), Json::from(files));
    }
    let keys = document.list("ssh_authorized_keys");
    if !keys.is_empty() {
        let (mut literal, mut fetch) = (Vec::new(), Vec::new());
        for key in keys {
            match AuthorizedKey::parse(&key.text) {
                AuthorizedKey::Literal(line) => literal.push(line),
                AuthorizedKey::Fetch(url) => fetch.push(url),
                AuthorizedKey::UnknownScheme(_) => {}
            }
        }
        object.insert("ssh".into(), json!({ "literal": literal, "fetch": fetch }));
    }
    Json::Object(object)
}

/// The same for people: the node first, then files, keys and commands by phase.
pub fn to_text(document: &Document, secrets: Secrets) -> String {
    let (start, argv, env) = start(document, secrets);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "role         {}", start.role.name());
    if let Some(url) = start.join_url() {
        let _ = writeln!(text, "joins        {url}");
    }
    if let Some(name) = document.text("hostname") {
        let _ = writeln!(text, "host name    {name}");
    }
    let words: Vec<String> = argv.iter().map(|word| shell(word)).collect();
    let _ = writeln!(text, "command      {}", words.join(" "));
    for (name, value) in &env {
        let _ = writeln!(text, "environment  {name}={}", shell(value));
    }
    for (label, path) in [
        ("module", "k3os.modules"),
        ("data source", "k3os.data_sources"),
        ("DNS server", "k3os.dns_nameservers"),
        ("NTP server", "k3os.ntp_servers"),
    ] {
        for item in document.list(path) {
            let _ = writeln!(text, "{label:<12} {}", item.text);
        }
    }
    for (name, item) in document.map("k3os.sysctls") {
        let _ = writeln!(text, "sysctl       {name} = {}", item.text);
    }
    for key in document.list("ssh_authorized_keys") {
        let _ = match AuthorizedKey::parse(&key.text) {
            AuthorizedKey::Literal(line) => writeln!(text, "ssh key      {line}"),
            AuthorizedKey::Fetch(url) => writeln!(text, "ssh keys     fetched from {url}"),
            AuthorizedKey::UnknownScheme(_) => writeln!(text, "ssh keys     none: {}", key.text),
        };
    }
    for file in PlannedFile::all(document) {
        let owner = file.owner.as_deref().unwrap_or("root");
        let size = file.content.len();
        let _ = writeln!(
            text,
            "file         {} (mode {}, owner {owner}, {size} bytes)",
            file.path, file.mode
        );
        if let Ok(content) = std::str::from_utf8(&file.content) {
            for line in content.lines().take(SHOWN_LINES) {
                let _ = writeln!(text, "             | {line}");
            }
            if content.lines().count() > SHOWN_LINES {
                let _ = writeln!(text, "             | ...");
            }
        }
    }
    for (phase, path) in [
        ("initrd", "init_cmd"),
        ("boot", "boot_cmd"),
        ("runtime", "run_cmd"),
    ] {
        for item in document.list(path) {
            for (index, line) in item.text.trim_end().lines().enumerate() {
                let label = if index == 0 { phase } else { "" };
                let mark = if index == 0 { '$' } else { ' ' };
                let _ = writeln!(text, "{label:<12} {mark} {line}");
            }
        }
    }
    text
}

/// A word as a shell would need it.
fn shell(word: &str) -> String {
    let plain = !word.is_empty()
        && word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_=./:,@%+*".contains(c));
    if plain {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn place(origin: &Origin) -> String {
    format!("{}:{}", origin.source, origin.value)
}

impl Merged {
    /// Places of what stood at `path` before, weakest first.
    fn replaced_at(&self, path: &str) -> Vec<&Origin> {
        self.replaced
            .iter()
            .filter(|replaced| replaced.setting.path == path)
            .map(|replaced| &replaced.setting.origin)
            .collect()
    }

    /// `sources`, `config`, `k3s` and `dropped`; with `explain` also `origins`.
    pub fn to_json(&self, secrets: Secrets, explain: bool) -> Json {
        let mut object = to_json(&self.document, secrets);
        if let Json::Object(map) = &mut object {
            let sources: Vec<&str> = self.reports.iter().map(|report| &*report.file).collect();
            map.insert("sources".into(), json!(sources));
            map.insert("dropped".into(), json!(self.dropped()));
            if explain {
                let at = |origin: &Origin| {
                    json!({ "file": origin.source, "line": origin.value.line,
                        "column": origin.value.column })
                };
                let origins: Vec<Json> = self
                    .document
                    .settings
                    .iter()
                    .map(|setting| {
                        let mut entry = at(&setting.origin);
                        entry["path"] = json!(setting.path);
                        let before = self.replaced_at(&setting.path);
                        entry["replaced"] = before.into_iter().map(at).collect();
                        entry
                    })
                    .collect();
                map.insert("origins".into(), Json::from(origins));
            }
        }
        object
    }

    /// The effective configuration as YAML; with `explain` instead where each value came from,
    /// what it replaced, and what is lost.
    pub fn to_text(&self, secrets: Secrets, explain: bool) -> String {
        let config = config(&self.document, secrets);
        if !explain {
            return to_yaml(&config);
        }
        let mut text = String::new();
        let _ = writeln!(text, "sources, weakest first:");
        for report in &self.reports {
            let _ = writeln!(text, "  {}", report.file);
        }
        let _ = writeln!(text, "in effect:");
        for setting in &self.document.settings {
            let pointer = format!("/{}", setting.path.replace('.', "/"));
            let value = config
                .pointer(&pointer)
                .map_or_else(|| "nothing".to_owned(), Json::to_string);
            let _ = writeln!(text, "  {} = {value}", setting.path);
            let _ = writeln!(text, "      from {}", place(&setting.origin));
            for before in self.replaced_at(&setting.path) {
                let _ = writeln!(text, "      replaces {}", place(before));
            }
        }
        let dropped = self.lost();
        if !dropped.is_empty() {
            let _ = writeln!(
                text,
                "dropped (lists and maps are replaced, never added to):"
            );
            for (path, lost) in dropped {
                let _ = writeln!(
                    text,
                    "  {path}\n      of {}, by {}:{}",
                    place(&lost.setting.origin),
                    lost.by.source,
                    lost.by.key
                );
            }
        }
        text
    }
}
