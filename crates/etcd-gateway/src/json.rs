//! Messages to JSON and back.
//!
//! Fields go by their names in the `.proto` file (the lowerCamel form is understood too). What
//! has its default value is left out, integers of 64 bits are strings, bytes are base64, enums
//! are names. On the way in, numbers do for all integers and enums, unknown fields are ignored,
//! and `null` is a field that is not there.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde_json::Value as Json;

/// Why a text is not the message that was asked for. The texts are close to those that Go's
/// libraries have for the same mistakes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON.
    #[error("{0}")]
    Syntax(String),
    /// A value of another kind than the field's.
    #[error("json: cannot unmarshal {found} into field {field} of type {expected}")]
    Type {
        /// The field's full name.
        field: String,
        /// What it holds.
        expected: &'static str,
        /// What was there.
        found: String,
    },
    /// Not base64.
    #[error("illegal base64 data in field {field}")]
    Base64 {
        /// The field's full name.
        field: String,
    },
    /// No such name in an enum.
    #[error("unknown value {value:?} for enum {name}")]
    EnumName {
        /// The enum's full name.
        name: String,
        /// What was there.
        value: String,
    },
}

/// Reads a message.
pub fn decode(descriptor: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, DecodeError> {
    // The parser's limit on nesting is the limit on the recursion below.
    let json = serde_json::from_slice(text).map_err(|error| {
        DecodeError::Syntax(match error.classify() {
            serde_json::error::Category::Eof => "unexpected EOF".to_owned(),
            _ => error.to_string(),
        })
    })?;
    message(descriptor, json, descriptor.full_name())
}

fn message(
    descriptor: &MessageDescriptor,
    json: Json,
    place: &str,
) -> Result<DynamicMessage, DecodeError> {
    let mut message = DynamicMessage::new(descriptor.clone());
    let members = match json {
        Json::Object(members) => members,
        Json::Null => return Ok(message),
        other => return Err(mismatch(place, "object", &other)),
    };
    for (name, json) in members {
        let field = descriptor
            .get_field_by_name(&name)
            .or_else(|| descriptor.get_field_by_json_name(&name));
        let (Some(field), false) = (field, json.is_null()) else {
            continue;
        };
        let value = match json {
            Json::Array(items) if field.is_list() => Value::List(
                items
                    .into_iter()
                    .map(|item| single(&field, item))
                    .collect::<Result<_, _>>()?,
            ),
            other if field.is_list() => return Err(mismatch(field.full_name(), "array", &other)),
            other => single(&field, other)?,
        };
        message.set_field(&field, value);
    }
    Ok(message)
}

/// One value: of the field, or in its list.
fn single(field: &FieldDescriptor, json: Json) -> Result<Value, DecodeError> {
    let kind = field.kind();
    if json.is_null() {
        return Ok(Value::default_value(&kind));
    }
    let name = field.full_name();
    let integer = |expected| integer(name, expected, &json);
    Ok(match kind {
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            Value::I64(narrowed(name, "int64", integer("int64")?)?)
        }
        Kind::Uint64 | Kind::Fixed64 => Value::U64(narrowed(name, "uint64", integer("uint64")?)?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            Value::I32(narrowed(name, "int32", integer("int32")?)?)
        }
        Kind::Uint32 | Kind::Fixed32 => Value::U32(narrowed(name, "uint32", integer("uint32")?)?),
        Kind::Double | Kind::Float => {
            let number = json.as_f64();
            let number = number.ok_or_else(|| mismatch(name, "number", &json))?;
            match kind {
                Kind::Float => Value::F32(number as f32),
                _ => Value::F64(number),
            }
        }
        Kind::Bool => Value::Bool(
            json.as_bool()
                .ok_or_else(|| mismatch(name, "bool", &json))?,
        ),
        Kind::String => match json {
            Json::String(text) => Value::String(text),
            other => return Err(mismatch(name, "string", &other)),
        },
        Kind::Bytes => {
            let text = json
                .as_str()
                .ok_or_else(|| mismatch(name, "bytes", &json))?;
            let bytes = BASE64_STANDARD
                .decode(text)
                .map_err(|_| DecodeError::Base64 {
                    field: name.to_owned(),
                })?;
            Value::Bytes(bytes.into())
        }
        Kind::Enum(descriptor) => Value::EnumNumber(match json.as_str() {
            Some(text) => descriptor
                .get_value_by_name(text)
                .ok_or_else(|| DecodeError::EnumName {
                    name: descriptor.full_name().to_owned(),
                    value: text.to_owned(),
                })?
                .number(),
            None => narrowed(name, "enum", integer("enum")?)?,
        }),
        Kind::Message(descriptor) => Value::Message(message(&descriptor, json, name)?),
    })
}

