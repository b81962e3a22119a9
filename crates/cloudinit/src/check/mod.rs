//! One file: what it says, and everything that is wrong with it.

mod args;
mod text;
mod values;
mod walk;

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value as Json;

use crate::cmdline;
use crate::config::Document;
use crate::finding::{Finding, Kind, Severity};
use crate::repair;
use crate::secrets;
use crate::source::{MAX_BYTES, Position, lines};
use crate::tree::{Data, Tree};

pub(crate) use values::split_authority;

/// Findings of one file that are kept; more would help nobody.
const MAX_FINDINGS: usize = 1000;

/// Longest kernel command line, in bytes; kernels allow 4 KiB or less.
const MAX_COMMAND_LINE: usize = 1 << 16;

/// How gzip begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What came out of a check.
pub struct Report {
    /// The name of the file.
    pub file: String,
    /// Everything that is wrong, in the order of the file.
    pub findings: Vec<Finding>,
    /// What the file says; only to be relied on if there are no errors.
    pub document: Document,
    /// There was more than is kept.
    pub truncated: bool,
    /// Source lines with secrets masked.
    lines: Vec<String>,
}

// The source may hold secrets where nothing is wrong.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("file", &self.file)
            .field("findings", &self.findings)
            .finish_non_exhaustive()
    }
}

impl Report {
    /// Whether anything is an error.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Findings of one severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    }

    /// A finding with its place in the source, for people.
    pub fn show(&self, finding: &Finding) -> String {
        let line = self.lines.get(finding.at.line - 1).map(String::as_str);
        finding.to_text(&self.file, line)
    }

    /// A report without findings, for sources that cannot be wrong.
    pub(crate) fn clean(file: &str, document: Document) -> Self {
        Self {
            file: file.to_owned(),
            findings: Vec::new(),
            document,
            truncated: false,
            lines: Vec::new(),
        }
    }

    /// Adds findings, in the order of the file.
    pub(crate) fn add(&mut self, findings: Vec<Finding>) {
        self.findings.extend(findings);
        self.findings.sort_by_key(|finding| finding.at);
    }

    /// All findings, for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            text.push_str(&self.show(finding));
        }
        if self.truncated {
            text.push_str(&format!(
                "{}: more than {MAX_FINDINGS} findings; the rest is not shown\n",
                self.file
            ));
        }
        text
    }

    /// All findings, one object each.
    pub fn to_json(&self) -> Vec<Json> {
        self.findings
            .iter()
            .map(|finding| finding.to_json(&self.file))
            .collect()
    }
}

/// How much of a node's configuration a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of it: what is absent is missing.
    Whole,
    /// One of several sources.
    Part,
    /// A kernel command line.
    CommandLine,
}

/// Checks a file as the whole configuration of a node.
pub fn check(file: &str, bytes: &[u8]) -> Report {
    check_scope(file, bytes, Scope::Whole)
}

/// Checks a kernel command line.
pub fn check_command_line(file: &str, bytes: &[u8]) -> Report {
    check_scope(file, bytes, Scope::CommandLine)
}

pub(crate) fn check_scope(file: &str, bytes: &[u8], scope: Scope) -> Report {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let refused = |finding: Finding| Report {
        file: file.to_owned(),
        lines: legible(bytes, finding.at),
        findings: vec![finding],
        document: Document::default(),
        truncated: false,
    };
    if let Some(finding) = not_a_config(bytes) {
        return refused(finding);
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let (before, _) = bytes.split_at(error.valid_up_to());
            let before = String::from_utf8_lossy(before);
            let line = before.matches('\n').count() + 1;
            let column = before
                .rsplit('\n')
                .next()
                .unwrap_or_default()
                .chars()
                .count()
                + 1;
            let message = "not UTF-8 text";
            return refused(Finding::error(
                Kind::YamlSyntax,
                Position::new(line, column),
                "-",
                message,
            ));
        }
    };
    if scope == Scope::CommandLine {
        if text.len() > MAX_COMMAND_LINE {
            let message = "too long for a kernel command line";
            return refused(Finding::error(
                Kind::NotAConfig,
                Position::START,
                "-",
                message,
            ));
        }
        let (tree, mut findings) = cmdline::read(text);
        findings.truncate(MAX_FINDINGS);
        return Checker::new(file, text, scope, findings, true).finish(&tree);
    }
    if let Some(finding) = wrong_format(text) {
        return refused(finding);
    }
    let readable = repair::read(text);
    let mut checker = Checker::new(file, text, scope, readable.findings, readable.exact);
    checker.hide_unread();
    checker.finish(&readable.tree)
}

/// The lines up to a place in something that is no configuration, if they can be shown.
fn legible(bytes: &[u8], at: Position) -> Vec<String> {
    const SHOWN: usize = 1 << 16;
    let start = &bytes[..bytes.len().min(SHOWN)];
    if start.contains(&0) || start.starts_with(&GZIP) {
        return Vec::new();
    }
    let mut lines = lines(&String::from_utf8_lossy(start));
    lines.truncate(at.line);
    match lines.last() {
        Some(line) if secrets::speaks_of_secret(line) => Vec::new(),
        _ => lines,
    }
}

/// What is wrong with a configuration as a whole, whose parts are in order.
pub(crate) fn check_effective(document: &Document) -> Vec<Finding> {
    let mut checker = Checker::new("", "", Scope::Whole, Vec::new(), true);
    checker.document = document.clone();
    checker.arguments();
    checker.findings
}

