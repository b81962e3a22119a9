//! Strategic merge: maps merge field by field; lists merge by key where the field tables say so.
//!
//! Directives: `$patch: delete|replace|merge` in a map or list element, `$retainKeys`,
//! `$deleteFromPrimitiveList/<field>` and `$setElementOrder/<field>`. Without a table (raw parts), a patch
//! merges maps and replaces lists.

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Field, Shape, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

/// Applies `patch` (an object) to `target`.
pub(super) fn apply(
    ty: Option<&'static Type>,
    target: &mut Value,
    patch: Value,
) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(malformed("the patch must be an object"));
    };
    merge_map(ty, crate::meta::as_object_mut(target), patch)
}

fn merge_map(
    ty: Option<&'static Type>,
    target: &mut Map<String, Value>,
    mut patch: Map<String, Value>,
) -> Result<(), PatchError> {
    match directive(&patch)? {
        Some(Directive::Replace) => {
            patch.remove(DIRECTIVE);
            *target = patch;
            return Ok(());
        }
        Some(Directive::Delete) => {
            target.clear();
            return Ok(());
        }
        Some(Directive::Merge) | None => {
            patch.remove(DIRECTIVE);
        }
    }
    if let Some(keys) = patch.remove(RETAIN_KEYS) {
        let keys = keys
            .as_array()
            .ok_or_else(|| malformed("$retainKeys must be a list"))?;
        target.retain(|name, _| keys.iter().any(|key| key == name.as_str()));
    }
    let orders = take_prefixed(&mut patch, ORDER_PREFIX);
    for (name, values) in take_prefixed(&mut patch, DELETE_PREFIX) {
        delete_primitives(target, &name, &values)?;
    }
    for (name, value) in patch {
        let field = ty.and_then(|ty| ty.field(&name));
        merge_field(field, target, name, value)?;
    }
    for (name, order) in orders {
        let field = ty.and_then(|ty| ty.field(&name));
        set_order(field, target, &name, &order)?;
    }
    Ok(())
}

fn merge_field(
    field: Option<&'static Field>,
    target: &mut Map<String, Value>,
    name: String,
    value: Value,
) -> Result<(), PatchError> {
    let shape = field.map(|field| &field.shape);
    match value {
        Value::Null => {
            target.remove(&name);
        }
        Value::Object(patch) => {
            let (inner, free) = match shape {
                Some(Shape::Object(reference)) => (Some(reference.get()), None),
                Some(Shape::Map(values)) => (None, Some(&**values)),
                _ => (None, None),
            };
            if !target.get(&name).is_some_and(Value::is_object) {
                if matches!(directive(&patch)?, Some(Directive::Delete)) {
                    target.remove(&name);
                    return Ok(());
                }
                target.insert(name.clone(), Value::Object(Map::new()));
            } else if matches!(directive(&patch)?, Some(Directive::Delete)) {
                target.remove(&name);
                return Ok(());
            }
            let existing = target
                .get_mut(&name)
                .and_then(Value::as_object_mut)
                .expect("made an object just above");
            match free {
                Some(Shape::Object(reference)) => merge_entries(reference.get(), existing, patch)?,
                _ => merge_map(inner, existing, patch)?,
            }
        }
        Value::Array(patch) => {
            let existing = match target.remove(&name) {
                Some(Value::Array(list)) => list,
                _ => Vec::new(),
            };
            let merged = merge_list(field, existing, patch)?;
            target.insert(name, Value::Array(merged));
        }
        scalar => {
            target.insert(name, scalar);
        }
    }
    Ok(())
}

/// A map from free keys to objects of one type.
fn merge_entries(
    ty: &'static Type,
    target: &mut Map<String, Value>,
    patch: Map<String, Value>,
) -> Result<(), PatchError> {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(&name);
            }
            Value::Object(patch) => {
                let entry = target.entry(name).or_insert(Value::Null);
                merge_map(Some(ty), crate::meta::as_object_mut(entry), patch)?;
            }
            other => {
                target.insert(name, other);
            }
        }
    }
    Ok(())
}

fn merge_list(
    field: Option<&'static Field>,
    existing: Vec<Value>,
    patch: Vec<Value>,
) -> Result<Vec<Value>, PatchError> {
    let Some(field) = field.filter(|field| field.patch_merge) else {
        return strip(patch);
    };
    let Shape::List(inner) = &field.shape else {
        return Ok(patch);
    };
    match (&**inner, field.patch_merge_key) {
        (Shape::Object(reference), Some(key)) => {
            merge_by_key(reference.get(), key, existing, patch)
        }
        _ => Ok(merge_primitives(existing, patch)),
    }
}

/// A list that replaces another may still carry its directives.
fn strip(mut patch: Vec<Value>) -> Result<Vec<Value>, PatchError> {
    patch.retain(|item| item.get(DIRECTIVE).is_none());
    Ok(patch)
}

