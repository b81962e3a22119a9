//! Defaults and validation of the served kinds: what upstream has in functions per kind.
//!
//! Every kind gets the rules of `metadata`; [`KINDS`] adds what a kind needs beyond them. A kind without an
//! entry has names of DNS-subdomain form and no rules of its own.

mod config;
mod defaults;
mod metadata;
pub mod names;
mod network;
mod pod;

use serde_json::{Map, Value, json};

use crate::{FieldError, ResourceInfo, meta};

pub use metadata::inherit_metadata;

/// What a kind has beyond the common rules.
struct KindRules {
    /// Type in the field tables.
    schema: &'static str,
    /// Problems of a name.
    name: fn(&str) -> Vec<String>,
    /// Fills in defaults.
    defaults: fn(&mut Map<String, Value>),
    /// Checks an object on its own.
    check: fn(&Value, &mut Vec<FieldError>),
    /// Checks a change: new, old.
    change: fn(&Value, &Value, &mut Vec<FieldError>),
}

const COMMON: KindRules = KindRules {
    schema: "",
    name: names::dns_subdomain_problems,
    defaults: |_| {},
    check: |_, _| {},
    change: |_, _, _| {},
};

static KINDS: &[KindRules] = &[
    KindRules {
        schema: "io.k8s.api.core.v1.Namespace",
        name: names::dns_label_problems,
        defaults: defaults::namespace,
        ..COMMON
    },
    KindRules {
        schema: "io.k8s.api.core.v1.Node",
        defaults: defaults::node,
        check: config::node,
        ..COMMON
    },
    KindRules {
        schema: "io.k8s.api.core.v1.ConfigMap",
        check: config::config_map,
        change: config::config_map_change,
        ..COMMON
    },
    KindRules {
        schema: "io.k8s.api.core.v1.Secret",
        defaults: defaults::secret,
        check: config::secret,
        change: config::secret_change,
        ..COMMON
    },
    KindRules {
        schema: "io.k8s.api.core.v1.Service",
        name: names::dns_1035_problems,
        defaults: defaults::service,
        check: network::service,
        ..COMMON
    },
    KindRules {
        schema: "io.k8s.api.core.v1.Endpoints",
        defaults: defaults::endpoints,
        ..COMMON
    },
    KindRules {
        schema: "io.k8s.api.discovery.v1.EndpointSlice",
        defaults: defaults::endpoint_slice,
        check: network::endpoint_slice,
        change: network::endpoint_slice_change,
        ..COMMON
    },
    KindRules {
        schema: "io.k8s.api.core.v1.Pod",
        defaults: pod::defaults,
        check: pod::check,
        change: pod::change,
        ..COMMON
    },
    KindRules {
        schema: "io.k8s.api.coordination.v1.Lease",
        check: config::lease,
        ..COMMON
    },
    // Event names carry a hexadecimal time and may hold what object names hold.
    KindRules {
        schema: "io.k8s.api.core.v1.Event",
        name: names::path_segment_problems,
        ..COMMON
    },
    KindRules {
        schema: "io.k8s.api.events.v1.Event",
        name: names::path_segment_problems,
        ..COMMON
    },
    KindRules {
        schema: "io.k8s.api.authentication.v1.TokenRequest",
        defaults: defaults::token_request,
        ..COMMON
    },
];

fn rules_of(schema: &str) -> &'static KindRules {
    const FALLBACK: &KindRules = &COMMON;
    KINDS
        .iter()
        .find(|rules| rules.schema == schema)
        .unwrap_or(FALLBACK)
}

/// Fills in what upstream fills in on every read of a body.
pub fn apply_defaults(info: &ResourceInfo, object: &mut Value) {
    apply_defaults_of(info.schema, object);
}

/// [`apply_defaults`] for the type of a subresource (`TokenRequest`).
pub fn apply_defaults_of(schema: &str, object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        (rules_of(schema).defaults)(fields);
    }
}

/// What is wrong with a new object. Its name must be final.
pub fn validate_create(info: &ResourceInfo, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let rules = rules_of(info.schema);
    metadata::check(info, rules.name, object, &mut errors);
    (rules.check)(object, &mut errors);
    errors
}

