//! The parsed file: nodes that know where they stand.
//!
//! Aliases share the node they stand for. Size, depth and what aliases add up to are bounded,
//! so that a hostile file costs no more than an honest one of the same size.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Span, Tag};

use crate::scalar::{Scalar, ScalarTag, Style};
use crate::source::Position;

/// Deepest nesting; a real configuration needs five.
const MAX_DEPTH: usize = 64;
/// Nodes that aliases may add.
const MAX_ALIAS_NODES: usize = 20_000;

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) at: Position,
    /// Where its text ends.
    pub(crate) end: Position,
    pub(crate) data: Data,
    /// Nodes below and including this one, aliases followed.
    weight: usize,
    /// The anchor defined here, 0 for none.
    anchor: usize,
}

#[derive(Debug)]
pub(crate) enum Data {
    Scalar(Scalar),
    Sequence(Vec<Rc<Node>>),
    Mapping(Vec<Entry>),
}

/// An entry of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Rc<Node>,
    pub(crate) value: Rc<Node>,
}

impl Node {
    pub(crate) fn new(at: Position, end: Position, data: Data) -> Self {
        let weight = match &data {
            Data::Scalar(_) => 1,
            Data::Sequence(items) => 1 + items.iter().map(|item| item.weight).sum::<usize>(),
            Data::Mapping(entries) => {
                1 + entries
                    .iter()
                    .map(|entry| entry.key.weight + entry.value.weight)
                    .sum::<usize>()
            }
        };
        Self {
            at,
            end,
            data,
            weight,
            anchor: 0,
        }
    }

    pub(crate) fn scalar(&self) -> Option<&Scalar> {
        match &self.data {
            Data::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// Name of its type for messages.
    pub(crate) fn type_name(&self) -> &'static str {
        match &self.data {
            Data::Scalar(scalar) => scalar.resolve().name(),
            Data::Sequence(_) => "sequence",
            Data::Mapping(_) => "mapping",
        }
    }

    /// Characters it covers on its first line.
    pub(crate) fn width(&self) -> usize {
        if self.end.line == self.at.line {
            self.end.column.saturating_sub(self.at.column).max(1)
        } else {
            1
        }
    }
}

/// A parsed file.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// `None` for a file without content.
    pub(crate) root: Option<Rc<Node>>,
    /// Where a second document begins.
    pub(crate) second_document: Option<Position>,
    used_anchors: HashSet<usize>,
}

impl Tree {
    pub(crate) fn of(root: Node) -> Self {
        Self {
            root: Some(Rc::new(root)),
            ..Self::default()
        }
    }

    /// Whether an alias refers to the anchor of this node.
    pub(crate) fn is_used(&self, node: &Node) -> bool {
        node.anchor != 0 && self.used_anchors.contains(&node.anchor)
    }
}

/// Why a text is no YAML.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) at: Position,
    pub(crate) kind: SyntaxKind,
}

#[derive(Debug)]
pub(crate) enum SyntaxKind {
    Parser(ErrorKind),
    TooDeep,
    AliasBomb,
    BadBinary,
}

enum Frame {
    Sequence(Rc<Node>, Vec<Rc<Node>>),
    Mapping(Rc<Node>, Vec<Entry>, Option<Rc<Node>>),
}

/// Parses the first document of `text`, which has no byte-order mark.
pub(crate) fn parse(text: &str) -> Result<Tree, SyntaxError> {
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    let mut tree = Tree::default();
    let mut anchors: HashMap<usize, Rc<Node>> = HashMap::new();
    let mut stack: Vec<Frame> = Vec::new();
    let mut documents = 0;
    let mut alias_nodes = 0;

    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| SyntaxError {
            at: Position::new(error.marker().line(), error.marker().col() + 1),
            kind: SyntaxKind::Parser(error.kind().clone()),
        })?;
        let (at, end) = ends(&span);
        let fail = |kind| Err(SyntaxError { at, kind });
        let done = match event {
            Event::DocumentStart(..) => {
                documents += 1;
                if documents > 1 {
                    tree.second_document = Some(at);
                    break;
                }
                continue;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let Some(scalar) = scalar(text.into_owned(), style, tag.as_deref()) else {
                    return fail(SyntaxKind::BadBinary);
                };
                finish(at, end, Data::Scalar(scalar), anchor, &mut anchors)
            }
            Event::Alias(id) => {
                let Some(target) = anchors.get(&id) else {
                    // An alias to a node that is still open contains itself.
                    return fail(SyntaxKind::AliasBomb);
                };
                tree.used_anchors.insert(id);
                alias_nodes += target.weight;
                if alias_nodes > MAX_ALIAS_NODES {
                    return fail(SyntaxKind::AliasBomb);
                }
                Rc::clone(target)
            }
            Event::SequenceStart(_, anchor, _) | Event::MappingStart(_, anchor, _) => {
                if stack.len() >= MAX_DEPTH {
                    return fail(SyntaxKind::TooDeep);
                }
                let mut shell = Node::new(at, end, Data::Sequence(Vec::new()));
                shell.anchor = anchor;
                stack.push(if matches!(event, Event::SequenceStart(..)) {
                    Frame::Sequence(Rc::new(shell), Vec::new())
                } else {
                    Frame::Mapping(Rc::new(shell), Vec::new(), None)
                });
                continue;
            }
            Event::SequenceEnd => match stack.pop() {
                Some(Frame::Sequence(shell, items)) => finish(
                    shell.at,
                    end,
                    Data::Sequence(items),
                    shell.anchor,
                    &mut anchors,
                ),
                _ => continue,
            },
            Event::MappingEnd => match stack.pop() {
                Some(Frame::Mapping(shell, entries, _)) => finish(
                    shell.at,
                    end,
                    Data::Mapping(merged(entries)),
                    shell.anchor,
                    &mut anchors,
                ),
                _ => continue,
            },
            _ => continue,
        };
        match stack.last_mut() {
            Some(Frame::Sequence(_, items)) => items.push(done),
            Some(Frame::Mapping(_, entries, key)) => match key.take() {
                Some(key) => entries.push(Entry { key, value: done }),
                None => *key = Some(done),
            },
            None => tree.root = Some(done),
        }
    }
    Ok(tree)
}

