//! Rules of `metadata`, the same for every kind.

use serde_json::Value;

use super::{list, names, text};
use crate::{FieldError, ResourceInfo, meta};

/// Most bytes of all annotation keys and values together.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

/// Fields the server owns; a writer that leaves them out or changes the last two keeps the old ones.
const INHERITED_IF_MISSING: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "generateName",
];
const INHERITED: &[&str] = &[
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
];

/// Brings what a writer may leave out or may not touch from the old object into the new one.
pub fn inherit_metadata(new: &mut Value, old: &Value) {
    let Some(old) = old.get("metadata").and_then(Value::as_object) else {
        return;
    };
    let new = meta::metadata_mut(new);
    for field in INHERITED_IF_MISSING {
        let missing = new.get(*field).is_none_or(|v| v.is_null() || v == "");
        if let (true, Some(value)) = (missing, old.get(*field)) {
            new.insert((*field).to_owned(), value.clone());
        }
    }
    for field in INHERITED {
        match old.get(*field) {
            Some(value) => new.insert((*field).to_owned(), value.clone()),
            None => new.remove(*field),
        };
    }
    if let (false, Some(managed)) = (new.contains_key("managedFields"), old.get("managedFields")) {
        new.insert("managedFields".into(), managed.clone());
    }
}

pub(super) fn check(
    info: &ResourceInfo,
    name_rule: fn(&str) -> Vec<String>,
    object: &Value,
    errors: &mut Vec<FieldError>,
) {
    match meta::name(object) {
        Some(name) => errors.extend(
            name_rule(name)
                .iter()
                .map(|problem| FieldError::invalid("metadata.name", name, problem)),
        ),
        None if meta::generate_name(object).is_none() => {
            errors.push(FieldError::required(
                "metadata.name",
                "name or generateName is required",
            ));
        }
        None => {}
    }
    if let Some(prefix) = meta::generate_name(object) {
        // The prefix may end in a dash, because characters follow.
        let completed = format!("{}x", prefix);
        errors.extend(
            name_rule(&completed)
                .iter()
                .map(|problem| FieldError::invalid("metadata.generateName", prefix, problem)),
        );
    }
    match (info.namespaced, meta::namespace(object)) {
        (true, None) => errors.push(FieldError::required("metadata.namespace", "")),
        (true, Some(namespace)) => errors.extend(
            names::dns_label_problems(namespace)
                .iter()
                .map(|problem| FieldError::invalid("metadata.namespace", namespace, problem)),
        ),
        (false, Some(_)) => errors.push(FieldError::forbidden(
            "metadata.namespace",
            "not allowed on this type",
        )),
        (false, None) => {}
    }
    labels(object, errors);
    annotations(object, errors);
    owner_references(object, errors);
    finalizers(object, errors);
}

fn labels(object: &Value, errors: &mut Vec<FieldError>) {
    const PATH: &str = "metadata.labels";
    for (key, value) in meta::labels(object).into_iter().flatten() {
        for problem in names::qualified_name_problems(key) {
            errors.push(FieldError::invalid(PATH, key.as_str(), &problem));
        }
        let value = value.as_str().unwrap_or_default();
        for problem in names::label_value_problems(value) {
            errors.push(FieldError::invalid(PATH, value, &problem));
        }
    }
}

fn annotations(object: &Value, errors: &mut Vec<FieldError>) {
    const PATH: &str = "metadata.annotations";
    let mut size = 0;
    for (key, value) in meta::annotations(object).into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        // Annotation keys may be written in any case.
        for problem in names::qualified_name_problems(&key.to_lowercase()) {
            errors.push(FieldError::invalid(PATH, key.as_str(), &problem));
        }
    }
    if size > MAX_ANNOTATION_BYTES {
        errors.push(FieldError::too_long(PATH, MAX_ANNOTATION_BYTES));
    }
}

fn owner_references(object: &Value, errors: &mut Vec<FieldError>) {
    let mut controller: Option<&Value> = None;
    for (index, owner) in meta::owner_references(object).iter().enumerate() {
        let path = format!("metadata.ownerReferences[{index}]");
        if text(owner, "apiVersion").is_empty() {
            errors.push(FieldError::invalid(
                &format!("{path}.apiVersion"),
                "",
                "version must not be empty",
            ));
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                errors.push(FieldError::invalid(
                    &format!("{path}.{field}"),
                    "",
                    &format!("{field} must not be empty"),
                ));
            }
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            if let Some(first) = controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {}/{} and {}/{}",
                    text(first, "kind"),
                    text(first, "name"),
                    text(owner, "kind"),
                    text(owner, "name")
                );
                errors.push(FieldError::invalid(
                    "metadata.ownerReferences",
                    owner.clone(),
                    &detail,
                ));
            }
            controller = Some(owner);
        }
    }
}

fn finalizers(object: &Value, errors: &mut Vec<FieldError>) {
    const PATH: &str = "metadata.finalizers";
    const STANDARD: [&str; 2] = ["orphan", "foregroundDeletion"];
    let finalizers = meta::finalizers(object);
    for finalizer in &finalizers {
        for problem in names::qualified_name_problems(finalizer) {
            errors.push(FieldError::invalid(PATH, *finalizer, &problem));
        }
        if !finalizer.contains('/') && !STANDARD.contains(finalizer) && *finalizer != "kubernetes" {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(PATH, *finalizer, detail));
        }
    }
    if STANDARD.iter().all(|name| finalizers.contains(name)) {
        let detail = "finalizer foregroundDeletion and orphan cannot be both set";
        errors.push(FieldError::invalid(
            PATH,
            list(object, "metadata.finalizers").to_vec(),
            detail,
        ));
    }
}

pub(super) fn check_change(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let path = format!("metadata.{field}");
        let (now, before) = (text(new, &path), text(old, &path));
        if now != before {
            errors.push(FieldError::invalid(&path, now, "field is immutable"));
        }
    }
    if meta::deletion_timestamp(old).is_some() {
        let before = meta::finalizers(old);
        let added: Vec<String> = meta::finalizers(new)
            .into_iter()
            .filter(|finalizer| !before.contains(finalizer))
            .map(|finalizer| format!("{finalizer:?}"))
            .collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", &detail));
        }
    }
}
