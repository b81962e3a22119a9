//! JSON values to protobuf, by the field tables.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::EncodeError;
use super::decode_proto::MAGIC;
use super::wire::{put_bytes, put_double, put_uint};
use crate::schema::{Field, Shape, Type};

pub(super) fn encode(value: &Value) -> Result<Vec<u8>, EncodeError> {
    let text = |name| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let ty = crate::schema::find_kind(api_version, kind)
        .ok_or_else(|| EncodeError(format!("no field table for {api_version} {kind}")))?;
    let fields = value
        .as_object()
        .ok_or_else(|| EncodeError("not an object".into()))?;
    let mut raw = Vec::new();
    message(ty, &[], fields, &mut raw)?;
    let mut meta = Vec::new();
    put_bytes(&mut meta, 1, api_version.as_bytes());
    put_bytes(&mut meta, 2, kind.as_bytes());
    let mut out = MAGIC.to_vec();
    put_bytes(&mut out, 1, &meta);
    put_bytes(&mut out, 2, &raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    Ok(out)
}

fn message(
    ty: &'static Type,
    prefix: &[u32],
    object: &Map<String, Value>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let present = |field: &&Field| object.get(field.name).is_some_and(|value| !value.is_null());
    let numbers: BTreeSet<u32> = ty
        .fields
        .iter()
        .filter(present)
        .filter_map(|field| field.proto_path.strip_prefix(prefix)?.first().copied())
        .collect();
    for number in numbers {
        let path: Vec<u32> = prefix.iter().copied().chain([number]).collect();
        let direct = ty.fields.iter().find(|field| field.proto_path == path);
        match direct.and_then(|field| object.get(field.name).map(|value| (field, value))) {
            Some((field, value)) => {
                put(&field.shape, number, value, out).map_err(|e| at(field.name, &e))?;
            }
            None => {
                let mut inner = Vec::new();
                message(ty, &path, object, &mut inner)?;
                put_bytes(out, number, &inner);
            }
        }
    }
    Ok(())
}

fn at(name: &str, inner: &EncodeError) -> EncodeError {
    EncodeError(format!("{name}: {}", inner.0))
}

fn wrong(shape: &Shape) -> EncodeError {
    EncodeError(format!("value does not fit {shape:?}"))
}

fn put(
    shape: &'static Shape,
    number: u32,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let bad = || wrong(shape);
    match shape {
        Shape::List(inner) => {
            for item in value.as_array().ok_or_else(bad)? {
                put(inner, number, item, out)?;
            }
        }
        Shape::Map(inner) => {
            for (key, item) in value.as_object().ok_or_else(bad)? {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                match &**inner {
                    Shape::List(_) => {
                        let mut wrapped = Vec::new();
                        put(inner, 1, item, &mut wrapped)?;
                        put_bytes(&mut entry, 2, &wrapped);
                    }
                    inner => put(inner, 2, item, &mut entry)?,
                }
                put_bytes(out, number, &entry);
            }
        }
        Shape::Object(reference) => {
            let mut inner = Vec::new();
            message(
                reference.get(),
                &[],
                value.as_object().ok_or_else(bad)?,
                &mut inner,
            )?;
            put_bytes(out, number, &inner);
        }
        Shape::String => put_bytes(out, number, value.as_str().ok_or_else(bad)?.as_bytes()),
        Shape::Bytes => {
            let bytes = value
                .as_str()
                .and_then(super::from_base64)
                .ok_or_else(bad)?;
            put_bytes(out, number, &bytes);
        }
        Shape::Bool => put_uint(out, number, value.as_bool().ok_or_else(bad)?.into()),
        Shape::Int32 | Shape::Int64 => {
            put_uint(out, number, value.as_i64().ok_or_else(bad)? as u64);
        }
        Shape::Double => put_double(out, number, value.as_f64().ok_or_else(bad)?),
        Shape::Time | Shape::MicroTime => {
            let micros = value
                .as_str()
                .and_then(crate::meta::parse_rfc3339)
                .ok_or_else(bad)?;
            let mut inner = Vec::new();
            put_uint(&mut inner, 1, micros.div_euclid(1_000_000) as u64);
            put_uint(&mut inner, 2, (micros.rem_euclid(1_000_000) * 1000) as u64);
            put_bytes(out, number, &inner);
        }
        Shape::Quantity => {
            let mut inner = Vec::new();
            put_bytes(&mut inner, 1, value.as_str().ok_or_else(bad)?.as_bytes());
            put_bytes(out, number, &inner);
        }
        Shape::IntOrString => {
            let mut inner = Vec::new();
            match value {
                Value::String(text) => {
                    put_uint(&mut inner, 1, 1);
                    put_bytes(&mut inner, 3, text.as_bytes());
                }
                other => {
                    put_uint(&mut inner, 1, 0);
                    put_uint(&mut inner, 2, other.as_i64().ok_or_else(bad)? as u64);
                }
            }
            put_bytes(out, number, &inner);
        }
        Shape::Raw | Shape::Fields => {
            let mut inner = Vec::new();
            put_bytes(&mut inner, 1, value.to_string().as_bytes());
            put_bytes(out, number, &inner);
        }
    }
    Ok(())
}