fn ends(span: &Span) -> (Position, Position) {
    (
        Position::new(span.start.line(), span.start.col() + 1),
        Position::new(span.end.line(), span.end.col() + 1),
    )
}

fn finish(
    at: Position,
    end: Position,
    data: Data,
    anchor: usize,
    anchors: &mut HashMap<usize, Rc<Node>>,
) -> Rc<Node> {
    let mut node = Node::new(at, end, data);
    node.anchor = anchor;
    let node = Rc::new(node);
    if anchor != 0 {
        anchors.insert(anchor, Rc::clone(&node));
    }
    node
}

/// A scalar with its tag applied; `None` if `!!binary` is not base64.
fn scalar(text: String, style: ScalarStyle, tag: Option<&Tag>) -> Option<Scalar> {
    let style = match style {
        ScalarStyle::Plain => Style::Plain,
        ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
        ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
    };
    let core = tag.and_then(|tag| tag.suffix_in_namespace("tag:yaml.org,2002:"));
    let (text, tag) = match core.as_deref() {
        Some("binary") => {
            let compact: String = text.split_ascii_whitespace().collect();
            let bytes = STANDARD.decode(compact).ok()?;
            (
                String::from_utf8_lossy(&bytes).into_owned(),
                ScalarTag::Text,
            )
        }
        Some("str") => (text, ScalarTag::Text),
        Some("null" | "bool" | "int" | "float") => (text, ScalarTag::Typed),
        _ => (text, ScalarTag::Implied),
    };
    Some(Scalar { text, style, tag })
}

/// Follows `<<` keys: what they bring in stands behind what the mapping says itself.
fn merged(entries: Vec<Entry>) -> Vec<Entry> {
    let is_merge = |entry: &Entry| {
        entry
            .key
            .scalar()
            .is_some_and(|key| key.style == Style::Plain && key.text == "<<")
    };
    if !entries.iter().any(is_merge) {
        return entries;
    }
    let (merges, mut own): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_merge);
    let mut taken: HashSet<String> = own
        .iter()
        .filter_map(|entry| entry.key.scalar().map(|key| key.text.clone()))
        .collect();
    for merge in merges {
        let sources: Vec<&Rc<Node>> = match &merge.value.data {
            Data::Sequence(items) => items.iter().collect(),
            _ => vec![&merge.value],
        };
        for source in sources {
            if let Data::Mapping(more) = &source.data {
                for entry in more {
                    let fresh = entry
                        .key
                        .scalar()
                        .is_none_or(|key| taken.insert(key.text.clone()));
                    if fresh {
                        own.push(entry.clone());
                    }
                }
            }
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_files_are_refused() {
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).is_err());
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let before = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!(
                "a{level}: &a{level} [{}]\n",
                before.trim_end_matches(", ")
            ));
        }
        let error = parse(&bomb).expect_err("a bomb");
        assert!(matches!(error.kind, SyntaxKind::AliasBomb), "{error:?}");
        assert!(parse("a: &x [*x]").is_err());
    }

    #[test]
    fn merge_keys_yield_to_the_mapping_itself() {
        let tree = parse("b: &b {x: 1, y: 2}\nc:\n  <<: *b\n  x: 3\n").expect("parses");
        let root = tree.root.expect("a root");
        let Data::Mapping(entries) = &root.data else {
            panic!()
        };
        let Data::Mapping(c) = &entries[1].value.data else {
            panic!()
        };
        let pairs: Vec<_> = c
            .iter()
            .map(|e| {
                (
                    e.key.scalar().unwrap().text.as_str(),
                    e.value.scalar().unwrap().text.as_str(),
                )
            })
            .collect();
        assert_eq!(pairs, [("x", "3"), ("y", "2")]);
    }
}
