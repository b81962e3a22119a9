//! All sources of one node, weakest first, with k3OS's precedence.
//!
//! `k3os` and `k3os.install` merge key by key; everything else is replaced whole, lists and
//! maps included. A key that is there replaces, even if it is empty; an empty `k3os:` erases
//! the block.

use std::collections::BTreeSet;
use std::fmt;

use crate::check::{Report, Scope, check_effective, check_scope};
use crate::config::{Document, Item, Origin, Record, Setting, Value, path_key};
use crate::secrets::mask_words;
use crate::source::{MAX_BYTES, Position};

/// What a source is; weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceKind {
    /// `/k3os/system/config.yaml`, from the installation.
    System,
    /// The kernel command line.
    CommandLine,
    /// `/var/lib/rancher/k3os/config.yaml`.
    Local,
    /// SSH keys from the provider, one on a line.
    ProviderKeys,
    /// The host name from the provider.
    ProviderHostname,
    /// User data from the provider: a configuration or a script.
    Userdata,
    /// A file in `/var/lib/rancher/k3os/config.d`; among themselves in the order of names.
    ConfigDirectory,
}

/// A source.
#[derive(Clone)]
pub struct Source {
    /// What it is.
    pub kind: SourceKind,
    /// Its name in messages.
    pub name: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

// What it holds may be secret.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("kind", &self.kind)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A setting that a stronger source replaced.
#[derive(Debug, Clone)]
pub struct Replaced {
    /// What it was.
    pub setting: Setting,
    /// Where the replacement, or the erasing key, stands.
    pub by: Origin,
}

/// The outcome.
#[derive(Debug, Default)]
pub struct Merged {
    /// What is in effect; every setting knows where it came from.
    pub document: Document,
    /// One for every source, in order of precedence.
    pub reports: Vec<Report>,
    /// What was replaced, in the order it happened.
    pub replaced: Vec<Replaced>,
}

/// Merges sources, given in any order.
pub fn merge(mut sources: Vec<Source>) -> Merged {
    sources.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    let mut merged = Merged::default();
    for source in &sources {
        let report = read(source);
        merged.apply(&report.document);
        merged.reports.push(report);
    }
    merged.judge();
    merged
}

/// Merges files of equal standing in the given order, later ones stronger.
pub fn overlay(files: &[(String, Vec<u8>)]) -> Merged {
    let mut merged = Merged::default();
    let scope = if files.len() == 1 {
        Scope::Whole
    } else {
        Scope::Part
    };
    for (name, bytes) in files {
        let report = check_scope(name, bytes, scope);
        merged.apply(&report.document);
        merged.reports.push(report);
    }
    merged.judge();
    merged
}

impl Merged {
    /// Adds what only shows when the sources are taken together, each finding to the source
    /// that the setting came from.
    fn judge(&mut self) {
        if self.reports.iter().any(Report::has_errors) {
            return;
        }
        for finding in check_effective(&self.document) {
            let path = finding.path.split('[').next().unwrap_or_default();
            let setting = self.document.settings.iter().find(|setting| {
                path == setting.path || path.starts_with(&format!("{}.", setting.path))
            });
            let source = setting.map(|setting| &setting.origin.source);
            let report = self
                .reports
                .iter_mut()
                .find(|report| Some(&report.file) == source);
            if let Some(report) = report {
                let known = report
                    .findings
                    .iter()
                    .any(|old| old.at == finding.at && old.kind == finding.kind);
                if !known {
                    report.add(vec![finding]);
                }
            }
        }
    }

    fn apply(&mut self, document: &Document) {
        for setting in &document.settings {
            let erases = setting.value == Value::Null
                && matches!(setting.path.as_str(), "k3os" | "k3os.install");
            let block = format!("{}.", setting.path);
            let (out, kept): (Vec<_>, Vec<_>) = self.document.settings.drain(..).partition(|old| {
                old.path == setting.path || (erases && old.path.starts_with(&block))
            });
            self.document.settings = kept;
            self.replaced.extend(out.into_iter().map(|old| Replaced {
                setting: old,
                by: setting.origin.clone(),
            }));
            if !erases {
                self.document.settings.push(setting.clone());
            }
        }
    }

    /// Paths of what weaker sources said and nothing in the result says any more. Secrets are
    /// masked.
    pub fn dropped(&self) -> Vec<String> {
        self.lost().into_iter().map(|(path, _)| path).collect()
    }

