//! From nodes to settings: keys, types, and the checks of every value on the way.

use std::collections::HashMap;

use super::{Checker, Scope};
use crate::config::{Item, Origin, Record, Setting, Value, path_key};
use crate::finding::{Finding, Kind};
use crate::flags;
use crate::scalar::ScalarType;
use crate::schema::{self, Field, MapRule, ROOT, Rule, Shape, Spelling};
use crate::secrets::is_secret_path;
use crate::source::Position;
use crate::spelling;
use crate::tree::{Data, Entry, Node, Tree};

/// `key` under `parent`.
fn join(parent: &str, key: &str) -> String {
    let step = path_key(key);
    match step.strip_prefix('.') {
        Some(name) if parent.is_empty() => name.to_owned(),
        _ => format!("{parent}{step}"),
    }
}

impl Checker<'_> {
    pub(super) fn root(&mut self, tree: &Tree, entries: &[Entry]) {
        self.block(tree, ROOT, entries, "");
    }

    fn block(&mut self, tree: &Tree, fields: &'static [Field], entries: &[Entry], parent: &str) {
        for (entry, field, spelling) in self.known(tree, fields, entries, parent) {
            let path = join(parent, field.name);
            if let Shape::Block(below) = field.shape {
                self.sub_block(tree, below, entry, &path);
            } else if let Some(value) = self.value(tree, field.shape, entry, &path, spelling) {
                self.put(&path, entry, value);
            }
        }
    }

    fn put(&mut self, path: &str, entry: &Entry, value: Value) {
        self.document.put(Setting {
            path: path.to_owned(),
            value,
            origin: Origin {
                source: self.file.to_owned(),
                key: entry.key.at,
                value: entry.value.at,
            },
        });
    }

    /// The entries whose keys are known; reports all others.
    fn known<'e>(
        &mut self,
        tree: &Tree,
        fields: &'static [Field],
        entries: &'e [Entry],
        parent: &str,
    ) -> Vec<(&'e Entry, &'static Field, Spelling)> {
        let mut first: HashMap<String, Position> = HashMap::new();
        let mut known = Vec::new();
        for entry in entries {
            if self.is_full() {
                break;
            }
            let Some(key) = entry.key.scalar() else {
                self.report(Finding::error(
                    Kind::UnknownKey,
                    entry.key.at,
                    if parent.is_empty() { "-" } else { parent },
                    format!("a {} as a key", entry.key.type_name()),
                ));
                continue;
            };
            let found = schema::resolve(fields, &key.text);
            let name = found.map_or(key.text.as_str(), |(field, _)| field.name);
            let path = join(parent, name);
            if let Some(at) = first.insert(name.to_owned(), entry.key.at) {
                self.duplicate(entry, &path, at);
            }
            match found {
                Some((field, spelling)) => {
                    if spelling.is_odd() {
                        let message = format!("accepted only by accident; the name is {name}");
                        self.report(
                            Finding::warning(Kind::OddAlias, entry.key.at, &path, message)
                                .wide(entry.key.width())
                                .help(format!("write: {name}:"))
                                .detail("suggest", name),
                        );
                    }
                    known.push((entry, field, spelling));
                }
                None => self.unknown(tree, fields, entry, &key.text, parent),
            }
        }
        known
    }

    fn duplicate(&mut self, entry: &Entry, path: &str, first: Position) {
        self.report(
            Finding::error(
                Kind::DuplicateKey,
                entry.key.at,
                path,
                format!("given before at {first}; only one of the two counts"),
            )
            .wide(entry.key.width())
            .help("keep one of them")
            .detail("first", first.to_string()),
        );
    }

    fn unknown(
        &mut self,
        tree: &Tree,
        fields: &'static [Field],
        entry: &Entry,
        key: &str,
        parent: &str,
    ) {
        let path = join(parent, key);
        let at = entry.key.at;
        let width = entry.key.width();
        if key
            .chars()
            .next()
            .is_some_and(crate::repair::is_smart_quote)
            || key
                .chars()
                .next_back()
                .is_some_and(crate::repair::is_smart_quote)
        {
            self.report(crate::repair::smart_quote(at, &path).wide(width));
            return;
        }
        let prefix = if parent.is_empty() {
            String::new()
        } else {
            format!("{parent}.")
        };
        // A word of the boot scripts.
        if self.scope == Scope::CommandLine
            && parent == "k3os"
            && matches!(key, "mode" | "fallback_mode" | "debug")
        {
            return;
        }
        if is_secret_path(key) {
            self.secrets.push((entry.value.at, entry.value.end));
        }
        if let Some(target) = schema::elsewhere(&prefix, key) {
            self.presumed.insert(target.clone());
            let message = format!("has no effect here; its place is {target}");
            let finding = Finding::error(Kind::MisplacedKey, at, path, message)
                .wide(width)
                .help(place_help(&target))
                .detail("move", target);
            self.report(finding);
            return;
        }
        let foreign = schema::foreign(&prefix, key);
        let suggestion = match foreign {
            Some((_, suggestion)) => suggestion.map(str::to_owned),
            None => schema::suggest(fields, &prefix, key),
        };
        if suggestion.is_none() && foreign.is_none() && tree.is_used(&entry.value) {
            let message = "no known key; it only carries an anchor, and is ignored otherwise";
            self.report(Finding::warning(Kind::UnknownKey, at, path, message).wide(width));
            return;
        }
        let mut finding = Finding::error(Kind::UnknownKey, at, path, "no such key").wide(width);
        if let Some((hint, _)) = foreign {
            finding.message = format!("no such key: {hint}");
        }
        if let Some(suggestion) = suggestion {
            let target = if suggestion.contains('.') || parent.is_empty() {
                suggestion.clone()
            } else {
                format!("{prefix}{suggestion}")
            };
            if is_secret_path(&target) {
                self.secrets.push((entry.value.at, entry.value.end));
            }
            self.presumed.insert(target);
            let shown = suggestion.replace('.', ": ");
            finding = finding
                .help(format!("did you mean {shown}?"))
                .detail("suggest", suggestion);
        } else if parent == "k3os" && flags::find(&key.replace('_', "-")).is_some() {
            let flag = key.replace('_', "-");
            finding = finding.help(format!(
                "a flag of K3s; write under k3s_args: - --{flag}=VALUE"
            ));
        } else if foreign.is_none() {
            let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
            finding = finding.help(format!("keys here: {}", names.join(", ")));
        }
        self.report(finding);
    }

    fn sub_block(&mut self, tree: &Tree, fields: &'static [Field], entry: &Entry, path: &str) {
        match &entry.value.data {
            Data::Mapping(entries) => self.block(tree, fields, entries, path),
            Data::Scalar(scalar) if scalar.resolve() == ScalarType::Null => {
                if path == "k3os" {
                    self.report(
                        Finding::error(
                            Kind::EmptyBlock,
                            entry.key.at,
                            path,
                            "nothing below it; an empty block erases what all weaker sources say",
                        )
                        .wide(entry.key.width())
                        .help("indent the lines that belong to it by two blanks, or remove it"),
                    );
                }
                self.put(path, entry, Value::Null);
            }
            _ => self.mismatch(&entry.value, path, "mapping", ""),
        }
    }

    fn value(
        &mut self,
        tree: &Tree,
        shape: Shape,
        entry: &Entry,
        path: &str,
        spelling: Spelling,
    ) -> Option<Value> {
        let node = &*entry.value;
        let null = node
            .scalar()
            .is_some_and(|scalar| scalar.resolve() == ScalarType::Null);
        if null {
            return Some(Value::Null);
        }
        let strict = spelling.is_strict() && self.scope != Scope::CommandLine;
        match shape {
            Shape::Text(rule) => self
                .string(node, rule, path)
                .map(|item| Value::Text(item.text)),
            Shape::List(rule) => self.list(node, rule, path, strict),
            Shape::Map(rule) => self.map(node, rule, path, strict),
            Shape::Flag => self.flag(node, path, strict),
            Shape::Records(fields) => self.records(tree, node, fields, path),
            Shape::Block(_) => None,
        }
    }

    fn list(&mut self, node: &Node, rule: Rule, path: &str, strict: bool) -> Option<Value> {
        let nodes: Vec<&Node> = match &node.data {
            Data::Sequence(items) => items.iter().map(|item| &**item).collect(),
            Data::Scalar(scalar) if scalar.resolve() == ScalarType::Text => {
                if strict {
                    let hint = "in this spelling of the key only a list is accepted";
                    self.mismatch(node, path, "sequence", hint);
                    return None;
                }
                vec![node]
            }
            _ => {
                self.mismatch(node, path, "sequence", "");
                return None;
            }
        };
        let mut items = Vec::new();
        for (index, node) in nodes.into_iter().enumerate() {
            if self.is_full() {
                break;
            }
            let item = self.string(node, rule, &format!("{path}[{index}]"));
            // The words of a command line mean something together, faulty ones included.
            let raw = node.scalar().filter(|_| rule == Rule::K3sArg);
            items.extend(item.or_else(|| {
                raw.map(|scalar| Item {
                    text: scalar.text.clone(),
                    at: node.at,
                })
            }));
        }
        Some(Value::List(items))
    }

    fn map(&mut self, node: &Node, rule: MapRule, path: &str, strict: bool) -> Option<Value> {
        let Data::Mapping(entries) = &node.data else {
            let hint = match rule {
                MapRule::Labels => "write: labels: {key: value}",
                _ => "",
            };
            self.mismatch(node, path, "mapping", hint);
            return None;
        };
        let mut first: HashMap<&str, Position> = HashMap::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut values: Vec<(String, Item)> = Vec::new();
        for entry in entries {
            if self.is_full() {
                break;
            }
            let Some(key) = entry.key.scalar() else {
                self.mismatch(&entry.key, path, "string", "");
                continue;
            };
            let path = join(path, &key.text);
            if let Some(at) = first.insert(&key.text, entry.key.at) {
                self.duplicate(entry, &path, at);
            }
            if matches!(key.resolve(), ScalarType::Boolean(_)) && self.scope != Scope::CommandLine {
                let message = "a boolean in YAML 1.1; taken as the text that stands here";
                self.report(
                    Finding::warning(Kind::CoercedToString, entry.key.at, &path, message)
                        .wide(entry.key.width())
                        .help(format!("put quotes around it: \"{}\"", key.text)),
                );
            }
            self.map_key(rule, &key.text, &entry.key, &path);
            let Some(scalar) = entry.value.scalar() else {
                self.mismatch(&entry.value, &path, "string", "");
                continue;
            };
            let text = match scalar.resolve() {
                ScalarType::Text => match self.map_value(rule, &entry.value, &path) {
                    Some(item) => item.text,
                    None => scalar.text.clone(),
                },
                ScalarType::Null => String::new(),
                other => {
                    if strict {
                        self.mismatch(&entry.value, &path, "string", "");
                        continue;
                    }
                    let message = format!("{} where text is expected", with_article(other.name()));
                    self.report(
                        Finding::warning(Kind::CoercedToString, entry.value.at, &path, message)
                            .wide(entry.value.width())
                            .help(format!("put quotes around it: \"{}\"", scalar.text)),
                    );
                    scalar.text.clone()
                }
            };
            let item = Item {
                text,
                at: entry.value.at,
            };
            match places.get(key.text.as_str()) {
                Some(place) => values[*place].1 = item,
                None => {
                    places.insert(&key.text, values.len());
                    values.push((key.text.clone(), item));
                }
            }
        }
        Some(Value::Map(values))
    }

    fn flag(&mut self, node: &Node, path: &str, strict: bool) -> Option<Value> {
        let Some(scalar) = node.scalar() else {
            self.mismatch(node, path, "boolean", "");
            return None;
        };
        match scalar.resolve() {
            ScalarType::Boolean(value) => Some(Value::Flag(value)),
            ScalarType::Text if !strict => {
                if !matches!(scalar.text.as_str(), "true" | "false") {
                    let message = format!("{:?} counts as false", scalar.text);
                    let finding = Finding::warning(Kind::BadBoolean, node.at, path, message)
                        .wide(node.width())
                        .help(if self.scope == Scope::CommandLine {
                            "write the bare key, or KEY=true"
                        } else {
                            "write: true or false"
                        });
                    self.report(finding);
                }
                Some(Value::Flag(scalar.text == "true"))
            }
            _ => {
                self.mismatch(node, path, "boolean", "");
                None
            }
        }
    }

    fn records(
        &mut self,
        tree: &Tree,
        node: &Node,
        fields: &'static [Field],
        path: &str,
    ) -> Option<Value> {
        let Data::Sequence(items) = &node.data else {
            let hint = "a list: put `- ` in front of each entry";
            self.mismatch(node, path, "sequence", hint);
            return None;
        };
        let mut records = Vec::new();
        for (index, node) in items.iter().enumerate() {
            if self.is_full() {
                break;
            }
            let path = format!("{path}[{index}]");
            let Data::Mapping(entries) = &node.data else {
                self.mismatch(node, &path, "mapping", "");
                continue;
            };
            let mut record = Record {
                at: node.at,
                fields: Vec::new(),
            };
            for (entry, field, _) in self.known(tree, fields, entries, &path) {
                let null = entry
                    .value
                    .scalar()
                    .is_some_and(|scalar| scalar.resolve() == ScalarType::Null);
                let Shape::Text(rule) = field.shape else {
                    continue;
                };
                let path = join(&path, field.name);
                let item = if null {
                    None
                } else {
                    self.string(&entry.value, rule, &path)
                };
                record.fields.retain(|(name, _)| *name != field.name);
                record.fields.extend(item.map(|item| (field.name, item)));
            }
            self.record(&record, fields[0].name, entries, &path);
            records.push(record);
        }
        Some(Value::Records(records))
    }

    /// A value of the wrong type.
    pub(super) fn mismatch(&mut self, node: &Node, path: &str, expected: &'static str, hint: &str) {
        let got = node.type_name();
        self.presumed
            .insert(path.split('[').next().unwrap_or(path).to_owned());
        self.faulty.insert(node.at);
        let secret = is_secret_path(path);
        if secret {
            self.secrets.push((node.at, node.end));
        }
        let help = match (&node.data, expected) {
            _ if !hint.is_empty() => hint.to_owned(),
            _ if self.scope == Scope::CommandLine => {
                "this cannot be given on the command line".to_owned()
            }
            (Data::Scalar(scalar), "string") if !secret => {
                format!("put quotes around it: \"{}\"", scalar.text)
            }
            (Data::Scalar(_), "string") => "put quotes around it".to_owned(),
            (Data::Mapping(entries), "string") if path.starts_with("ssh_authorized_keys") => {
                let name = entries
                    .first()
                    .and_then(|entry| Some((entry.key.scalar()?, entry.value.scalar()?)))
                    .map_or_else(
                        || "github:NAME".to_owned(),
                        |(key, value)| format!("{}:{}", key.text, value.text),
                    );
                format!("no blank after the colon: - {name}")
            }
            (Data::Mapping(_), "string") if path.starts_with("k3os.taints") => {
                "a taint is one string: KEY=VALUE:EFFECT".to_owned()
            }
            (Data::Mapping(_), "string") => {
                "a colon and a blank make a mapping; put quotes around the whole value".to_owned()
            }
            (Data::Sequence(_), "string") if path.contains("_cmd") => {
                "a command is one line for the shell, in quotes".to_owned()
            }
            (_, "boolean") => "write: true or false".to_owned(),
            (_, "sequence") => "write a list, each item on a line of its own after `- `".to_owned(),
            (_, "mapping") => "write `key: value` lines below it, indented".to_owned(),
            _ => "write one string".to_owned(),
        };
        let mut message = format!(
            "{} where a {expected} is expected; the whole configuration is rejected",
            with_article(got)
        );
        if path.ends_with(".permissions") && got == "integer" {
            message.push_str(" (without quotes an octal mode is another number)");
        }
        let finding = Finding::error(Kind::TypeMismatch, node.at, path, message)
            .wide(node.width())
            .help(help)
            .detail("expected", expected)
            .detail("got", got);
        self.report(finding);
    }

    /// A string that passed or failed its checks; `None` if it is none.
    fn string(&mut self, node: &Node, rule: Rule, path: &str) -> Option<Item> {
        let Some(scalar) = node
            .scalar()
            .filter(|scalar| scalar.resolve() == ScalarType::Text)
        else {
            self.mismatch(node, path, "string", "");
            return None;
        };
        self.judge(node, scalar, rule, path);
        Some(Item {
            text: scalar.text.clone(),
            at: node.at,
        })
    }
}

fn with_article(name: &str) -> String {
    let article = if name == "integer" { "an" } else { "a" };
    format!("{article} {name}")
}

/// Where a misplaced key goes, as it would be written.
fn place_help(target: &str) -> String {
    let parts: Vec<&str> = target.split('.').collect();
    match parts.as_slice() {
        [name] => format!("write `{name}:` at the beginning of a line, outside k3os"),
        _ => format!(
            "put it below `{}:`, indented",
            parts[..parts.len() - 1].join(": ")
        ),
    }
}

/// The nearest of some words, for values.
pub(super) fn near_word<'w>(word: &str, words: &[&'w str]) -> Option<&'w str> {
    spelling::nearest(word, words.iter().copied())
}
