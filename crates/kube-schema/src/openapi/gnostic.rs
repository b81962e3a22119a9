//! The version 2 document as `openapi.v2.Document`, the protobuf model clients read directly.
//!
//! Only what [`super`] writes is translated. Maps become lists of (name, value) pairs, and extensions carry
//! their value as YAML text, of which JSON is a part.

use serde_json::Value;

use crate::codec::wire::{put_bytes, put_uint};

/// `name` and `value` of every named-pair message.
const NAME: u32 = 1;
const VALUE: u32 = 2;

/// The whole document.
pub(super) fn document(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, &value["swagger"]);
    let mut info = Vec::new();
    text(&mut info, 1, &value["info"]["title"]);
    text(&mut info, 2, &value["info"]["version"]);
    put_bytes(&mut out, 2, &info);
    let mut paths = Vec::new();
    for (path, item) in fields(&value["paths"]) {
        named(&mut paths, 2, path, &path_item(item));
    }
    put_bytes(&mut out, 8, &paths);
    put_bytes(&mut out, 9, &named_schemas(&value["definitions"]));
    out
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(out: &mut Vec<u8>, number: u32, value: &Value) {
    if let Some(text) = value.as_str() {
        put_bytes(out, number, text.as_bytes());
    }
}

fn flag(out: &mut Vec<u8>, number: u32, value: &Value) {
    if value == &Value::Bool(true) {
        put_uint(out, number, 1);
    }
}

fn named(out: &mut Vec<u8>, number: u32, name: &str, value: &[u8]) {
    let mut pair = Vec::new();
    put_bytes(&mut pair, NAME, name.as_bytes());
    put_bytes(&mut pair, VALUE, value);
    put_bytes(out, number, &pair);
}

/// `Any` with its `yaml` form.
fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 2, value.to_string().as_bytes());
    out
}

fn extensions(out: &mut Vec<u8>, number: u32, value: &Value) {
    for (name, value) in fields(value).filter(|(name, _)| name.starts_with("x-")) {
        named(out, number, name, &any(value));
    }
}

fn path_item(item: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (method, number) in [
        ("get", 2),
        ("put", 3),
        ("post", 4),
        ("delete", 5),
        ("patch", 8),
    ] {
        if let Some(operation) = item.get(method) {
            put_bytes(&mut out, number, &operation_message(operation));
        }
    }
    for parameter in items(&item["parameters"]) {
        put_bytes(&mut out, 9, &parameters_item(parameter));
    }
    out
}

fn operation_message(operation: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 5, &operation["operationId"]);
    for (name, number) in [("produces", 6), ("consumes", 7)] {
        items(&operation[name])
            .iter()
            .for_each(|media| text(&mut out, number, media));
    }
    for parameter in items(&operation["parameters"]) {
        put_bytes(&mut out, 8, &parameters_item(parameter));
    }
    let mut responses = Vec::new();
    for (code, response) in fields(&operation["responses"]) {
        let mut body = Vec::new();
        text(&mut body, 1, &response["description"]);
        if let Some(schema) = response.get("schema") {
            put_bytes(&mut body, 2, &wrapped(1, &schema_message(schema)));
        }
        named(&mut responses, 1, code, &wrapped(1, &body));
    }
    put_bytes(&mut out, 9, &responses);
    items(&operation["schemes"])
        .iter()
        .for_each(|scheme| text(&mut out, 10, scheme));
    extensions(&mut out, 13, operation);
    out
}

fn wrapped(number: u32, inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, number, inner);
    out
}

fn parameters_item(parameter: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let place = parameter["in"].as_str().unwrap_or_default();
    let choice = if place == "body" {
        text(&mut out, 2, &parameter["name"]);
        text(&mut out, 3, &parameter["in"]);
        flag(&mut out, 4, &parameter["required"]);
        put_bytes(&mut out, 5, &schema_message(&parameter["schema"]));
        wrapped(1, &out)
    } else {
        // Query parameters have one field more before `type` than path parameters.
        let query = place == "query";
        flag(&mut out, 1, &parameter["required"]);
        text(&mut out, 2, &parameter["in"]);
        text(&mut out, 4, &parameter["name"]);
        text(&mut out, if query { 6 } else { 5 }, &parameter["type"]);
        flag(
            &mut out,
            if query { 20 } else { 19 },
            &parameter["uniqueItems"],
        );
        wrapped(2, &wrapped(if query { 3 } else { 4 }, &out))
    };
    wrapped(1, &choice)
}

fn named_schemas(schemas: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, schema) in fields(schemas) {
        named(&mut out, 1, name, &schema_message(schema));
    }
    out
}

fn schema_message(schema: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, &schema["$ref"]);
    text(&mut out, 2, &schema["format"]);
    items(&schema["required"])
        .iter()
        .for_each(|name| text(&mut out, 19, name));
    for value in items(&schema["enum"]) {
        put_bytes(&mut out, 20, &any(value));
    }
    if let Some(values) = schema.get("additionalProperties") {
        put_bytes(&mut out, 21, &wrapped(1, &schema_message(values)));
    }
    if let Some(kind) = schema["type"].as_str() {
        put_bytes(&mut out, 22, &wrapped(1, kind.as_bytes()));
    }
    if let Some(element) = schema.get("items") {
        put_bytes(&mut out, 23, &wrapped(1, &schema_message(element)));
    }
    if schema.get("properties").is_some_and(Value::is_object) {
        put_bytes(&mut out, 25, &named_schemas(&schema["properties"]));
    }
    extensions(&mut out, 31, schema);
    out
}

/// What the translation reads; anything else in a schema would be lost.
#[cfg(test)]
const KNOWN_SCHEMA_KEYS: &[&str] = &[
    "$ref",
    "format",
    "required",
    "enum",
    "additionalProperties",
    "type",
    "items",
    "properties",
];

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::codec::wire::{Payload, Reader};

    fn check_schema(schema: &Map<String, Value>) {
        for (key, value) in schema {
            assert!(
                key.starts_with("x-") || KNOWN_SCHEMA_KEYS.contains(&key.as_str()),
                "{key} is not translated"
            );
            match key.as_str() {
                "items" | "additionalProperties" => {
                    check_schema(value.as_object().expect("schema"));
                }
                "properties" => fields(value)
                    .for_each(|(_, inner)| check_schema(inner.as_object().expect("schema"))),
                _ => {}
            }
        }
    }

    #[test]
    fn nothing_is_lost() {
        let value = super::super::v2_value();
        for (_, schema) in fields(&value["definitions"]) {
            check_schema(schema.as_object().expect("schema"));
        }
        // Every definition arrives under its name.
        let bytes = document(&value);
        let mut reader = Reader::new(&bytes);
        let mut names = Vec::new();
        while let Ok(Some((number, payload))) = reader.field() {
            let (9, Payload::Bytes(definitions)) = (number, payload) else {
                continue;
            };
            let mut inner = Reader::new(definitions);
            while let Ok(Some((_, Payload::Bytes(pair)))) = inner.field() {
                if let Ok(Some((1, Payload::Bytes(name)))) = Reader::new(pair).field() {
                    names.push(String::from_utf8_lossy(name).into_owned());
                }
            }
        }
        let wanted: Vec<&String> = fields(&value["definitions"])
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names.iter().collect::<Vec<_>>(), wanted);
    }
}
