//! What is wrong, where, and what to write instead.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::source::Position;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The node would not do what the file says.
    Error,
    /// It works, but probably not as meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The kinds of findings.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name that is printed.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

kinds! {
    /// Not parseable as YAML.
    YamlSyntax = "yaml-syntax",
    /// HTML, MIME, a list or plain text instead of a configuration.
    NotAConfig = "not-a-config",
    /// A second document, which is never read.
    MultiDocument = "multi-document",
    /// A key that means nothing.
    UnknownKey = "unknown-key",
    /// A known key at the wrong level.
    MisplacedKey = "misplaced-key",
    /// The same key twice, in whatever spelling.
    DuplicateKey = "duplicate-key",
    /// A spelling that is accepted only by accident.
    OddAlias = "odd-alias",
    /// A value of the wrong type.
    TypeMismatch = "type-mismatch",
    /// A number or boolean that becomes text.
    CoercedToString = "coerced-to-string",
    /// `k3os:` with nothing under it.
    EmptyBlock = "empty-block",
    /// A remark in parentheses that became part of the value.
    AnnotationInValue = "annotation-in-value",
    /// Typographic quotes.
    SmartQuotes = "smart-quotes",
    /// Copied from documentation and never filled in.
    Placeholder = "placeholder",
    /// Not a host name.
    BadHostname = "bad-hostname",
    /// Not an IP address.
    BadIp = "bad-ip",
    /// Not a usable URL.
    BadUrl = "bad-url",
    /// A token that cannot be used.
    BadToken = "bad-token",
    /// Not a Kubernetes label.
    BadLabel = "bad-label",
    /// Not a Kubernetes taint.
    BadTaint = "bad-taint",
    /// Not the name of a kernel setting.
    BadSysctl = "bad-sysctl",
    /// Not the name of an environment variable.
    BadEnvName = "bad-env-name",
    /// Not an octal file mode.
    BadPermissions = "bad-permissions",
    /// An unknown encoding, or content that is not so encoded.
    BadEncoding = "bad-encoding",
    /// An entry lacks a key that it needs.
    MissingKey = "missing-key",
    /// A data source that does not exist.
    UnknownDataSource = "unknown-data-source",
    /// Not a public SSH key.
    BadSshKey = "bad-ssh-key",
    /// An argument that K3s does not take.
    BadK3sArg = "bad-k3s-arg",
    /// An argument that K3s took once.
    DeprecatedK3sArg = "deprecated-k3s-arg",
    /// A boolean that is silently false.
    BadBoolean = "bad-boolean",
    /// Two settings that exclude each other.
    Conflict = "conflict",
    /// A node that joins, without a token.
    MissingToken = "missing-token",
    /// An agent without a server to join.
    MissingServerUrl = "missing-server-url",
    /// Nodes of one cluster with different tokens.
    TokenMismatch = "token-mismatch",
    /// Every server joins, none founds the cluster.
    NoBootstrapServer = "no-bootstrap-server",
    /// Two servers found a cluster each.
    SecondBootstrapServer = "second-bootstrap-server",
    /// Two nodes with one name.
    DuplicateNodeName = "duplicate-node-name",
    /// Servers that differ where they must agree.
    CriticalFlagMismatch = "critical-flag-mismatch",
    /// A number of servers that adds no safety.
    EvenServerCount = "even-server-count",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub at: Position,
    /// How many characters are meant.
    pub width: usize,
    /// How bad.
    pub severity: Severity,
    /// What kind.
    pub kind: Kind,
    /// Which setting, as in `k3os.k3s_args[1]`; `-` if none.
    pub path: String,
    /// What is wrong, for people.
    pub message: String,
    /// What to write instead, for people.
    pub help: Option<String>,
    /// More for machines: `suggest`, `move`, `first`, `with`, `other`, `expected`, `got`, ….
    pub details: Vec<(&'static str, String)>,
}

impl Finding {
    pub(crate) fn new(
        severity: Severity,
        kind: Kind,
        at: Position,
        path: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            at,
            width: 1,
            severity,
            kind,
            path: path.into(),
            message: message.into(),
            help: None,
            details: Vec::new(),
        }
    }

    pub(crate) fn error(
        kind: Kind,
        at: Position,
        path: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Error, kind, at, path, message)
    }

    pub(crate) fn warning(
        kind: Kind,
        at: Position,
        path: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::new(Severity::Warning, kind, at, path, message)
    }

    pub(crate) fn wide(mut self, width: usize) -> Self {
        self.width = width.max(1);
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn detail(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.details.push((name, value.into()));
        self
    }

    /// A detail by name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.details
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The finding as an object.
    pub fn to_json(&self, file: &str) -> Value {
        let mut object = Map::new();
        object.insert("file".into(), json!(file));
        object.insert("line".into(), json!(self.at.line));
        object.insert("column".into(), json!(self.at.column));
        object.insert("severity".into(), json!(self.severity.to_string()));
        object.insert("kind".into(), json!(self.kind.name()));
        object.insert("path".into(), json!(self.path));
        object.insert("message".into(), json!(self.message));
        if let Some(help) = &self.help {
            object.insert("help".into(), json!(help));
        }
        for (name, value) in &self.details {
            object.insert((*name).into(), json!(value));
        }
        Value::Object(object)
    }

    /// The finding for people: one line, the place in the source, and the way out. `line` is
    /// the source line, with secrets already masked.
    pub fn to_text(&self, file: &str, line: Option<&str>) -> String {
        let mut text = format!(
            "{file}:{} {} {} {}: {}\n",
            self.at, self.severity, self.kind, self.path, self.message
        );
        let number = self.at.line.to_string();
        let gutter = " ".repeat(number.len());
        if let Some(line) = line {
            let (shown, column) = window(line, self.at.column);
            let room = shown.chars().count().saturating_sub(column - 1).max(1);
            text.push_str(&format!(
                "{gutter} |\n{number} | {shown}\n{gutter} | {}{}\n",
                " ".repeat(column - 1),
                "^".repeat(self.width.min(room)),
            ));
        }
        if let Some(help) = &self.help {
            let mut lines = help.lines();
            if let Some(first) = lines.next() {
                text.push_str(&format!("{gutter} = {first}\n"));
            }
            for more in lines {
                text.push_str(&format!("{gutter}   {more}\n"));
            }
        }
        text
    }
}

/// Characters of a source line that fit beside the line number.
const SHOWN: usize = 110;

/// The part of a line around a column, and the column within it. Control characters become
/// blanks so that the underline stays in place.
fn window(line: &str, column: usize) -> (String, usize) {
    let clean = |character: char| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    };
    let length = line.chars().count();
    let skip = if length > SHOWN && column > SHOWN * 2 / 3 {
        (column - SHOWN / 2).min(length.saturating_sub(SHOWN / 2))
    } else {
        0
    };
    let mut shown = String::new();
    let mut column = column - skip;
    if skip > 0 {
        shown.push_str("... ");
        column += 4;
    }
    shown.extend(line.chars().skip(skip).take(SHOWN).map(clean));
    if length > skip + SHOWN {
        shown.push_str(" ...");
    }
    (shown, column.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_kinds_as_documented() {
        assert_eq!(Kind::ALL.len(), 38);
    }

    #[test]
    fn the_underline_stays_below_its_text_in_a_long_line() {
        let line = format!("{}HERE{}", "x".repeat(300), "y".repeat(300));
        let finding = Finding::error(Kind::BadUrl, Position::new(1, 301), "-", "m").wide(4);
        let text = finding.to_text("f", Some(&line));
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows[2].find("HERE"), rows[3].find("^^^^"), "{text}");
    }
}
