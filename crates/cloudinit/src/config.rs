//! What a file says, in canonical form, with the place of everything.

use std::fmt;

use serde_json::{Map, Value as Json, json};

use crate::source::Position;

/// Where a setting was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file, or another name for the source.
    pub source: String,
    /// Its key.
    pub key: Position,
    /// Its value.
    pub value: Position,
}

/// A string and where it stands.
#[derive(Clone, PartialEq, Eq)]
pub struct Item {
    /// The string.
    pub text: String,
    /// Its first character, quotes included.
    pub at: Position,
}

/// An entry of `write_files` or `wifi`: names and strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub at: Position,
    /// What it says.
    pub fields: Vec<(&'static str, Item)>,
}

impl Record {
    /// A field by name; empty ones count as absent.
    pub fn get(&self, name: &str) -> Option<&Item> {
        self.fields
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, item)| item)
            .filter(|item| !item.text.is_empty())
    }
}

/// The value of a setting.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing; replaces what weaker sources say.
    Null,
    /// One string.
    Text(String),
    /// A list of strings.
    List(Vec<Item>),
    /// A map of strings, in the order of the file.
    Map(Vec<(String, Item)>),
    /// A boolean.
    Flag(bool),
    /// A list of records.
    Records(Vec<Record>),
}

impl Value {
    /// The canonical form, `None` if there is nothing in it.
    pub(crate) fn to_json(&self) -> Option<Json> {
        match self {
            Self::Null => None,
            Self::Text(text) => (!text.is_empty()).then(|| json!(text)),
            Self::Flag(value) => value.then_some(Json::Bool(true)),
            Self::List(items) => {
                (!items.is_empty()).then(|| items.iter().map(|item| json!(item.text)).collect())
            }
            Self::Map(entries) => (!entries.is_empty()).then(|| {
                let map: Map<String, Json> = entries
                    .iter()
                    .map(|(key, item)| (key.clone(), json!(item.text)))
                    .collect();
                Json::Object(map)
            }),
            Self::Records(records) => (!records.is_empty()).then(|| {
                records
                    .iter()
                    .map(|record| {
                        let map: Map<String, Json> = record
                            .fields
                            .iter()
                            .filter(|(_, item)| !item.text.is_empty())
                            .map(|(key, item)| ((*key).to_owned(), json!(item.text)))
                            .collect();
                        Json::Object(map)
                    })
                    .collect()
            }),
        }
    }
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Canonical path, as in `k3os.server_url`.
    pub path: String,
    /// Its value.
    pub value: Value,
    /// Where it was written.
    pub origin: Origin,
}

/// All settings of a file, or of several merged. The path `k3os` or `k3os.install` itself only
/// appears with the value null.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// In the order of the file.
    pub settings: Vec<Setting>,
}

impl Document {
    /// A setting by path.
    pub fn get(&self, path: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.path == path)
    }

    /// A string; empty ones count as absent.
    pub fn text(&self, path: &str) -> Option<&str> {
        match &self.get(path)?.value {
            Value::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// A list of strings; empty if absent.
    pub fn list(&self, path: &str) -> &[Item] {
        match self.get(path).map(|setting| &setting.value) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    /// A map of strings; empty if absent.
    pub fn map(&self, path: &str) -> &[(String, Item)] {
        match self.get(path).map(|setting| &setting.value) {
            Some(Value::Map(entries)) => entries,
            _ => &[],
        }
    }

    /// A list of records; empty if absent.
    pub fn records(&self, path: &str) -> &[Record] {
        match self.get(path).map(|setting| &setting.value) {
            Some(Value::Records(records)) => records,
            _ => &[],
        }
    }

    /// Words of `k3os.k3s_args`.
    pub(crate) fn words(&self) -> Vec<String> {
        self.list("k3os.k3s_args")
            .iter()
            .map(|item| item.text.clone())
            .collect()
    }

    /// Sets or replaces a setting.
    pub(crate) fn put(&mut self, setting: Setting) {
        match self
            .settings
            .iter_mut()
            .find(|old| old.path == setting.path)
        {
            Some(old) => *old = setting,
            None => self.settings.push(setting),
        }
    }

    /// The canonical form: `snake_case`, only what is set, false booleans left out.
    pub fn to_json(&self) -> Json {
        let mut root = Map::new();
        for setting in &self.settings {
            let Some(value) = setting.value.to_json() else {
                continue;
            };
            let mut level = &mut root;
            let mut names: Vec<&str> = setting.path.split('.').collect();
            let last = names.pop().unwrap_or_default();
            for name in names {
                let next = level
                    .entry(name)
                    .or_insert_with(|| Json::Object(Map::new()));
                match next {
                    Json::Object(map) => level = map,
                    // Blocks and values have different paths.
                    _ => return Json::Object(Map::new()),
                }
            }
            level.insert(last.to_owned(), value);
        }
        Json::Object(root)
    }
}

// Values may be secrets: `{:?}` shows places and kinds, never text.
impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Item")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "Null",
            Self::Text(_) => "Text(..)",
            Self::List(_) => "List(..)",
            Self::Map(_) => "Map(..)",
            Self::Flag(_) => "Flag(..)",
            Self::Records(_) => "Records(..)",
        })
    }
}

/// A map key as part of a path.
pub(crate) fn path_key(key: &str) -> String {
    let simple = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if simple {
        format!(".{key}")
    } else {
        format!("[{}]", Json::from(key))
    }
}