fn merge_primitives(mut existing: Vec<Value>, patch: Vec<Value>) -> Vec<Value> {
    for item in patch {
        if !existing.contains(&item) {
            existing.push(item);
        }
    }
    existing
}

fn merge_by_key(
    ty: &'static Type,
    key: &str,
    mut existing: Vec<Value>,
    patch: Vec<Value>,
) -> Result<Vec<Value>, PatchError> {
    let mut replace = false;
    let mut additions = Vec::with_capacity(patch.len());
    for item in patch {
        let Value::Object(item) = item else {
            return Err(malformed("lists of objects must be patched with objects"));
        };
        match directive(&item)? {
            Some(Directive::Replace) if item.len() == 1 => replace = true,
            Some(Directive::Delete) => {
                let wanted = item.get(key).ok_or_else(|| no_key(key, ty))?;
                existing.retain(|old| old.get(key) != Some(wanted));
            }
            _ => additions.push(item),
        }
    }
    if replace {
        return Ok(additions.into_iter().map(Value::Object).collect());
    }
    for item in additions {
        let wanted = item.get(key).ok_or_else(|| no_key(key, ty))?;
        match existing.iter_mut().find(|old| old.get(key) == Some(wanted)) {
            Some(old) => merge_map(Some(ty), crate::meta::as_object_mut(old), item)?,
            None => {
                let mut fresh = Map::new();
                merge_map(Some(ty), &mut fresh, item)?;
                existing.push(Value::Object(fresh));
            }
        }
    }
    Ok(existing)
}

fn no_key(key: &str, ty: &Type) -> PatchError {
    malformed(format!(
        "map: {} does not contain declared merge key: {key}",
        ty.short_name()
    ))
}

fn delete_primitives(
    target: &mut Map<String, Value>,
    name: &str,
    values: &Value,
) -> Result<(), PatchError> {
    let values = values
        .as_array()
        .ok_or_else(|| malformed(format!("{DELETE_PREFIX}{name} must be a list")))?;
    if let Some(list) = target.get_mut(name).and_then(Value::as_array_mut) {
        list.retain(|item| !values.contains(item));
    }
    Ok(())
}

/// Elements named in `order` take its order; others keep their place relative to what was before them.
fn set_order(
    field: Option<&'static Field>,
    target: &mut Map<String, Value>,
    name: &str,
    order: &Value,
) -> Result<(), PatchError> {
    let order = order
        .as_array()
        .ok_or_else(|| malformed(format!("{ORDER_PREFIX}{name} must be a list")))?;
    let Some(Value::Array(list)) = target.get_mut(name) else {
        return Ok(());
    };
    let key = field.and_then(|field| field.patch_merge_key);
    let rank = |item: &Value| {
        order.iter().position(|wanted| match key {
            Some(key) => item.get(key).is_some() && item.get(key) == wanted.get(key),
            None => item == wanted,
        })
    };
    let mut ranked: Vec<(usize, Value)> = Vec::with_capacity(list.len());
    let mut named: Vec<(usize, Value)> = Vec::new();
    let mut slots = Vec::new();
    for (index, item) in std::mem::take(list).into_iter().enumerate() {
        match rank(&item) {
            Some(position) => {
                slots.push(index);
                named.push((position, item));
            }
            None => ranked.push((index, item)),
        }
    }
    named.sort_by_key(|(position, _)| *position);
    ranked.extend(
        slots
            .into_iter()
            .zip(named.into_iter().map(|(_, item)| item)),
    );
    ranked.sort_by_key(|(index, _)| *index);
    *list = ranked.into_iter().map(|(_, item)| item).collect();
    Ok(())
}

fn take_prefixed(patch: &mut Map<String, Value>, prefix: &str) -> Vec<(String, Value)> {
    let names: Vec<String> = patch
        .keys()
        .filter(|name| name.starts_with(prefix))
        .cloned()
        .collect();
    names
        .into_iter()
        .filter_map(|name| {
            let value = patch.remove(&name)?;
            Some((name.get(prefix.len()..)?.to_owned(), value))
        })
        .collect()
}

enum Directive {
    Delete,
    Replace,
    Merge,
}

fn directive(patch: &Map<String, Value>) -> Result<Option<Directive>, PatchError> {
    match patch.get(DIRECTIVE).map(Value::as_str) {
        None => Ok(None),
        Some(Some("delete")) => Ok(Some(Directive::Delete)),
        Some(Some("replace")) => Ok(Some(Directive::Replace)),
        Some(Some("merge")) => Ok(Some(Directive::Merge)),
        Some(other) => Err(malformed(format!(
            "unrecognized directive $patch: {}",
            other.unwrap_or("?")
        ))),
    }
}
