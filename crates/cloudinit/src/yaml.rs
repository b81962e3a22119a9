//! Writing YAML that every reader takes for the same: text is always quoted.

use serde_json::Value as Json;

/// A canonical configuration as YAML.
pub fn to_yaml(config: &Json) -> String {
    let mut text = String::new();
    match config {
        Json::Object(map) if map.is_empty() => text.push_str("{}\n"),
        _ => write(config, 0, &mut text),
    }
    text
}

fn write(value: &Json, indent: usize, text: &mut String) {
    let blanks = " ".repeat(indent);
    match value {
        Json::Object(map) => {
            for (key, value) in map {
                let simple = key
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || matches!(c, '_' | '3'));
                let key = if simple && key.len() > 1 {
                    key.clone()
                } else {
                    Json::from(key.as_str()).to_string()
                };
                text.push_str(&format!("{blanks}{key}:"));
                below(value, indent + 2, text);
            }
        }
        Json::Array(items) => {
            for item in items {
                match item {
                    Json::Object(_) => {
                        let mut entry = String::new();
                        write(item, indent + 2, &mut entry);
                        text.push_str(&format!("{blanks}- {}", entry.trim_start()));
                    }
                    _ => text.push_str(&format!("{blanks}- {item}\n")),
                }
            }
        }
        _ => text.push_str(&format!("{blanks}{value}\n")),
    }
}

fn below(value: &Json, indent: usize, text: &mut String) {
    match value {
        Json::Object(_) | Json::Array(_) => {
            text.push('\n');
            write(value, indent, text);
        }
        _ => text.push_str(&format!(" {value}\n")),
    }
}
