//! Protobuf to JSON values, by the field tables.
//!
//! Fields that are always on the wire because they are no pointers upstream (empty text, empty lists, the zero
//! time, listed numbers) come out as unset, as upstream's JSON would show them.

use serde_json::{Map, Value};

use super::wire::{Malformed, Payload, Reader};
use super::{DecodeError, Decoded, MAX_DEPTH};
use crate::schema::{Field, Shape, Type};

pub(super) const MAGIC: &[u8; 4] = b"k8s\0";

pub(super) fn decode(body: &[u8], api_version: &str, kind: &str) -> Result<Decoded, DecodeError> {
    let malformed = |_| DecodeError::Malformed("proto: the body is not a valid message".into());
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| {
        DecodeError::Malformed("provided data does not appear to be a protobuf message".into())
    })?;
    let (found_version, found_kind, raw) = open(envelope).map_err(malformed)?;
    let (api_version, kind) = match (found_version.is_empty(), found_kind.is_empty()) {
        (true, true) => (api_version.to_owned(), kind.to_owned()),
        _ => (found_version, found_kind),
    };
    let Some(ty) = crate::schema::find_kind(&api_version, &kind) else {
        return Err(DecodeError::UnknownKind { api_version, kind });
    };
    let mut fields = Map::new();
    message(ty, &[], raw, &mut fields, MAX_DEPTH).map_err(malformed)?;
    Ok(Decoded {
        api_version,
        kind,
        value: Value::Object(fields),
        duplicates: Vec::new(),
    })
}

/// `runtime.Unknown`: 1 typeMeta {1 apiVersion, 2 kind}, 2 raw, 3 contentEncoding, 4 contentType.
fn open(envelope: &[u8]) -> Result<(String, String, &[u8]), Malformed> {
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader::new(envelope);
    while let Some((number, payload)) = reader.field()? {
        match (number, payload) {
            (1, Payload::Bytes(meta)) => {
                let mut reader = Reader::new(meta);
                while let Some((number, payload)) = reader.field()? {
                    match (number, payload) {
                        (1, Payload::Bytes(bytes)) => api_version = text(bytes)?,
                        (2, Payload::Bytes(bytes)) => kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Payload::Bytes(bytes)) => raw = bytes,
            // An encoded payload would need another decoder; nobody sends one.
            (3, Payload::Bytes(encoding)) if !encoding.is_empty() => return Err(Malformed),
            _ => {}
        }
    }
    Ok((api_version, kind, raw))
}

/// Decodes one message of `ty` into `out`. `prefix` is the path of a Go-embedded message inside `ty`.
fn message(
    ty: &'static Type,
    prefix: &[u32],
    bytes: &[u8],
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed)?;
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.field()? {
        let below = |field: &&Field| {
            field
                .proto_path
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.first() == Some(&number))
        };
        let Some(field) = ty.fields.iter().find(below) else {
            continue;
        };
        if field.proto_path.len() == prefix.len() + 1 {
            put(field, payload, out, depth)?;
        } else if let Payload::Bytes(inner) = payload {
            let path = field.proto_path.get(..=prefix.len()).ok_or(Malformed)?;
            message(ty, path, inner, out, depth)?;
        } else {
            return Err(Malformed);
        }
    }
    Ok(())
}

fn put(
    field: &'static Field,
    payload: Payload<'_>,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Malformed> {
    match &field.shape {
        Shape::List(inner) => {
            let list = out
                .entry(field.name)
                .or_insert_with(|| Value::Array(Vec::new()));
            let list = list.as_array_mut().ok_or(Malformed)?;
            match payload {
                Payload::Bytes(packed) if is_number(inner) => {
                    let mut reader = Reader::new(packed);
                    while !reader.is_empty() {
                        list.push(scalar(inner, Payload::Varint(reader.varint()?), depth)?);
                    }
                }
                _ => list.push(scalar(inner, payload, depth)?),
            }
        }
        Shape::Map(inner) => {
            let Payload::Bytes(entry) = payload else {
                return Err(Malformed);
            };
            let (key, value) = map_entry(inner, entry, depth)?;
            let map = out
                .entry(field.name)
                .or_insert_with(|| Value::Object(Map::new()));
            map.as_object_mut().ok_or(Malformed)?.insert(key, value);
        }
        Shape::Object(reference) => {
            // A message that comes twice is merged, as protobuf demands.
            let Payload::Bytes(inner) = payload else {
                return Err(Malformed);
            };
            let object = out
                .entry(field.name)
                .or_insert_with(|| Value::Object(Map::new()));
            message(
                reference.get(),
                &[],
                inner,
                object.as_object_mut().ok_or(Malformed)?,
                depth,
            )?;
        }
        shape => {
            let value = scalar(shape, payload, depth)?;
            let unset = match &value {
                Value::Null => true,
                Value::String(text) => text.is_empty() && !field.required,
                Value::Number(number) => field.zero_is_unset && number.as_i64() == Some(0),
                Value::Bool(flag) => field.zero_is_unset && !flag,
                _ => false,
            };
            match unset {
                true => out.remove(field.name),
                false => out.insert(field.name.to_owned(), value),
            };
        }
    }
    Ok(())
}

