//! The kernel command line as a configuration.
//!
//! Words are split at blanks outside double quotes, keys at every dot; a word without `=` is
//! `true`, a repeated key is a list.

use std::rc::Rc;

use crate::finding::{Finding, Kind};
use crate::scalar::Scalar;
use crate::schema::{self, ROOT};
use crate::source::Position;
use crate::tree::{Data, Entry, Node, Tree};

/// A word: key, value, and where it stands.
struct Word {
    key: String,
    value: String,
    at: Position,
    end: Position,
}

/// Reads a command line into the same form as a file.
pub(crate) fn read(text: &str) -> (Tree, Vec<Finding>) {
    let mut root = Block::default();
    let mut findings = Vec::new();
    for word in words(text) {
        let (head, rest) = match word.key.split_once('.') {
            Some((head, rest)) => (head, Some(rest)),
            None => (word.key.as_str(), None),
        };
        let Some((field, _)) = schema::resolve(ROOT, head) else {
            continue;
        };
        let path: Vec<String> = match rest {
            // Brackets are no map: the key is cut inside them, and what is left means nothing.
            Some(rest) if rest.contains('[') => vec![head.to_owned(), rest.to_owned()],
            Some(rest) => [head]
                .into_iter()
                .chain(rest.split('.'))
                .map(str::to_owned)
                .collect(),
            None => vec![head.to_owned()],
        };
        if field.name == "k3os" && path.len() == 1 {
            findings.push(
                Finding::error(
                    Kind::TypeMismatch,
                    word.at,
                    "k3os",
                    "a string where a mapping is expected; the whole configuration is rejected",
                )
                .wide(word.end.column - word.at.column)
                .help("remove it, or write k3os.KEY=VALUE")
                .detail("expected", "mapping")
                .detail("got", "string"),
            );
            continue;
        }
        root.insert(&path, &word, 0);
    }
    let end = Position::START;
    (Tree::of(root.into_node(Position::START, end)), findings)
}

/// A mapping that grows.
#[derive(Default)]
struct Block {
    entries: Vec<(String, Position, Position, Content)>,
}

enum Content {
    Values(Vec<(String, Position, Position)>),
    Block(Block),
}

impl Block {
    fn insert(&mut self, path: &[String], word: &Word, depth: usize) {
        // Nothing that is known lies deeper; what lies deeper is wrong in any case.
        const DEEPEST: usize = 8;
        let (name, rest) = match path {
            [] => return,
            [name] => (name.clone(), &path[..0]),
            [name, rest @ ..] if depth < DEEPEST => (name.clone(), rest),
            _ => (path.join("."), &path[..0]),
        };
        let index = self
            .entries
            .iter()
            .position(|(old, ..)| *old == name)
            .unwrap_or_else(|| {
                let content = if rest.is_empty() {
                    Content::Values(Vec::new())
                } else {
                    Content::Block(Self::default())
                };
                self.entries.push((name, word.at, word.end, content));
                self.entries.len() - 1
            });
        match &mut self.entries[index].3 {
            Content::Block(block) if !rest.is_empty() => block.insert(rest, word, depth + 1),
            Content::Values(values) if rest.is_empty() => {
                values.push((word.value.clone(), word.at, word.end));
            }
            // A value and a mapping under one key: the later one counts.
            content => {
                *content = if rest.is_empty() {
                    Content::Values(vec![(word.value.clone(), word.at, word.end)])
                } else {
                    let mut block = Self::default();
                    block.insert(rest, word, depth + 1);
                    Content::Block(block)
                };
            }
        }
    }

    fn into_node(self, at: Position, end: Position) -> Node {
        let entries = self
            .entries
            .into_iter()
            .map(|(name, at, end, content)| Entry {
                key: Rc::new(Node::new(at, end, Data::Scalar(Scalar::quoted(name)))),
                value: Rc::new(match content {
                    Content::Block(block) => block.into_node(at, end),
                    Content::Values(mut values) if values.len() == 1 => {
                        let (text, at, end) = values.remove(0);
                        Node::new(at, end, Data::Scalar(Scalar::quoted(text)))
                    }
                    Content::Values(values) => Node::new(
                        at,
                        end,
                        Data::Sequence(
                            values
                                .into_iter()
                                .map(|(text, at, end)| {
                                    let data = Data::Scalar(Scalar::quoted(text));
                                    Rc::new(Node::new(at, end, data))
                                })
                                .collect(),
                        ),
                    ),
                }),
            })
            .collect();
        Node::new(at, end, Data::Mapping(entries))
    }
}

fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut quoted = false;
        let mut start = None;
        let characters: Vec<char> = line.chars().collect();
        for (index, character) in characters.iter().copied().chain([' ']).enumerate() {
            let last = index == characters.len();
            if character == '"' {
                quoted = !quoted;
            }
            let separates = last || (character.is_whitespace() && !quoted);
            match start {
                None if !separates => start = Some(index),
                Some(from) if separates => {
                    let raw: String = characters[from..index]
                        .iter()
                        .filter(|c| **c != '"')
                        .collect();
                    let (key, value) = match raw.split_once('=') {
                        Some((key, value)) => (key.to_owned(), value.to_owned()),
                        None => (raw, "true".to_owned()),
                    };
                    words.push(Word {
                        key,
                        value,
                        at: Position::new(number + 1, from + 1),
                        end: Position::new(number + 1, index + 1),
                    });
                    start = None;
                }
                _ => {}
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_places() {
        let words = words("a \"k=a b\" k2=\"c d\"  e=f=g");
        let seen: Vec<_> = words
            .iter()
            .map(|w| (w.key.as_str(), w.value.as_str(), w.at.column))
            .collect();
        assert_eq!(
            seen,
            [
                ("a", "true", 1),
                ("k", "a b", 3),
                ("k2", "c d", 11),
                ("e", "f=g", 21)
            ]
        );
    }
}
