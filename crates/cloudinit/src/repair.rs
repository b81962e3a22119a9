//! Syntax errors: where they really are, what to write instead, and how to read on.
//!
//! After an error the offending text is taken out of a copy, place for place, and the copy is
//! parsed again, so that one run shows everything else that is wrong too.

use granit_parser::ErrorKind;

use crate::finding::{Finding, Kind};
use crate::secrets;
use crate::source::{Position, lines};
use crate::tree::{self, Data, Node, SyntaxError, SyntaxKind, Tree};

/// A file read as far as it can be.
pub(crate) struct Readable {
    pub(crate) tree: Tree,
    pub(crate) findings: Vec<Finding>,
    /// Nothing had to be guessed: what is absent from the tree is absent from the file.
    pub(crate) exact: bool,
}

/// Parses `text`, working around errors.
pub(crate) fn read(text: &str) -> Readable {
    let mut readable = Readable {
        tree: Tree::default(),
        findings: Vec::new(),
        exact: true,
    };
    let mut lines = lines(text);
    // Every attempt reads the whole file again.
    let attempts = if text.len() <= 1 << 16 { 64 } else { 4 };
    let mut current = text.to_owned();
    let mut after_quote = Vec::new();
    // Once lines were taken out, further errors in the structure may be consequences.
    let mut intact = true;
    for _ in 0..attempts {
        match tree::parse(&current) {
            Ok(tree) => {
                readable.tree = tree;
                name_values(&mut readable, &after_quote);
                return readable;
            }
            Err(error) => {
                let (found, repair) = diagnose(&lines, &error);
                if intact || repair.is_local() {
                    if matches!(repair, Repair::BlankFrom(..)) {
                        after_quote.push(readable.findings.len());
                    }
                    readable.findings.extend(found);
                }
                if !apply(&mut lines, &repair) {
                    break;
                }
                readable.exact &= repair.is_exact();
                intact &= repair.is_local();
                current = lines.join("\n");
            }
        }
    }
    readable.exact = false;
    readable
}

/// A change to the copy that keeps every place where it was.
enum Repair {
    /// Blanks from a column (from 0) to the end of a line: surely what was meant.
    BlankFrom(usize, usize),
    /// Another character at this place: surely what was meant.
    Put(usize, usize, char),
    /// An empty string from a column (from 0) to the end of a line.
    Empty(usize, usize),
    /// A character at the end of a line.
    Append(usize, char),
    /// Blanks for leading tabs, everywhere.
    Tabs,
    /// Without this line.
    BlankLine(usize),
    Hopeless,
}

impl Repair {
    fn is_exact(&self) -> bool {
        matches!(self, Self::BlankFrom(..) | Self::Put(..))
    }

    /// Whether only the one line is concerned, so that its error is no consequence of another.
    fn is_local(&self) -> bool {
        matches!(
            self,
            Self::BlankFrom(..) | Self::Put(..) | Self::Empty(..) | Self::Append(..)
        )
    }
}

/// Whether anything changed.
fn apply(lines: &mut [String], repair: &Repair) -> bool {
    match *repair {
        Repair::BlankFrom(line, column) => {
            lines[line] = lines[line].chars().take(column).collect();
            true
        }
        Repair::Put(line, column, character) => {
            lines[line] = lines[line]
                .chars()
                .take(column)
                .chain([character])
                .collect();
            true
        }
        Repair::Empty(line, column) => {
            lines[line] = lines[line].chars().take(column).chain(['"', '"']).collect();
            true
        }
        Repair::Append(line, character) => {
            lines[line].push(character);
            true
        }
        Repair::Tabs => {
            for line in lines.iter_mut() {
                let content = line.trim_start_matches([' ', '\t']);
                let blanks = line.len() - content.len();
                *line = format!("{}{content}", " ".repeat(blanks));
            }
            true
        }
        Repair::BlankLine(line) => {
            // A line that is already gone: the trouble is in what stands before it.
            let victim = (0..=line).rev().find(|at| !lines[*at].trim().is_empty());
            if let Some(victim) = victim {
                lines[victim].clear();
            }
            victim.is_some()
        }
        Repair::Hopeless => false,
    }
}

