//! Validation of ConfigMap, Secret, Lease and Node.

use serde_json::Value;

use super::{list, names, supported, text};
use crate::{FieldError, codec, meta};

/// Most bytes of the values of a ConfigMap or Secret.
const MAX_DATA_BYTES: usize = 1024 * 1024;
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

fn keys(field: &str, object: &Value, errors: &mut Vec<FieldError>) {
    for key in object
        .get(field)
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|data| data.keys())
    {
        for problem in names::config_key_problems(key) {
            errors.push(FieldError::invalid(
                &format!("{field}[{key}]"),
                key.as_str(),
                &problem,
            ));
        }
    }
}

fn values<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    object
        .get(field)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(_, value)| value.as_str())
}

fn decoded_length(text: &str) -> usize {
    codec::from_base64(text).map_or(0, |bytes| bytes.len())
}

pub(super) fn config_map(object: &Value, errors: &mut Vec<FieldError>) {
    keys("data", object, errors);
    keys("binaryData", object, errors);
    if let (Some(data), Some(binary)) = (
        object.get("data"),
        object.get("binaryData").and_then(Value::as_object),
    ) {
        for key in binary.keys().filter(|key| data.get(key.as_str()).is_some()) {
            errors.push(FieldError::invalid(
                &format!("data[{key}]"),
                key.as_str(),
                "duplicate of key present in binaryData",
            ));
        }
    }
    let size: usize = values(object, "data").map(str::len).sum::<usize>()
        + values(object, "binaryData")
            .map(decoded_length)
            .sum::<usize>();
    if size > MAX_DATA_BYTES {
        errors.push(FieldError::too_long("[]", MAX_DATA_BYTES));
    }
}

pub(super) fn config_map_change(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    frozen(new, old, &["data", "binaryData"], errors);
}

pub(super) fn secret_change(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if text(new, "type") != text(old, "type") {
        errors.push(FieldError::invalid(
            "type",
            text(new, "type"),
            "field is immutable",
        ));
    }
    frozen(new, old, &["data"], errors);
}

fn frozen(new: &Value, old: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    if new.get("immutable") != Some(&Value::Bool(true)) {
        errors.push(FieldError::forbidden("immutable", IMMUTABLE));
    }
    for field in fields {
        if new.get(field) != old.get(field) {
            errors.push(FieldError::forbidden(field, IMMUTABLE));
        }
    }
}

/// Keys a type of secret must have; of the second list, at least one.
const SECRET_TYPES: &[(&str, &[&str], &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"], &[]),
    (
        "kubernetes.io/dockerconfigjson",
        &[".dockerconfigjson"],
        &[],
    ),
    ("kubernetes.io/basic-auth", &[], &["username", "password"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"], &[]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"], &[]),
];
const SERVICE_ACCOUNT_TOKEN: &str = "kubernetes.io/service-account-token";
const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

pub(super) fn secret(object: &Value, errors: &mut Vec<FieldError>) {
    keys("data", object, errors);
    if values(object, "data").map(decoded_length).sum::<usize>() > MAX_DATA_BYTES {
        errors.push(FieldError::too_long("data", MAX_DATA_BYTES));
    }
    let kind = text(object, "type");
    let value = |key: &str| object.get("data")?.get(key)?.as_str();
    if kind == SERVICE_ACCOUNT_TOKEN {
        let account = meta::annotations(object).and_then(|a| a.get(SERVICE_ACCOUNT_NAME)?.as_str());
        if account.is_none_or(str::is_empty) {
            errors.push(FieldError::required(
                &format!("metadata.annotations[{SERVICE_ACCOUNT_NAME}]"),
                "",
            ));
        }
    }
    let Some((_, all, any)) = SECRET_TYPES.iter().find(|(name, _, _)| *name == kind) else {
        return;
    };
    for key in all.iter().filter(|key| value(key).is_none()) {
        errors.push(FieldError::required(&format!("data[{key}]"), ""));
    }
    if !any.is_empty() && any.iter().all(|key| value(key).is_none()) {
        errors.extend(
            any.iter()
                .map(|key| FieldError::required(&format!("data[{key}]"), "")),
        );
    }
    if kind.starts_with("kubernetes.io/dockerc") {
        for key in all.iter() {
            let Some(bytes) = value(key).and_then(codec::from_base64) else {
                continue;
            };
            if serde_json::from_slice::<Value>(&bytes).is_err() {
                errors.push(FieldError::invalid(
                    &format!("data[{key}]"),
                    "<secret contents redacted>",
                    "invalid JSON",
                ));
            }
        }
    }
}

pub(super) fn lease(object: &Value, errors: &mut Vec<FieldError>) {
    let number = |field: &str| object.get("spec")?.get(field)?.as_i64();
    if let Some(seconds) = number("leaseDurationSeconds").filter(|n| *n <= 0) {
        errors.push(FieldError::invalid(
            "spec.leaseDurationSeconds",
            seconds,
            "must be greater than 0",
        ));
    }
    if let Some(transitions) = number("leaseTransitions").filter(|n| *n < 0) {
        errors.push(FieldError::invalid(
            "spec.leaseTransitions",
            transitions,
            "must be greater than or equal to 0",
        ));
    }
}

pub(super) fn node(object: &Value, errors: &mut Vec<FieldError>) {
    const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (index, taint) in list(object, "spec.taints").iter().enumerate() {
        let path = format!("spec.taints[{index}]");
        let (key, effect) = (text(taint, "key"), text(taint, "effect"));
        for problem in names::qualified_name_problems(key) {
            errors.push(FieldError::invalid(&format!("{path}.key"), key, &problem));
        }
        for problem in names::label_value_problems(text(taint, "value")) {
            errors.push(FieldError::invalid(
                &format!("{path}.value"),
                text(taint, "value"),
                &problem,
            ));
        }
        if effect.is_empty() {
            errors.push(FieldError::required(&format!("{path}.effect"), ""));
        }
        supported(&format!("{path}.effect"), effect, EFFECTS, errors);
        if seen.contains(&(key, effect)) {
            let mut error = FieldError::duplicate(&path, taint.clone());
            error.detail = "taints must be unique by key and effect pair".into();
            errors.push(error);
        }
        seen.push((key, effect));
    }
}
