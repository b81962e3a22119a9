//! Makes a decoded body fit its type as upstream's decoder would: wrong JSON types are refused, unknown
//! fields reported and dropped, nulls of known fields dropped.

use serde_json::Value;

use super::{Shape, Type};
use crate::status::Status;

/// A value whose JSON type does not fit its field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("json: cannot unmarshal {found} into Go struct field {field} of type {expected}")]
pub struct TypeMismatch {
    /// Kind and path, `ConfigMap.data`.
    pub field: String,
    /// JSON type found.
    pub found: &'static str,
    /// Type expected, in the words clients know.
    pub expected: String,
}

impl TypeMismatch {
    /// The answer to the client.
    pub fn status(&self, api_version: &str, kind: &str) -> Status {
        let (_, version) = crate::resource::split_api_version(api_version);
        Status::bad_request(cannot_handle(version, kind, &self.to_string()))
    }
}

/// Checks `object` against the table of its kind. Returns the paths of unknown fields, which are removed.
/// A kind without a table passes as it is.
pub fn conform(
    api_version: &str,
    kind: &str,
    object: &mut Value,
) -> Result<Vec<String>, TypeMismatch> {
    match super::find_kind(api_version, kind) {
        Some(ty) => conform_as(ty, object),
        None => Ok(Vec::new()),
    }
}

/// [`conform`] for a known type.
pub fn conform_as(ty: &'static Type, object: &mut Value) -> Result<Vec<String>, TypeMismatch> {
    let mut walk = Walk {
        root: ty.short_name(),
        path: String::new(),
        fields: Vec::new(),
        unknown: Vec::new(),
    };
    walk.object(ty, object)?;
    Ok(walk.unknown)
}

struct Walk {
    root: &'static str,
    /// Where we are, with list indexes and map keys.
    path: String,
    /// Where we are, in struct fields only: how type mismatches name the place.
    fields: Vec<&'static str>,
    unknown: Vec<String>,
}

impl Walk {
    fn object(&mut self, ty: &'static Type, value: &mut Value) -> Result<(), TypeMismatch> {
        let found = json_type(value);
        let Value::Object(fields) = value else {
            return Err(self.mismatch(found, ty.short_name().to_owned()));
        };
        let unknown: Vec<String> = fields
            .keys()
            .filter(|name| ty.field(name).is_none())
            .cloned()
            .collect();
        for name in unknown {
            fields.remove(&name);
            self.unknown.push(self.joined(&name));
        }
        fields.retain(|_, value| !value.is_null());
        for (name, value) in fields.iter_mut() {
            let Some(field) = ty.field(name) else {
                continue;
            };
            let length = self.path.len();
            self.path = self.joined(name);
            self.fields.push(field.name);
            self.shape(&field.shape, value)?;
            self.fields.pop();
            self.path.truncate(length);
        }
        Ok(())
    }

    fn shape(&mut self, shape: &'static Shape, value: &mut Value) -> Result<(), TypeMismatch> {
        let fits = match shape {
            Shape::Object(reference) => return self.object(reference.get(), value),
            Shape::List(inner) => {
                let found = json_type(value);
                let Value::Array(list) = value else {
                    return Err(self.mismatch(found, go_type(shape)));
                };
                for (index, item) in list.iter_mut().enumerate() {
                    let length = self.path.len();
                    self.path.push_str(&format!("[{index}]"));
                    match item {
                        Value::Null => *item = zero(inner),
                        _ => self.shape(inner, item)?,
                    }
                    self.path.truncate(length);
                }
                return Ok(());
            }
            Shape::Map(inner) => {
                let found = json_type(value);
                let Value::Object(fields) = value else {
                    return Err(self.mismatch(found, go_type(shape)));
                };
                for (name, item) in fields.iter_mut() {
                    if item.is_null() {
                        *item = zero(inner);
                        continue;
                    }
                    let length = self.path.len();
                    self.path = self.joined(name);
                    self.shape(inner, item)?;
                    self.path.truncate(length);
                }
                return Ok(());
            }
            Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime => value.is_string(),
            Shape::Bool => value.is_boolean(),
            Shape::Int32 => integer(value).is_some_and(|n| i32::try_from(n).is_ok()),
            Shape::Int64 => integer(value).is_some(),
            Shape::Double => value.is_number(),
            Shape::Quantity => value.is_string() || value.is_number(),
            Shape::IntOrString => value.is_string() || integer(value).is_some(),
            Shape::Raw | Shape::Fields => value.is_object(),
        };
        if !fits {
            return Err(self.mismatch(json_type(value), go_type(shape)));
        }
        self.special(shape, value)
    }