fn diagnose(lines: &[String], error: &SyntaxError) -> (Vec<Finding>, Repair) {
    let at = error.at;
    let simple = |at, message: &str| Finding::error(Kind::YamlSyntax, at, "-", message);
    let kind = match &error.kind {
        SyntaxKind::Parser(kind) => kind,
        SyntaxKind::TooDeep => {
            let message = "nested too deeply for a configuration";
            return (vec![simple(at, message)], Repair::Hopeless);
        }
        SyntaxKind::AliasBomb => {
            let message = "aliases that contain themselves or expand without measure";
            return (vec![simple(at, message)], Repair::Hopeless);
        }
        SyntaxKind::BadBinary => {
            let finding = simple(at, "!!binary, but the value is not base64");
            return (
                vec![finding],
                Repair::BlankLine(at.line.saturating_sub(1).min(lines.len() - 1)),
            );
        }
    };
    let line = at.line.saturating_sub(1).min(lines.len() - 1);
    let text = &lines[line];

    let indent: Vec<char> = text
        .chars()
        .take_while(|c| matches!(c, ' ' | '\t'))
        .collect();
    if let Some(tab) = indent.iter().position(|c| *c == '\t') {
        let finding = simple(
            Position::new(line + 1, tab + 1),
            "a tab used as indentation; YAML allows only blanks there",
        )
        .help("replace every tab at the beginning of a line by two blanks");
        return (vec![finding], Repair::Tabs);
    }
    for candidate in [Some(line), line.checked_sub(1)].into_iter().flatten() {
        if let Some(column) = after_quoted_value(&lines[candidate]) {
            let finding = trailing_text(&lines[candidate], candidate, column);
            return (vec![finding], Repair::BlankFrom(candidate, column));
        }
    }
    if matches!(
        kind,
        ErrorKind::UnclosedQuotedScalar
            | ErrorKind::DocumentIndicatorInQuotedScalar
            | ErrorKind::InvalidQuotedScalarIndent
    ) && let Some(quote) = text
        .chars()
        .nth(at.column - 1)
        .filter(|c| matches!(c, '"' | '\''))
    {
        return unclosed(text, line, at.column - 1, quote);
    }
    let (at, message, help) = explain(lines, line, at, kind);
    let width = lines[line].chars().count().saturating_sub(at.column - 1);
    let mut finding = simple(at, &message).wide(if at.line == line + 1 { width } else { 1 });
    finding.help = help;
    let in_value = matches!(
        kind,
        ErrorKind::UnknownAnchor | ErrorKind::UnexpectedCharacter { .. }
    ) || text
        .chars()
        .take(at.column - 1)
        .collect::<String>()
        .contains(": ");
    let repair = in_value
        .then(|| without_value(text, line))
        .flatten()
        .unwrap_or(Repair::BlankLine(line));
    (vec![finding], repair)
}

/// Keys of records, which begin an item without being its value.
const RECORD_KEYS: &[&str] = &[
    "path",
    "content",
    "encoding",
    "owner",
    "permissions",
    "name",
    "passphrase",
    "pass",
    "password",
];

/// The columns (from 0) where the item and the value of a line begin: behind dashes, and behind
/// a key if there is one.
fn value_columns(characters: &[char]) -> Option<(usize, usize)> {
    let mut item = skip_blanks(characters, 0);
    while characters.get(item) == Some(&'-') && characters.get(item + 1) == Some(&' ') {
        item = skip_blanks(characters, item + 1);
    }
    if matches!(
        characters.get(item),
        Some('"' | '\'' | '*' | '&' | '@' | '`' | '%')
    ) {
        return Some((item, item));
    }
    let key = characters[item..]
        .iter()
        .position(|c| matches!(c, ':' | '"' | '\'' | '#' | '[' | '{'))?;
    (characters[item + key] == ':' && characters.get(item + key + 1) == Some(&' '))
        .then(|| (item, skip_blanks(characters, item + key + 1)))
}