/// What is wrong with a changed object. Call [`inherit_metadata`] first.
pub fn validate_update(info: &ResourceInfo, new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let rules = rules_of(info.schema);
    metadata::check(info, rules.name, new, &mut errors);
    metadata::check_change(new, old, &mut errors);
    (rules.check)(new, &mut errors);
    (rules.change)(new, old, &mut errors);
    errors
}

/// What is wrong with a name in a path or body.
pub fn validate_name(info: &ResourceInfo, name: &str) -> Vec<FieldError> {
    let problems = (rules_of(info.schema).name)(name);
    problems
        .iter()
        .map(|problem| FieldError::invalid("metadata.name", name, problem))
        .collect()
}

/// A write to the object itself: its status is the old one's, or, for a new object, the kind's first one.
/// A new Node keeps the status it registers with.
pub fn retain_status(info: &ResourceInfo, new: &mut Value, old: Option<&Value>) {
    let Some(fields) = new.as_object_mut().filter(|_| info.has_status()) else {
        return;
    };
    match old {
        Some(old) => {
            restore(fields, old, "status");
            if info.kind == "Namespace" {
                // Finalizers of a namespace change through `finalize` only.
                restore(fields, old, "spec");
            }
        }
        None => match info.kind {
            "Node" => {}
            "Namespace" => {
                fields.insert("spec".into(), json!({"finalizers": ["kubernetes"]}));
                fields.insert("status".into(), json!({"phase": "Active"}));
            }
            "Pod" => {
                let class = pod::qos_class(fields);
                fields.insert(
                    "status".into(),
                    json!({"phase": "Pending", "qosClass": class}),
                );
            }
            "Service" => {
                fields.insert("status".into(), json!({"loadBalancer": {}}));
            }
            _ => {
                fields.remove("status");
            }
        },
    }
}

/// A write to `status`: everything but status and metadata is the old one's.
pub fn retain_spec(_info: &ResourceInfo, new: &mut Value, old: &Value) {
    let Some(fields) = new.as_object_mut() else {
        return;
    };
    let kept = |name: &str| matches!(name, "apiVersion" | "kind" | "metadata" | "status");
    fields.retain(|name, _| kept(name));
    for (name, value) in old
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| !kept(name))
    {
        fields.insert(name.clone(), value.clone());
    }
}

/// Sets `metadata.generation`: 1 for a new object, one more whenever anything but metadata and status changes.
/// Kinds without generations keep what they had.
pub fn set_generation(info: &ResourceInfo, new: &mut Value, old: Option<&Value>) {
    let generation = match old {
        None if info.has_spec_generation => Some(1),
        Some(old) if info.has_spec_generation && specified(new) != specified(old) => {
            Some(meta::generation(old).unwrap_or(0).saturating_add(1))
        }
        Some(old) => meta::generation(old),
        None => None,
    };
    match generation {
        Some(generation) => meta::set(new, "generation", generation),
        None => meta::unset(new, "generation"),
    }
}

fn specified(object: &Value) -> Vec<(&String, &Value)> {
    let ignored = |name: &str| matches!(name, "apiVersion" | "kind" | "metadata" | "status");
    object
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| !ignored(name))
        .collect()
}

fn restore(fields: &mut Map<String, Value>, old: &Value, name: &str) {
    match old.get(name) {
        Some(value) => fields.insert(name.to_owned(), value.clone()),
        None => fields.remove(name),
    };
}

/// A text field, empty when missing.
fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    path.split('.')
        .try_fold(value, |value, name| value.get(name))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A list field, empty when missing.
fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    path.split('.')
        .try_fold(value, |value, name| value.get(name))
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Complains about a value outside a set; a missing one is left to others.
fn supported(path: &str, value: &str, values: &[&str], errors: &mut Vec<FieldError>) {
    if !value.is_empty() && !values.contains(&value) {
        errors.push(FieldError::not_supported(path, value, values));
    }
}

/// Complains about a number that is no port.
fn port(path: &str, value: Option<i64>, errors: &mut Vec<FieldError>) {
    let value = value.unwrap_or(0);
    if !(1..=65535).contains(&value) {
        errors.push(FieldError::invalid(
            path,
            value,
            "must be between 1 and 65535, inclusive",
        ));
    }
}