    /// Values whose text has a form of its own; numbers are brought into one form.
    fn special(&mut self, shape: &Shape, value: &mut Value) -> Result<(), TypeMismatch> {
        match shape {
            Shape::Int32 | Shape::Int64 | Shape::IntOrString => {
                if let Some(number) = integer(value) {
                    *value = number.into();
                }
            }
            Shape::Quantity => {
                let text = match &*value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let Ok(quantity) = crate::quantity::Quantity::parse(&text) else {
                    return Err(self.mismatch("string", "Quantity".into()));
                };
                *value = quantity.canonical().into();
            }
            Shape::Time | Shape::MicroTime => {
                let Some(micros) = value.as_str().and_then(crate::meta::parse_rfc3339) else {
                    return Err(self.mismatch("string", "Time".into()));
                };
                *value = match shape {
                    Shape::Time => crate::meta::rfc3339(micros.div_euclid(1_000_000)),
                    _ => crate::meta::rfc3339_micro(micros),
                }
                .into();
            }
            Shape::Bytes if !value.as_str().is_some_and(crate::codec::is_base64) => {
                return Err(self.mismatch("string", "[]uint8".into()));
            }
            _ => {}
        }
        Ok(())
    }

    fn joined(&self, name: &str) -> String {
        match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.path),
        }
    }

    fn mismatch(&self, found: &'static str, expected: String) -> TypeMismatch {
        let field = match self.fields.is_empty() {
            true => self.root.to_owned(),
            false => format!("{}.{}", self.root, self.fields.join(".")),
        };
        TypeMismatch {
            field,
            found,
            expected,
        }
    }
}

/// An integer, also when written as `3.0`.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let float = value.as_f64()?;
        // Up to 2^53 a whole float is exactly one integer.
        (float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0).then_some(float as i64)
    })
}

fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::String | Shape::Bytes => "".into(),
        Shape::Bool => false.into(),
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => 0.into(),
        Shape::Quantity => "0".into(),
        Shape::List(_) => Value::Array(Vec::new()),
        _ => Value::Object(serde_json::Map::new()),
    }
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn go_type(shape: &Shape) -> String {
    match shape {
        Shape::String => "string".into(),
        Shape::Bool => "bool".into(),
        Shape::Int32 => "int32".into(),
        Shape::Int64 => "int64".into(),
        Shape::Double => "float64".into(),
        Shape::Bytes => "[]uint8".into(),
        Shape::Time | Shape::MicroTime => "Time".into(),
        Shape::Quantity => "Quantity".into(),
        Shape::IntOrString => "int32".into(),
        Shape::Raw => "object".into(),
        Shape::Fields => "FieldsV1".into(),
        Shape::Object(reference) => reference.get().short_name().into(),
        Shape::List(inner) => format!("[]{}", go_type(inner)),
        Shape::Map(inner) => format!("map[string]{}", go_type(inner)),
    }
}

fn cannot_handle(api_version: &str, kind: &str, problem: &str) -> String {
    format!("{kind} in version {api_version:?} cannot be handled as a {kind}: {problem}")
}

fn problems(unknown: &[String], duplicates: &[String]) -> Vec<String> {
    let unknown = unknown.iter().map(|path| format!("unknown field {path:?}"));
    let duplicates = duplicates
        .iter()
        .map(|path| format!("duplicate field {path:?}"));
    unknown.chain(duplicates).collect()
}

/// The answer under `fieldValidation=Strict`; `None` when there is nothing to complain about.
/// `api_version` is what the body said (`v1`, `apps/v1`).
pub fn strict_status(
    api_version: &str,
    kind: &str,
    unknown: &[String],
    duplicates: &[String],
) -> Option<Status> {
    let problems = problems(unknown, duplicates);
    if problems.is_empty() {
        return None;
    }
    let (_, version) = crate::resource::split_api_version(api_version);
    let text = format!("strict decoding error: {}", problems.join(", "));
    Some(Status::bad_request(cannot_handle(version, kind, &text)))
}

/// Texts for `Warning` headers under `fieldValidation=Warn`.
pub fn strict_warnings(unknown: &[String], duplicates: &[String]) -> Vec<String> {
    problems(unknown, duplicates)
}
