//! What people leave in values: remarks, typographic quotes, placeholders.

use super::Checker;
use crate::finding::{Finding, Kind, Severity};
use crate::repair::{is_smart_quote, smart_quote};
use crate::scalar::Scalar;
use crate::schema::Rule;
use crate::secrets::is_secret_path;
use crate::source::Position;
use crate::tree::Node;

impl Checker<'_> {
    /// Every check of a string.
    pub(super) fn judge(&mut self, node: &Node, scalar: &Scalar, rule: Rule, path: &str) {
        let prose = !matches!(rule, Rule::Command | Rule::Content | Rule::Password);
        let mut text = scalar.text.as_str();
        let mut end = node.end;
        if scalar.is_plain() && rule != Rule::Content && self.quotes(node, scalar, path) {
            self.hide(path, node.at, end);
            return;
        }
        if scalar.is_plain()
            && prose
            && let Some((index, before)) = annotation(text)
        {
            let at = self.annotation(node, index, rule, path, text.split_at(before.len()));
            if at.line == node.at.line {
                end = at;
            }
            text = before;
        }
        self.hide(path, node.at, end);
        if prose && self.placeholder(node, text, rule, path) {
            return;
        }
        self.rule(rule, text, node, path);
    }

    /// Remembers a secret.
    pub(super) fn hide(&mut self, path: &str, from: Position, to: Position) {
        if is_secret_path(path) {
            self.secrets.push((from, to));
        }
    }

    /// Typographic quotes at the edge of a plain value.
    pub(super) fn quotes(&mut self, node: &Node, scalar: &Scalar, path: &str) -> bool {
        let text = &scalar.text;
        let edge = text.chars().next().is_some_and(is_smart_quote)
            || text.chars().next_back().is_some_and(is_smart_quote);
        if !edge {
            return false;
        }
        let index = if node.end.line == node.at.line {
            text.chars().position(is_smart_quote).unwrap_or(0)
        } else {
            0
        };
        self.faulty.insert(node.at);
        self.report(smart_quote(node.at.right(index), path));
        true
    }

    fn annotation(
        &mut self,
        node: &Node,
        index: usize,
        rule: Rule,
        path: &str,
        (before, rest): (&str, &str),
    ) -> Position {
        let at = if node.end.line == node.at.line {
            node.at.right(index)
        } else {
            node.at
        };
        let (severity, message) = if rule == Rule::SshKey {
            (
                Severity::Warning,
                "the remark in parentheses becomes part of the key's comment",
            )
        } else {
            (
                Severity::Error,
                "the remark in parentheses becomes part of the value",
            )
        };
        let remark = rest.trim().trim_start_matches('(').trim_end_matches(')');
        let shown = if is_secret_path(path) || rule == Rule::K3sArg {
            "…"
        } else {
            before
        };
        self.report(
            Finding::new(severity, Kind::AnnotationInValue, at, path, message)
                .wide(rest.trim().chars().count())
                .help(format!(
                    "a remark begins with #; write:\n{shown}  # {remark}\n(or put quotes around the value if the parentheses belong to it)"
                )),
        );
        at
    }

    fn placeholder(&mut self, node: &Node, text: &str, rule: Rule, path: &str) -> bool {
        let Some(placeholder) = placeholder(text) else {
            return false;
        };
        let hopeless = match placeholder {
            Placeholder::Brackets(_) => matches!(
                rule,
                Rule::ServerUrl
                    | Rule::FetchUrl
                    | Rule::Hostname
                    | Rule::Ip
                    | Rule::NtpServer
                    | Rule::K3sArg
            ),
            Placeholder::Address(_) => rule == Rule::Ip,
            Placeholder::Word(_) => rule == Rule::Ip,
        };
        let severity = if hopeless {
            Severity::Error
        } else {
            Severity::Warning
        };
        let (Placeholder::Brackets(part) | Placeholder::Address(part) | Placeholder::Word(part)) =
            placeholder;
        let shown = if is_secret_path(path) { "" } else { part };
        let message = format!("a placeholder that was never filled in: {shown}")
            .trim_end_matches([' ', ':'])
            .to_owned();
        self.faulty.insert(node.at);
        self.report(
            Finding::new(severity, Kind::Placeholder, node.at, path, message)
                .wide(text.chars().count().min(node.width()))
                .help("put your own value here"),
        );
        true
    }
}

