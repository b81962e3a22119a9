//! JSON and YAML text to a value, with a list of duplicate fields.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{DecodeError, MAX_DEPTH, MAX_DUPLICATES, MediaType};

pub(super) fn parse(body: &[u8], media: MediaType) -> Result<(Value, Vec<String>), DecodeError> {
    let malformed = |text: String| DecodeError::Malformed(text);
    let node: Node = match media {
        MediaType::Json => serde_json::from_slice(body)
            .map_err(|e| malformed(format!("couldn't get version/kind; json parse error: {e}")))?,
        _ => {
            let text = std::str::from_utf8(body).map_err(|e| malformed(format!("yaml: {e}")))?;
            serde_saphyr::from_str_with_options(text, yaml_options())
                .map_err(|e| malformed(format!("error converting YAML to JSON: yaml: {e}")))?
        }
    };
    if depth(&node.value) > MAX_DEPTH {
        return Err(malformed(format!("exceeded max depth of {MAX_DEPTH}")));
    }
    Ok((node.value, node.duplicates))
}

/// Duplicates reach the visitor, which counts them; aliases are bounded.
fn yaml_options() -> serde_saphyr::Options {
    let mut options = serde_saphyr::Options::default();
    options.duplicate_keys = serde_saphyr::DuplicateKeyPolicy::PassThrough;
    options.with_snippet = false;
    // A body of 3 MiB has fewer nodes than this unless aliases multiply them.
    options.alias_limits.max_total_replayed_events = 100_000;
    options
}

/// The parsers limit recursion themselves; this makes both limits one.
fn depth(value: &Value) -> usize {
    let deepest =
        |children: &mut dyn Iterator<Item = &Value>| children.map(depth).max().unwrap_or(0);
    match value {
        Value::Array(list) => 1 + deepest(&mut list.iter()),
        Value::Object(fields) => 1 + deepest(&mut fields.values()),
        _ => 0,
    }
}

struct Node {
    value: Value,
    /// Paths relative to this node.
    duplicates: Vec<String>,
}

impl Node {
    fn leaf(value: impl Into<Value>) -> Self {
        Node {
            value: value.into(),
            duplicates: Vec::new(),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Node, E> {
        Ok(Node::leaf(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::leaf(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(Node::leaf(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Node, E> {
        let number = Number::from_f64(number).ok_or_else(|| E::custom("number is not finite"))?;
        Ok(Node::leaf(Value::Number(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::leaf(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Node, E> {
        Ok(Node::leaf(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        let mut duplicates = Vec::new();
        while let Some(node) = access.next_element::<Node>()? {
            let index = list.len();
            gather(&mut duplicates, node.duplicates, |path| {
                match path.starts_with('[') {
                    true => format!("[{index}]{path}"),
                    false => format!("[{index}].{path}"),
                }
            });
            list.push(node.value);
        }
        Ok(Node {
            value: Value::Array(list),
            duplicates,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut fields = Map::new();
        let mut duplicates = Vec::new();
        while let Some(name) = access.next_key::<String>()? {
            let node = access.next_value::<Node>()?;
            gather(&mut duplicates, node.duplicates, |path| {
                match path.starts_with('[') {
                    true => format!("{name}{path}"),
                    false => format!("{name}.{path}"),
                }
            });
            if fields.contains_key(&name)
                && duplicates.len() < MAX_DUPLICATES
                && !duplicates.contains(&name)
            {
                duplicates.push(name.clone());
            }
            fields.insert(name, node.value);
        }
        Ok(Node {
            value: Value::Object(fields),
            duplicates,
        })
    }
}

fn gather(into: &mut Vec<String>, from: Vec<String>, prefix: impl Fn(String) -> String) {
    let room = MAX_DUPLICATES.saturating_sub(into.len());
    into.extend(from.into_iter().take(room).map(prefix));
}