fn is_number(shape: &Shape) -> bool {
    matches!(shape, Shape::Int32 | Shape::Int64 | Shape::Bool)
}

/// A map entry: 1 key, 2 value. A list as value is wrapped in a message with items in field 1.
fn map_entry(
    shape: &'static Shape,
    entry: &[u8],
    depth: usize,
) -> Result<(String, Value), Malformed> {
    let mut key = String::new();
    let mut value = None;
    let mut reader = Reader::new(entry);
    while let Some((number, payload)) = reader.field()? {
        match (number, payload) {
            (1, Payload::Bytes(bytes)) => key = text(bytes)?,
            (2, payload) => value = Some(scalar(shape, payload, depth)?),
            _ => {}
        }
    }
    let value = match value {
        Some(value) => value,
        None => scalar(shape, empty(shape), depth)?,
    };
    Ok((key, value))
}

fn empty(shape: &Shape) -> Payload<'static> {
    match shape {
        Shape::Bool | Shape::Int32 | Shape::Int64 => Payload::Varint(0),
        Shape::Double => Payload::Fixed64(0),
        _ => Payload::Bytes(&[]),
    }
}

/// One value that is not a field's list or map.
fn scalar(shape: &'static Shape, payload: Payload<'_>, depth: usize) -> Result<Value, Malformed> {
    Ok(match (shape, payload) {
        (Shape::String, Payload::Bytes(bytes)) => text(bytes)?.into(),
        (Shape::Bytes, Payload::Bytes(bytes)) => super::to_base64(bytes).into(),
        (Shape::Bool, Payload::Varint(n)) => (n != 0).into(),
        // Varints carry negative numbers sign-extended to 64 bits.
        (Shape::Int32, Payload::Varint(n)) => (n as i32).into(),
        (Shape::Int64, Payload::Varint(n)) => (n as i64).into(),
        (Shape::Double, Payload::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Shape::Time, Payload::Bytes(bytes)) => match timestamp(bytes)? {
            Some(micros) => crate::meta::rfc3339(micros.div_euclid(1_000_000)).into(),
            None => Value::Null,
        },
        (Shape::MicroTime, Payload::Bytes(bytes)) => match timestamp(bytes)? {
            Some(micros) => crate::meta::rfc3339_micro(micros).into(),
            None => Value::Null,
        },
        (Shape::Quantity, Payload::Bytes(bytes)) => match first_bytes(bytes, 1)? {
            Some(bytes) => text(bytes)?.into(),
            None => "0".into(),
        },
        (Shape::IntOrString, Payload::Bytes(bytes)) => int_or_string(bytes)?,
        (Shape::Raw | Shape::Fields, Payload::Bytes(bytes)) => match first_bytes(bytes, 1)? {
            Some([]) | None => Value::Null,
            Some(json) => serde_json::from_slice(json).map_err(|_| Malformed)?,
        },
        (Shape::Object(reference), Payload::Bytes(bytes)) => {
            let mut fields = Map::new();
            message(reference.get(), &[], bytes, &mut fields, depth)?;
            Value::Object(fields)
        }
        (Shape::List(inner), Payload::Bytes(bytes)) => {
            let depth = depth.checked_sub(1).ok_or(Malformed)?;
            let mut list = Vec::new();
            let mut reader = Reader::new(bytes);
            while let Some((number, payload)) = reader.field()? {
                if number == 1 {
                    list.push(scalar(inner, payload, depth)?);
                }
            }
            Value::Array(list)
        }
        _ => return Err(Malformed),
    })
}

/// 1 seconds, 2 nanoseconds; nothing at all is the zero time. In unix microseconds.
fn timestamp(bytes: &[u8]) -> Result<Option<i64>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0i64, 0i64);
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.field()? {
        match (number, payload) {
            (1, Payload::Varint(n)) => seconds = n as i64,
            (2, Payload::Varint(n)) => nanos = i64::from(n as i32),
            _ => {}
        }
    }
    Ok(Some(
        seconds
            .saturating_mul(1_000_000)
            .saturating_add(nanos / 1000),
    ))
}

/// 1 type (0 number, 1 text), 2 number, 3 text.
fn int_or_string(bytes: &[u8]) -> Result<Value, Malformed> {
    let (mut is_text, mut number_value, mut text_value) = (false, 0i32, String::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, payload)) = reader.field()? {
        match (number, payload) {
            (1, Payload::Varint(n)) => is_text = n == 1,
            (2, Payload::Varint(n)) => number_value = n as i32,
            (3, Payload::Bytes(bytes)) => text_value = text(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text {
        text_value.into()
    } else {
        number_value.into()
    })
}

fn first_bytes(message: &[u8], wanted: u32) -> Result<Option<&[u8]>, Malformed> {
    let mut found = None;
    let mut reader = Reader::new(message);
    while let Some((number, payload)) = reader.field()? {
        if let (true, Payload::Bytes(bytes)) = (number == wanted, payload) {
            found = Some(bytes);
        }
    }
    Ok(found)
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| Malformed)
}