/// A repair that puts an empty string in place of the value of a line.
fn without_value(text: &str, line: usize) -> Option<Repair> {
    let characters: Vec<char> = text.chars().collect();
    let (item, value) = value_columns(&characters)?;
    let key: String = characters[item..value].iter().collect();
    let in_list = text.trim_start().starts_with("- ");
    let record = RECORD_KEYS.contains(&key.trim_end().trim_end_matches(':'));
    Some(Repair::Empty(
        line,
        if in_list && !record { item } else { value },
    ))
}

/// The column (from 0) of text behind a quoted value, if the line has such.
fn after_quoted_value(line: &str) -> Option<usize> {
    let characters: Vec<char> = line.chars().collect();
    let (_, mut at) = value_columns(&characters)?;
    let quote = *characters.get(at).filter(|c| matches!(c, '"' | '\''))?;
    at += 1;
    loop {
        let character = *characters.get(at)?;
        if character == '\\' && quote == '"' {
            at += 1;
        } else if character == quote {
            if quote == '\'' && characters.get(at + 1) == Some(&'\'') {
                at += 1;
            } else {
                break;
            }
        }
        at += 1;
    }
    let rest = skip_blanks(&characters, at + 1);
    characters
        .get(rest)
        .filter(|c| !matches!(c, '#' | ':' | ',' | ']' | '}'))
        .map(|_| rest)
}

fn skip_blanks(characters: &[char], from: usize) -> usize {
    characters[from.min(characters.len())..]
        .iter()
        .position(|c| !matches!(c, ' ' | '\t'))
        .map_or(characters.len(), |blanks| from + blanks)
}

fn trailing_text(line: &str, number: usize, column: usize) -> Finding {
    let before: String = line.chars().take(column).collect();
    let rest: String = line.chars().skip(column).collect();
    let rest = rest.trim_end();
    let in_parentheses = rest.starts_with('(');
    let message = if in_parentheses {
        "a remark in parentheses after the closing quote; YAML cannot read it, and nothing of the file is applied"
    } else {
        "text after the closing quote; YAML cannot read it, and nothing of the file is applied"
    };
    let remark = rest
        .strip_prefix('(')
        .map_or(rest, |inner| inner.strip_suffix(')').unwrap_or(inner));
    let key = before.split(':').next().unwrap_or_default().trim();
    let secret =
        secrets::is_secret_path(key.trim_start_matches("- ")) || secrets::speaks_of_secret(&before);
    let shown = if secret {
        "…".to_owned()
    } else {
        before.trim().to_owned()
    };
    let help = if in_parentheses {
        format!("a remark begins with #; write:\n{shown}  # {remark}")
    } else {
        "if it belongs to the value, put single quotes around all of it; a remark begins with #"
            .to_owned()
    };
    Finding::error(
        Kind::YamlSyntax,
        Position::new(number + 1, column + 1),
        "-",
        message,
    )
    .wide(rest.chars().count())
    .help(help)
}

fn unclosed(text: &str, line: usize, opening: usize, quote: char) -> (Vec<Finding>, Repair) {
    let at = Position::new(line + 1, opening + 1);
    let mut findings = vec![
        Finding::error(
            Kind::YamlSyntax,
            at,
            "-",
            format!("the string that begins with {quote} here never ends"),
        )
        .help(format!("close it with the same straight quote: {quote}")),
    ];
    let curly = text
        .chars()
        .enumerate()
        .skip(opening + 1)
        .find(|(_, character)| is_smart_quote(*character));
    let repair = match curly {
        Some((column, _)) => {
            findings.push(smart_quote(Position::new(line + 1, column + 1), "-"));
            Repair::Put(line, column, quote)
        }
        None => Repair::Append(line, quote),
    };
    (findings, repair)
}