    /// The same, each with the replacement that dropped it first.
    pub(crate) fn lost(&self) -> Vec<(String, &Replaced)> {
        let mut seen = BTreeSet::new();
        let mut dropped = Vec::new();
        for replaced in &self.replaced {
            for path in lost(&replaced.setting, &self.document) {
                if seen.insert(path.clone()) {
                    dropped.push((path, replaced));
                }
            }
        }
        dropped
    }
}

fn lost(old: &Setting, now: &Document) -> Vec<String> {
    let path = &old.path;
    let current = now.get(path).map(|setting| &setting.value);
    if old.value == Value::Null {
        return Vec::new();
    }
    match (&old.value, current) {
        (_, None | Some(Value::Null)) => vec![path.clone()],
        (Value::List(before), Some(Value::List(after))) => {
            let words: Vec<String> = before.iter().map(|item| item.text.clone()).collect();
            mask_words(&words)
                .into_iter()
                .zip(&words)
                .filter(|(_, word)| after.iter().all(|item| item.text != **word))
                .map(|(shown, _)| format!("{path}[{}]", serde_json::Value::from(shown)))
                .collect()
        }
        (Value::Map(before), Some(Value::Map(after))) => before
            .iter()
            .filter(|(key, _)| after.iter().all(|(name, _)| name != key))
            .map(|(key, _)| format!("{path}{}", path_key(key)))
            .collect(),
        (Value::Records(before), Some(Value::Records(after))) => {
            let name = if path == "write_files" {
                "path"
            } else {
                "name"
            };
            let named = |record: &Record| record.get(name).map(|item| item.text.clone());
            let kept: BTreeSet<_> = after.iter().map(named).collect();
            before
                .iter()
                .map(named)
                .filter(|record| !kept.contains(record))
                .map(|record| format!("{path}[{name}={}]", record.unwrap_or_default()))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn read(source: &Source) -> Report {
    let name = &source.name;
    let bytes = &source.bytes;
    match source.kind {
        SourceKind::System | SourceKind::Local | SourceKind::ConfigDirectory => {
            check_scope(name, bytes, Scope::Part)
        }
        SourceKind::CommandLine => check_scope(name, bytes, Scope::CommandLine),
        SourceKind::Userdata if is_script(bytes) => Report::clean(name, script(name, bytes)),
        SourceKind::Userdata => check_scope(name, bytes, Scope::Part),
        SourceKind::ProviderHostname => {
            let text = String::from_utf8_lossy(clipped(bytes));
            Report::clean(
                name,
                one(name, "hostname", Value::Text(text.trim().to_owned())),
            )
        }
        SourceKind::ProviderKeys => {
            let text = String::from_utf8_lossy(clipped(bytes)).into_owned();
            let keys = text
                .lines()
                .enumerate()
                .filter(|(_, line)| !line.trim().is_empty())
                .map(|(index, line)| Item {
                    text: line.trim().to_owned(),
                    at: Position::new(index + 1, 1),
                })
                .collect();
            Report::clean(name, one(name, "ssh_authorized_keys", Value::List(keys)))
        }
    }
}

fn clipped(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(MAX_BYTES)]
}

fn is_script(bytes: &[u8]) -> bool {
    bytes.starts_with(b"#!") || bytes.contains(&0)
}

/// A script among user data is written to a file and sourced.
fn script(name: &str, bytes: &[u8]) -> Document {
    const PATH: &str = "/run/k3os/userdata";
    let item = |text: String| Item {
        text,
        at: Position::START,
    };
    let content = String::from_utf8_lossy(clipped(bytes)).into_owned();
    let record = Record {
        at: Position::START,
        fields: vec![
            ("path", item(PATH.to_owned())),
            ("content", item(content)),
            ("owner", item("root".to_owned())),
            ("permissions", item("0700".to_owned())),
        ],
    };
    let mut document = one(name, "write_files", Value::Records(vec![record]));
    let run = Value::List(vec![item(format!("source {PATH}"))]);
    document.settings.extend(one(name, "run_cmd", run).settings);
    document
}

fn one(name: &str, path: &str, value: Value) -> Document {
    Document {
        settings: vec![Setting {
            path: path.to_owned(),
            value,
            origin: Origin {
                source: name.to_owned(),
                key: Position::START,
                value: Position::START,
            },
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Kind;

    fn file(name: &str, text: &str) -> (String, Vec<u8>) {
        (name.to_owned(), text.as_bytes().to_vec())
    }

    #[test]
    fn faults_between_sources_are_found_where_they_stand() {
        let merged = overlay(&[
            file("a", "k3os:\n  k3s_args: [server, --cluster-init]\n"),
            file("b", "k3os:\n  server_url: https://h:6443\n"),
        ]);
        let found: Vec<_> = merged
            .reports
            .iter()
            .flat_map(|report| {
                report
                    .findings
                    .iter()
                    .map(|finding| (report.file.as_str(), finding.kind, finding.at.line))
            })
            .collect();
        assert_eq!(
            found,
            [("a", Kind::Conflict, 2), ("b", Kind::MissingToken, 2)]
        );
    }

    #[test]
    fn a_part_need_not_be_whole() {
        let merged = overlay(&[
            file("a", "k3os:\n  server_url: https://h:6443\n"),
            file("b", "k3os:\n  token: abc\n"),
        ]);
        assert!(
            merged
                .reports
                .iter()
                .all(|report| report.findings.is_empty())
        );
    }
}
