//! Schemas of the types in the field tables.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::RESOURCES;
use crate::schema::{self, Field, ListType, Shape, Type};

/// Where references point to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> Value {
        let place = match self {
            Dialect::V2 => "#/definitions/",
            Dialect::V3 => "#/components/schemas/",
        };
        json!({"$ref": format!("{place}{name}")})
    }
}

/// The type of patch bodies.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// A reference to a type.
pub(super) fn reference(name: &str, dialect: Dialect) -> Value {
    dialect.reference(name)
}

/// Schemas of every type.
pub(super) fn all(dialect: Dialect) -> Map<String, Value> {
    let lists = RESOURCES
        .iter()
        .filter(|r| !r.list_kind.is_empty())
        .map(|r| list_name(r.schema));
    let names = schema::types()
        .iter()
        .map(|ty| ty.name.to_owned())
        .chain(lists)
        .chain([PATCH.to_owned()]);
    names
        .filter_map(|name| definition(&name, dialect).map(|(value, _)| (name, value)))
        .collect()
}

/// Schemas of some types and of everything they refer to.
pub(super) fn closure(roots: impl Iterator<Item = String>, dialect: Dialect) -> Map<String, Value> {
    let mut open: Vec<String> = roots.collect();
    let mut seen = BTreeSet::new();
    let mut out = Map::new();
    while let Some(name) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        if let Some((value, used)) = definition(&name, dialect) {
            out.insert(name, value);
            open.extend(used);
        }
    }
    out
}

/// The name of the list type that goes with a type.
pub(super) fn list_name(item: &str) -> String {
    format!("{item}List")
}

/// One schema, and the types it refers to.
fn definition(name: &str, dialect: Dialect) -> Option<(Value, Vec<String>)> {
    if name == PATCH {
        return Some((json!({"type": "object"}), Vec::new()));
    }
    if let Some(ty) = schema::find(name) {
        return Some(object(ty, dialect));
    }
    let item = name
        .strip_suffix("List")
        .filter(|item| schema::find(item).is_some())?;
    Some(list(item, dialect))
}

fn object(ty: &'static Type, dialect: Dialect) -> (Value, Vec<String>) {
    let mut used = Vec::new();
    let properties: Map<String, Value> = ty
        .fields
        .iter()
        .map(|field| (field.name.to_owned(), property(field, dialect, &mut used)))
        .collect();
    let required: Vec<&str> = ty
        .fields
        .iter()
        .filter(|field| field.required)
        .map(|field| field.name)
        .collect();
    let mut schema = json!({"type": "object"});
    let fields = crate::meta::as_object_mut(&mut schema);
    if !properties.is_empty() {
        fields.insert("properties".into(), Value::Object(properties));
    }
    if !required.is_empty() {
        fields.insert("required".into(), required.into());
    }
    if ty.atomic {
        fields.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    let kinds = kinds_of(ty.name);
    if !kinds.is_empty() {
        fields.insert("x-kubernetes-group-version-kind".into(), kinds.into());
    }
    (schema, used)
}

fn list(item: &str, dialect: Dialect) -> (Value, Vec<String>) {
    let kinds: Vec<Value> = RESOURCES
        .iter()
        .filter(|r| r.schema == item)
        .map(|r| json!({"group": r.group, "kind": r.list_kind, "version": r.version}))
        .collect();
    let schema = json!({
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": dialect.reference(LIST_META),
            "items": {"type": "array", "items": dialect.reference(item)},
        },
        "required": ["items"],
        "x-kubernetes-group-version-kind": kinds,
    });
    (schema, vec![LIST_META.to_owned(), item.to_owned()])
}

/// Groups, versions and kinds by which clients find a type.
fn kinds_of(name: &str) -> Vec<Value> {
    if name == DELETE_OPTIONS {
        return vec![json!({"group": "", "kind": "DeleteOptions", "version": "v1"})];
    }
    let kind = |group, kind, version| json!({"group": group, "kind": kind, "version": version});
    let rows = RESOURCES
        .iter()
        .filter(|r| r.schema == name)
        .map(|r| kind(r.group, r.kind, r.version));
    let own_rows: Vec<Value> = rows.collect();
    if !own_rows.is_empty() {
        return own_rows;
    }
    let sub = RESOURCES
        .iter()
        .flat_map(|r| r.subresources)
        .find(|s| s.schema == name);
    sub.map(|s| kind(s.group, s.kind, s.version))
        .into_iter()
        .collect()
}

fn property(field: &'static Field, dialect: Dialect, used: &mut Vec<String>) -> Value {
    let mut schema = shape(&field.shape, dialect, used);
    let fields = crate::meta::as_object_mut(&mut schema);
    if let Some(kind) = field.list_type {
        let name = match kind {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        };
        fields.insert("x-kubernetes-list-type".into(), name.into());
    }
    if !field.list_keys.is_empty() {
        fields.insert(
            "x-kubernetes-list-map-keys".into(),
            field.list_keys.clone().into(),
        );
    }
    if field.atomic_map {
        fields.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    let strategies: Vec<&str> = [
        (field.patch_merge, "merge"),
        (field.patch_retain_keys, "retainKeys"),
    ]
    .into_iter()
    .filter_map(|(set, name)| set.then_some(name))
    .collect();
    if !strategies.is_empty() {
        fields.insert(
            "x-kubernetes-patch-strategy".into(),
            strategies.join(",").into(),
        );
    }
    if let Some(key) = field.patch_merge_key {
        fields.insert("x-kubernetes-patch-merge-key".into(), key.into());
    }
    if !field.values.is_empty() {
        fields.insert("enum".into(), field.values.clone().into());
    }
    schema
}

fn shape(shape_: &'static Shape, dialect: Dialect, used: &mut Vec<String>) -> Value {
    match shape_ {
        Shape::String | Shape::Quantity => json!({"type": "string"}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Int32 => json!({"type": "integer", "format": "int32"}),
        Shape::Int64 => json!({"type": "integer", "format": "int64"}),
        Shape::Double => json!({"type": "number", "format": "double"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Time | Shape::MicroTime => json!({"type": "string", "format": "date-time"}),
        Shape::IntOrString if dialect == Dialect::V2 => {
            json!({"type": "string", "format": "int-or-string"})
        }
        Shape::IntOrString => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        Shape::Raw | Shape::Fields => json!({"type": "object"}),
        Shape::Object(reference) => {
            let name = reference.get().name;
            used.push(name.to_owned());
            dialect.reference(name)
        }
        Shape::List(inner) => json!({"type": "array", "items": shape(inner, dialect, used)}),
        Shape::Map(inner) => {
            json!({"type": "object", "additionalProperties": shape(inner, dialect, used)})
        }
    }
}