/// A blank and text in parentheses at the end: the index (in characters) of the parenthesis and
/// what stands before.
fn annotation(text: &str) -> Option<(usize, &str)> {
    if !text.trim_end().ends_with(')') {
        return None;
    }
    let open = text
        .match_indices('(')
        .map(|(byte, _)| byte)
        .find(|byte| text[..*byte].ends_with([' ', '\t']))?;
    let before = text[..open].trim_end();
    (!before.is_empty()).then(|| (text[..open].chars().count(), before))
}

enum Placeholder<'t> {
    /// `<…>`.
    Brackets(&'t str),
    /// `192.168.1.X`.
    Address(&'t str),
    /// A well-known word.
    Word(&'t str),
}

/// Words of documentation that nobody means.
const WORDS: &[&str] = &[
    "YourGithubUserName",
    "YourGitHubUserName",
    "TOKEN_VALUE",
    "TOKEN-VALUE",
    "YOUR_TOKEN",
    "YOUR-TOKEN",
    "YOUR_SECRET",
    "NODE_TOKEN",
    "SERVER_IP",
    "YOUR_SERVER_IP",
    "CHANGEME",
    "CHANGE_ME",
    "REPLACE_ME",
];

fn placeholder(text: &str) -> Option<Placeholder<'_>> {
    if let Some(open) = text.find('<')
        && let Some(close) = text[open..].find('>')
    {
        let inner = &text[open + 1..open + close];
        if inner.starts_with(|c: char| c.is_ascii_alphabetic()) && !inner.contains('<') {
            return Some(Placeholder::Brackets(&text[open..=open + close]));
        }
    }
    let boundary = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if let Some(word) = WORDS.iter().find_map(|word| {
        let at = text.find(word)?;
        let free = |rest: Option<char>| rest.is_none_or(boundary);
        (free(text[..at].chars().next_back()) && free(text[at + word.len()..].chars().next()))
            .then(|| &text[at..at + word.len()])
    }) {
        return Some(Placeholder::Word(word));
    }
    text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))
        .find(|word| is_open_address(word))
        .map(Placeholder::Address)
}

/// Four parts between dots, all numbers except at least one made of `x`.
fn is_open_address(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    let open =
        |part: &str| (1..=3).contains(&part.len()) && part.chars().all(|c| matches!(c, 'x' | 'X'));
    let number = |part: &str| part.parse::<u8>().is_ok();
    parts.len() == 4
        && number(parts[0])
        && parts.iter().any(|part| open(part))
        && parts.iter().all(|part| open(part) || number(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remarks_are_told_from_values() {
        assert_eq!(annotation("1.1.1.1 (mine)"), Some((8, "1.1.1.1")));
        assert_eq!(annotation("é  (x) (y)"), Some((3, "é")));
        assert_eq!(annotation("(all)"), None);
        assert_eq!(annotation("f(x)"), None);
        assert_eq!(annotation("a (b) c"), None);
    }

    #[test]
    fn placeholders_are_told_from_values() {
        for text in [
            "https://192.168.1.X:6443",
            "<ip of server1>",
            "github:YourGithubUserName",
            "TOKEN_VALUE",
        ] {
            assert!(placeholder(text).is_some(), "{text}");
        }
        for text in [
            "--kubelet-arg=eviction-hard=memory.available<100Mi",
            "https://192.168.1.21:6443",
            "TOKEN-VALUE-1",
            "a.b.x.c",
            "sixteen",
        ] {
            assert!(placeholder(text).is_none(), "{text}");
        }
    }
}