/// Typographic quotes, as word processors and paste sites make them.
pub(crate) fn is_smart_quote(character: char) -> bool {
    matches!(character, '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}')
}

pub(crate) fn smart_quote(at: Position, path: &str) -> Finding {
    Finding::error(
        Kind::SmartQuotes,
        at,
        path,
        "a typographic quote is an ordinary character here and becomes part of the value",
    )
    .help("use the straight quotes \" or '")
}

/// Message and help for the errors that have a usual cause.
fn explain(
    lines: &[String],
    line: usize,
    at: Position,
    kind: &ErrorKind,
) -> (Position, String, Option<String>) {
    let text = &lines[line];
    let indent_of = |text: &str| text.len() - text.trim_start_matches(' ').len();
    let above = lines[..line]
        .iter()
        .rev()
        .find(|text| !text.trim().is_empty() && !text.trim_start().starts_with('#'));
    match kind {
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidMappingValueWhitespace => {
            let before: String = text.chars().take(at.column - 1).collect();
            if before.contains(": ") {
                let help = "put quotes around the value";
                return (
                    at,
                    "a colon and a blank inside a value without quotes".into(),
                    Some(help.into()),
                );
            }
            if let Some(above) = above
                && indent_of(text) > indent_of(above)
            {
                let more = indent_of(text) - indent_of(above);
                let place = Position::new(line + 1, indent_of(text) + 1);
                let message = format!(
                    "indented by {more} more than the line above, which has a value and cannot have anything below it"
                );
                let help = "keys of one block begin in the same column".to_owned();
                return (place, message, Some(help));
            }
        }
        ErrorKind::UnknownAnchor => {
            return (
                at,
                "a value that begins with * is an alias, and there is no such anchor".into(),
                Some("put quotes around the value".into()),
            );
        }
        ErrorKind::UnexpectedCharacter { character } => {
            return (
                at,
                format!("a value without quotes cannot begin with {character:?}"),
                Some("put quotes around the value".into()),
            );
        }
        ErrorKind::SimpleKeyExpected
        | ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::ExpectedBlockSequenceEntry => {
            if let Some(above) = above
                && indent_of(text) < indent_of(above)
                && indent_of(text) > 0
            {
                let help = "keys of one block begin in the same column".to_owned();
                let message = "this line is indented like none of the blocks it could belong to";
                return (at, message.into(), Some(help));
            }
            return (
                at,
                "neither `key: value` nor `- item`".into(),
                Some("a key is followed by a colon and a blank, an item preceded by a dash and a blank".into()),
            );
        }
        ErrorKind::UnclosedFlowCollection { open } => {
            return (
                at,
                format!("the {open} that opens here is never closed"),
                None,
            );
        }
        _ => {}
    }
    (at, kind.to_string(), None)
}

/// Says which values the text behind closing quotes follows.
fn name_values(readable: &mut Readable, findings: &[usize]) {
    for index in findings {
        let Some(at) = readable.findings.get(*index).map(|finding| finding.at) else {
            continue;
        };
        let path = readable
            .tree
            .root
            .as_ref()
            .and_then(|root| path_before(root, String::new(), at));
        if let (Some(path), Some(finding)) = (path, readable.findings.get_mut(*index)) {
            finding.path = path;
        }
    }
}

/// The path of the value that ends on the line of `at`, before it.
fn path_before(node: &Node, path: String, at: Position) -> Option<String> {
    match &node.data {
        Data::Scalar(_) => {
            (node.at.line == at.line && node.end.line == at.line && node.end <= at).then_some(path)
        }
        Data::Sequence(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| path_before(item, format!("{path}[{index}]"), at)),
        Data::Mapping(entries) => entries.iter().find_map(|entry| {
            let key = &entry.key.scalar()?.text;
            let below = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}{}", crate::config::path_key(key))
            };
            path_before(&entry.value, below, at)
        }),
    }
}