/// An integer, written as a number or as a string.
fn integer(field: &str, expected: &'static str, json: &Json) -> Result<i128, DecodeError> {
    let number = match json {
        Json::Number(number) => number
            .as_i64()
            .map(i128::from)
            .or_else(|| number.as_u64().map(i128::from)),
        Json::String(text) => text.parse().ok(),
        _ => None,
    };
    number.ok_or_else(|| mismatch(field, expected, json))
}

fn narrowed<T: TryFrom<i128>>(
    field: &str,
    expected: &'static str,
    number: i128,
) -> Result<T, DecodeError> {
    T::try_from(number).map_err(|_| DecodeError::Type {
        field: field.to_owned(),
        expected,
        found: format!("number {number}"),
    })
}

fn mismatch(field: &str, expected: &'static str, found: &Json) -> DecodeError {
    let found = match found {
        Json::Null => "null".to_owned(),
        Json::Bool(_) => "bool".to_owned(),
        Json::Number(number) => format!("number {number}"),
        Json::String(_) => "string".to_owned(),
        Json::Array(_) => "array".to_owned(),
        Json::Object(_) => "object".to_owned(),
    };
    DecodeError::Type {
        field: field.to_owned(),
        expected,
        found,
    }
}

/// Appends a message.
pub fn encode(message: &DynamicMessage, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut separate = false;
    for (field, value) in message.fields() {
        // A field that knows whether it is set is shown when it is, whatever its value.
        let default = !field.is_list() && *value == Value::default_value(&field.kind());
        if default && !field.supports_presence() {
            continue;
        }
        if std::mem::replace(&mut separate, true) {
            out.push(b',');
        }
        string(field.name(), out);
        out.push(b':');
        match value {
            Value::List(items) => {
                out.push(b'[');
                for (place, item) in items.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    encode_single(&field, item, out);
                }
                out.push(b']');
            }
            value => encode_single(&field, value, out),
        }
    }
    out.push(b'}');
}

fn encode_single(field: &FieldDescriptor, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Bool(value) => plain(value, out),
        Value::I32(value) => plain(value, out),
        Value::U32(value) => plain(value, out),
        Value::I64(value) => string(&value.to_string(), out),
        Value::U64(value) => string(&value.to_string(), out),
        Value::F32(value) => plain(value, out),
        Value::F64(value) => plain(value, out),
        Value::String(value) => string(value, out),
        Value::Bytes(value) => {
            out.push(b'"');
            out.extend_from_slice(BASE64_STANDARD.encode(value).as_bytes());
            out.push(b'"');
        }
        Value::EnumNumber(number) => {
            let name = match field.kind() {
                Kind::Enum(descriptor) => descriptor.get_value(*number),
                _ => None,
            };
            match name {
                Some(value) => string(value.name(), out),
                None => plain(number, out),
            }
        }
        Value::Message(message) => encode(message, out),
        // Maps and lists of lists: no message of the services has them (see `Gateway::new`).
        Value::List(_) | Value::Map(_) => out.extend_from_slice(b"null"),
    }
}

fn plain(value: &impl std::fmt::Display, out: &mut Vec<u8>) {
    out.extend_from_slice(value.to_string().as_bytes());
}

/// Appends a string in quotes.
pub(crate) fn string(text: &str, out: &mut Vec<u8>) {
    // A string always has a JSON form.
    out.extend_from_slice(Json::from(text).to_string().as_bytes());
}
