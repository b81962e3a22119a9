//! Reading and writing `metadata`, names and times.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.as_object()
}

fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    metadata(object)?
        .get(field)?
        .as_str()
        .filter(|s| !s.is_empty())
}

/// `metadata`, created when missing. A non-object value or metadata is replaced by an empty one.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    let fields = as_object_mut(object);
    as_object_mut(fields.entry("metadata").or_insert(Value::Null))
}

/// `value` as an object, made an empty one when it is anything else.
pub(crate) fn as_object_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object just above")
}

/// `metadata.name`, unless empty.
pub fn name(object: &Value) -> Option<&str> {
    text(object, "name")
}

/// `metadata.namespace`, unless empty.
pub fn namespace(object: &Value) -> Option<&str> {
    text(object, "namespace")
}

/// `metadata.generateName`, unless empty.
pub fn generate_name(object: &Value) -> Option<&str> {
    text(object, "generateName")
}

/// `metadata.uid`, unless empty.
pub fn uid(object: &Value) -> Option<&str> {
    text(object, "uid")
}

/// `metadata.resourceVersion`, unless empty.
pub fn resource_version(object: &Value) -> Option<&str> {
    text(object, "resourceVersion")
}

/// `metadata.creationTimestamp` as unix seconds.
pub fn creation_seconds(object: &Value) -> Option<i64> {
    text(object, "creationTimestamp")
        .and_then(parse_rfc3339)
        .map(|micros| micros.div_euclid(1_000_000))
}

/// `metadata.deletionTimestamp`, when the object is being deleted.
pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    text(object, "deletionTimestamp")
}

/// `metadata.generation`.
pub fn generation(object: &Value) -> Option<i64> {
    metadata(object)?.get("generation")?.as_i64()
}

/// `metadata.labels`.
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    metadata(object)?.get("labels")?.as_object()
}

/// One label's value.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

/// `metadata.annotations`.
pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    metadata(object)?.get("annotations")?.as_object()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> Vec<&str> {
    metadata(object)
        .and_then(|m| m.get("finalizers")?.as_array())
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// `metadata.ownerReferences`.
pub fn owner_references(object: &Value) -> &[Value] {
    metadata(object)
        .and_then(|m| m.get("ownerReferences")?.as_array())
        .map_or(&[], Vec::as_slice)
}

/// Sets one field of `metadata`.
pub fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    metadata_mut(object).insert(field.to_owned(), value.into());
}

/// Removes one field of `metadata`.
pub fn unset(object: &mut Value, field: &str) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove(field);
    }
}

/// Sets `metadata.resourceVersion` to a store revision.
pub fn set_resource_version(object: &mut Value, revision: u64) {
    set(object, "resourceVersion", revision.to_string());
}

/// Sets `apiVersion` and `kind`.
pub fn set_type(object: &mut Value, api_version: &str, kind: &str) {
    let fields = as_object_mut(object);
    fields.insert("apiVersion".into(), api_version.into());
    fields.insert("kind".into(), kind.into());
}

/// Longest base a generated name keeps, so that the whole stays a DNS label.
pub const MAX_GENERATED_BASE: usize = 63 - 5;

/// Characters of generated suffixes: no vowels and no look-alikes, so that no words appear.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Five characters to append to `generateName`.
pub fn generate_name_suffix(random: &[u8; 5]) -> String {
    random
        .iter()
        .map(|b| char::from(SUFFIX_ALPHABET[usize::from(*b) % SUFFIX_ALPHABET.len()]))
        .collect()
}

/// `base` cut to leave room, followed by a generated suffix.
pub fn generated_name(base: &str, random: &[u8; 5]) -> String {
    let mut end = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], generate_name_suffix(random))
}

/// A version 4 UUID from random bytes.
pub fn uid_from_random(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut out = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        for digit in [byte >> 4, byte & 15] {
            out.push(char::from_digit(digit.into(), 16).expect("a nibble is a hex digit"));
        }
    }
    out
}

/// RFC 3339 in UTC with whole seconds (`Time`). Moments beyond year 9999 are clamped.
pub fn rfc3339(unix_seconds: i64) -> String {
    let t = moment(unix_seconds);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second()
    )
}

/// RFC 3339 in UTC with six digits (`MicroTime`).
pub fn rfc3339_micro(unix_micros: i64) -> String {
    let whole = rfc3339(unix_micros.div_euclid(1_000_000));
    format!(
        "{}.{:06}Z",
        &whole[..whole.len() - 1],
        unix_micros.rem_euclid(1_000_000)
    )
}

/// Unix microseconds of an RFC 3339 time with any offset.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let nanos = OffsetDateTime::parse(text, &Rfc3339)
        .ok()?
        .unix_timestamp_nanos();
    i64::try_from(nanos.div_euclid(1000)).ok()
}

fn moment(unix_seconds: i64) -> OffsetDateTime {
    /// First and last second of the years 0 to 9999, the range RFC 3339 can write.
    const RANGE: (i64, i64) = (-62_167_219_200, 253_402_300_799);
    OffsetDateTime::from_unix_timestamp(unix_seconds.clamp(RANGE.0, RANGE.1))
        .expect("clamped to the supported range")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_round_trip() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(
            rfc3339_micro(1_700_000_000_000_042),
            "2023-11-14T22:13:20.000042Z"
        );
        assert_eq!(
            parse_rfc3339("2023-11-14T22:13:20.000042Z"),
            Some(1_700_000_000_000_042)
        );
        assert_eq!(
            parse_rfc3339("2023-11-14T23:13:20+01:00"),
            Some(1_700_000_000_000_000)
        );
        assert_eq!(rfc3339(i64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(rfc3339(i64::MIN), "0000-01-01T00:00:00Z");
        assert_eq!(parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn generated_names() {
        assert_eq!(generate_name_suffix(&[0, 26, 27, 255, 1]), "b9bqc");
        assert_eq!(generated_name(&"x".repeat(80), &[0; 5]).len(), 63);
        assert_eq!(
            uid_from_random([0xff; 16]),
            "ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
    }

    #[test]
    fn accessors_survive_odd_shapes() {
        let mut value = json!({"metadata": 7});
        assert_eq!(name(&value), None);
        set_resource_version(&mut value, 9);
        assert_eq!(resource_version(&value), Some("9"));
        let mut value = json!([1]);
        set(&mut value, "name", "x");
        assert_eq!(name(&value), Some("x"));
    }
}
