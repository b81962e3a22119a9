//! Validation of Service and EndpointSlice.

use serde_json::Value;

use super::{list, names, port, supported, text};
use crate::FieldError;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const SERVICE_TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const ADDRESS_TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];
/// Most endpoints of one slice, and most ports.
const MAX_ENDPOINTS: usize = 1000;
const MAX_SLICE_PORTS: usize = 100;

pub(super) fn service(object: &Value, errors: &mut Vec<FieldError>) {
    let kind = text(object, "spec.type");
    let ports = list(object, "spec.ports");
    if ports.is_empty() && text(object, "spec.clusterIP") != "None" && kind != "ExternalName" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    supported("spec.type", kind, SERVICE_TYPES, errors);
    supported(
        "spec.sessionAffinity",
        text(object, "spec.sessionAffinity"),
        &["ClientIP", "None"],
        errors,
    );
    if kind == "ExternalName" && text(object, "spec.externalName").is_empty() {
        errors.push(FieldError::required("spec.externalName", ""));
    }
    let mut seen_names: Vec<&str> = Vec::new();
    for (index, item) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let name = text(item, "name");
        if name.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(&format!("{path}.name"), ""));
            }
        } else {
            for problem in names::dns_label_problems(name) {
                errors.push(FieldError::invalid(&format!("{path}.name"), name, &problem));
            }
            if seen_names.contains(&name) {
                errors.push(FieldError::duplicate(&format!("{path}.name"), name));
            }
            seen_names.push(name);
        }
        port(
            &format!("{path}.port"),
            item.get("port").and_then(Value::as_i64),
            errors,
        );
        protocol(&path, item, errors);
        if let Some(number) = item.get("targetPort").and_then(Value::as_i64) {
            port(&format!("{path}.targetPort"), Some(number), errors);
        }
    }
    for key in object
        .get("spec")
        .and_then(|s| s.get("selector"))
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        for problem in names::qualified_name_problems(key.0) {
            errors.push(FieldError::invalid(
                "spec.selector",
                key.0.as_str(),
                &problem,
            ));
        }
    }
}

fn protocol(path: &str, item: &Value, errors: &mut Vec<FieldError>) {
    let path = format!("{path}.protocol");
    match text(item, "protocol") {
        "" => errors.push(FieldError::required(&path, "")),
        protocol => supported(&path, protocol, PROTOCOLS, errors),
    }
}

pub(super) fn endpoint_slice(object: &Value, errors: &mut Vec<FieldError>) {
    match text(object, "addressType") {
        "" => errors.push(FieldError::required("addressType", "")),
        kind => supported("addressType", kind, ADDRESS_TYPES, errors),
    }
    let endpoints = list(object, "endpoints");
    for (path, count, most) in [
        ("endpoints", endpoints.len(), MAX_ENDPOINTS),
        ("ports", list(object, "ports").len(), MAX_SLICE_PORTS),
    ] {
        if count > most {
            errors.push(FieldError::invalid(
                path,
                count,
                &format!("must have at most {most} items"),
            ));
        }
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        if list(endpoint, "addresses").is_empty() {
            let path = format!("endpoints[{index}].addresses");
            errors.push(FieldError::required(
                &path,
                "must contain at least 1 address",
            ));
        }
    }
    for (index, item) in list(object, "ports").iter().enumerate() {
        protocol(&format!("ports[{index}]"), item, errors);
    }
}

pub(super) fn endpoint_slice_change(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    let (now, before) = (text(new, "addressType"), text(old, "addressType"));
    if now != before {
        errors.push(FieldError::invalid(
            "addressType",
            now,
            "field is immutable",
        ));
    }
}
