//! Defaults of the smaller kinds.

use serde_json::{Map, Value, json};

use crate::codec::to_base64;
use crate::meta::as_object_mut;

type Fields = Map<String, Value>;

/// Sets a field that is missing.
pub(super) fn default(fields: &mut Fields, name: &str, value: impl Into<Value>) {
    fields.entry(name).or_insert_with(|| value.into());
}

/// Sets a text field that is missing or empty.
pub(super) fn default_text(fields: &mut Fields, name: &str, value: &str) {
    if fields.get(name).is_none_or(|v| v.is_null() || v == "") {
        fields.insert(name.to_owned(), value.into());
    }
}

/// The objects in a list field.
pub(super) fn each<'a>(
    fields: &'a mut Fields,
    name: &str,
) -> impl Iterator<Item = &'a mut Fields> + use<'a> {
    fields
        .get_mut(name)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// Every namespace is labelled with its name.
pub(super) fn namespace(fields: &mut Fields) {
    let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(name) = metadata
        .get("name")
        .cloned()
        .filter(|name| name.as_str().is_some_and(|n| !n.is_empty()))
    else {
        return;
    };
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    as_object_mut(labels).insert("kubernetes.io/metadata.name".into(), name);
}

/// What is allocatable is the capacity, unless said otherwise.
pub(super) fn node(fields: &mut Fields) {
    let Some(status) = fields.get_mut("status").and_then(Value::as_object_mut) else {
        return;
    };
    if let (None, Some(capacity)) = (status.get("allocatable"), status.get("capacity").cloned()) {
        status.insert("allocatable".into(), capacity);
    }
}

/// `stringData` is for writing: it ends up in `data`.
pub(super) fn secret(fields: &mut Fields) {
    default_text(fields, "type", "Opaque");
    let Some(Value::Object(plain)) = fields.remove("stringData") else {
        return;
    };
    if plain.is_empty() {
        return;
    }
    let data = as_object_mut(fields.entry("data").or_insert_with(|| json!({})));
    for (key, value) in plain {
        data.insert(
            key,
            to_base64(value.as_str().unwrap_or_default().as_bytes()).into(),
        );
    }
}

pub(super) fn service(fields: &mut Fields) {
    let spec = as_object_mut(fields.entry("spec").or_insert_with(|| json!({})));
    default_text(spec, "sessionAffinity", "None");
    default_text(spec, "type", "ClusterIP");
    if spec.get("sessionAffinity").is_some_and(|v| v == "ClientIP") {
        let config = as_object_mut(
            spec.entry("sessionAffinityConfig")
                .or_insert_with(|| json!({})),
        );
        let client = as_object_mut(config.entry("clientIP").or_insert_with(|| json!({})));
        // Three hours.
        default(client, "timeoutSeconds", 10_800);
    }
    let kind = spec
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let outside = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    if outside {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if outside || kind == "ClusterIP" {
        default_text(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    for port in each(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or(Value::Null);
        if port
            .get("targetPort")
            .is_none_or(|t| t.is_null() || t == 0 || t == "")
        {
            port.insert("targetPort".into(), number);
        }
    }
}

pub(super) fn endpoints(fields: &mut Fields) {
    for subset in each(fields, "subsets") {
        for port in each(subset, "ports") {
            default_text(port, "protocol", "TCP");
        }
    }
}

pub(super) fn endpoint_slice(fields: &mut Fields) {
    for port in each(fields, "ports") {
        default(port, "name", "");
        default_text(port, "protocol", "TCP");
    }
}

/// Tokens live an hour.
pub(super) fn token_request(fields: &mut Fields) {
    let spec = as_object_mut(fields.entry("spec").or_insert_with(|| json!({})));
    default(spec, "expirationSeconds", 3600);
}