/// What cannot be a configuration, by its bytes.
fn not_a_config(bytes: &[u8]) -> Option<Finding> {
    let error = |message: String| Finding::error(Kind::NotAConfig, Position::START, "-", message);
    if bytes.len() > MAX_BYTES {
        return Some(error(format!(
            "{} bytes; a configuration has at most {MAX_BYTES}",
            bytes.len()
        )));
    }
    if bytes.starts_with(&GZIP) {
        return Some(
            error("gzip, not text; compressed configurations are not understood".into())
                .help("unpack it first"),
        );
    }
    bytes
        .contains(&0)
        .then(|| error("binary data (it holds a NUL byte), not a configuration".into()))
}

/// Text in another format, recognised before a YAML parser says something confusing.
fn wrong_format(text: &str) -> Option<Finding> {
    let start = text.trim_start();
    let head: String = start
        .chars()
        .take(64)
        .collect::<String>()
        .to_ascii_lowercase();
    let skipped = &text[..text.len() - start.len()];
    let at = Position::new(
        skipped.matches('\n').count() + 1,
        skipped
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1,
    );
    let error = |message: &str| Finding::error(Kind::NotAConfig, at, "-", message);
    if ["<!doctype", "<html", "<head", "<?xml", "<body"]
        .iter()
        .any(|tag| head.starts_with(tag))
    {
        return Some(
            error("this is a web page, not a configuration").help(
                "a paste site shows a page around the text; fetch the raw form, e.g. https://pastebin.com/raw/ID",
            ),
        );
    }
    if head.starts_with("content-type:") || head.starts_with("mime-version:") {
        return Some(
            error("a MIME multipart message; only plain YAML is understood")
                .help("keep only the part that holds the configuration"),
        );
    }
    if head.starts_with("#!") {
        return Some(
            error("a script, not a configuration")
                .help("put its commands under run_cmd:, or the script under write_files:"),
        );
    }
    None
}

/// The state of a check.
pub(crate) struct Checker<'a> {
    file: &'a str,
    source: &'a str,
    scope: Scope,
    exact: bool,
    findings: Vec<Finding>,
    document: Document,
    /// First and behind-the-last place of every secret.
    secrets: Vec<(Position, Position)>,
    /// Paths that are probably meant by something misspelt or mistyped: not missing.
    presumed: BTreeSet<String>,
    /// Values that have an error already.
    faulty: BTreeSet<Position>,
}

impl<'a> Checker<'a> {
    fn new(
        file: &'a str,
        source: &'a str,
        scope: Scope,
        findings: Vec<Finding>,
        exact: bool,
    ) -> Self {
        Self {
            file,
            source,
            scope,
            exact,
            findings,
            document: Document::default(),
            secrets: Vec::new(),
            presumed: BTreeSet::new(),
            faulty: BTreeSet::new(),
        }
    }

    fn finish(mut self, tree: &Tree) -> Report {
        if let Some(at) = tree.second_document {
            self.report(
                Finding::error(
                    Kind::MultiDocument,
                    at,
                    "-",
                    "a second document; only the first is ever read",
                )
                .wide(3)
                .help("move its settings up and remove the line with ---"),
            );
        }
        if let Some(root) = &tree.root {
            match &root.data {
                Data::Mapping(entries) => {
                    self.root(tree, entries);
                    self.arguments();
                }
                Data::Scalar(scalar) if scalar.text.is_empty() => {}
                _ if !self.exact => {}
                _ => self.report(
                    Finding::error(
                        Kind::NotAConfig,
                        root.at,
                        "-",
                        format!("a {} instead of keys and values", root.type_name()),
                    )
                    .help("the file consists of lines like `hostname: node1`"),
                ),
            }
        }
        self.findings.sort_by_key(|finding| finding.at);
        let mut seen = BTreeSet::new();
        // An alias shows the same place again.
        self.findings.retain(|finding| {
            seen.insert((
                finding.at,
                finding.kind,
                finding.get("flag").map(str::to_owned),
            ))
        });
        let truncated = self.is_full();
        self.findings.truncate(MAX_FINDINGS);
        Report {
            file: self.file.to_owned(),
            findings: self.findings,
            document: self.document,
            truncated,
            lines: masked(self.source, &self.secrets),
        }
    }

    /// Hides what looks like a secret on lines that could not be read.
    fn hide_unread(&mut self) {
        let lines = lines(self.source);
        for finding in &self.findings {
            let number = finding.at.line;
            let Some(line) = lines.get(number - 1) else {
                continue;
            };
            if secrets::speaks_of_secret(line) {
                let behind = line
                    .chars()
                    .position(|c| matches!(c, ':' | '='))
                    .unwrap_or(0)
                    + 2;
                let end = Position::new(number + 1, 1);
                self.secrets.push((Position::new(number, behind), end));
            }
        }
    }

    pub(crate) fn report(&mut self, finding: Finding) {
        if !self.is_full() {
            self.findings.push(finding);
        }
    }

    /// Nothing more needs to be looked at.
    pub(crate) fn is_full(&self) -> bool {
        self.findings.len() > MAX_FINDINGS
    }
}

/// The lines of a file with stars for every character of a secret.
fn masked(source: &str, secrets: &[(Position, Position)]) -> Vec<String> {
    let mut lines = lines(source);
    for (from, to) in secrets {
        for number in from.line..=to.line {
            let Some(line) = lines.get_mut(number - 1) else {
                break;
            };
            let first = if number == from.line { from.column } else { 1 };
            let last = if number == to.line {
                to.column
            } else {
                usize::MAX
            };
            *line = line
                .chars()
                .enumerate()
                .map(|(index, character)| {
                    let inside = (first..last).contains(&(index + 1));
                    if inside && !matches!(character, '"' | '\'' | ' ') {
                        '*'
                    } else {
                        character
                    }
                })
                .collect();
        }
    }
    lines
}
