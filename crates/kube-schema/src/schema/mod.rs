//! Field tables of the served kinds, read once from the generated `data/types.txt`.

mod conform;
mod parse;

use std::collections::HashMap;
use std::sync::LazyLock;

pub use conform::{TypeMismatch, conform, conform_as, strict_status, strict_warnings};

/// Shape of one field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Text.
    String,
    /// True or false.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Floating point number.
    Double,
    /// Bytes, base64 in JSON.
    Bytes,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Resource quantity.
    Quantity,
    /// Integer or text.
    IntOrString,
    /// Any object, kept as it is.
    Raw,
    /// Field set of `managedFields`.
    Fields,
    /// An object of a known type.
    Object(TypeRef),
    /// A list.
    List(Box<Shape>),
    /// An object with free keys.
    Map(Box<Shape>),
}

/// Index of a type in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeRef(pub(crate) usize);

impl TypeRef {
    /// The type's table.
    pub fn get(self) -> &'static Type {
        &TABLES.types[self.0]
    }
}

/// How a list is merged (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    Atomic,
    /// Scalars without duplicates.
    Set,
    /// Objects with key fields.
    Map,
}

/// One field of a type.
#[derive(Debug)]
pub struct Field {
    /// Name in JSON.
    pub name: &'static str,
    /// Shape of its value.
    pub shape: Shape,
    /// Protobuf field numbers from the type's message inwards; empty when not on the wire.
    pub proto_path: Vec<u32>,
    /// Whether the published schema requires it.
    pub required: bool,
    /// Whether zero or false on the protobuf wire means that the field is unset.
    pub zero_is_unset: bool,
    /// Declared list type.
    pub list_type: Option<ListType>,
    /// Key fields of a list of type map.
    pub list_keys: Vec<&'static str>,
    /// Whether a map is replaced as a whole.
    pub atomic_map: bool,
    /// Strategic merge: lists are merged.
    pub patch_merge: bool,
    /// Strategic merge: unnamed keys are dropped on request (`$retainKeys`).
    pub patch_retain_keys: bool,
    /// Strategic merge: key of list elements.
    pub patch_merge_key: Option<&'static str>,
    /// Allowed values.
    pub values: Vec<&'static str>,
}

/// One type: an object with named fields.
#[derive(Debug)]
pub struct Type {
    /// Full name, as in OpenAPI v2 (`io.k8s.api.core.v1.Pod`).
    pub name: &'static str,
    /// Whether apply replaces it as a whole.
    pub atomic: bool,
    /// Fields in name order.
    pub fields: Vec<Field>,
}

impl Type {
    /// The field of that JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let index = self
            .fields
            .binary_search_by(|field| field.name.cmp(name))
            .ok()?;
        self.fields.get(index)
    }

    /// Last part of the name (`Pod`).
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

struct Tables {
    types: Vec<Type>,
    by_name: HashMap<&'static str, TypeRef>,
}

static TABLES: LazyLock<Tables> =
    LazyLock::new(|| parse::parse(include_str!("../../data/types.txt")));

/// All types in name order.
pub fn types() -> &'static [Type] {
    &TABLES.types
}

/// The table of a type by full name.
pub fn find(name: &str) -> Option<&'static Type> {
    TABLES.by_name.get(name).map(|reference| reference.get())
}

/// Kinds of `meta.k8s.io` that may come with any group and version.
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// The table of a kind, its subresource kinds and the `meta` messages included.
pub fn find_kind(api_version: &str, kind: &str) -> Option<&'static Type> {
    let (group, version) = crate::resource::split_api_version(api_version);
    if matches!(kind, "DeleteOptions" | "Status") {
        return find(&format!("{META}{kind}"));
    }
    if let Some(info) = crate::find_kind(group, version, kind) {
        return find(info.schema);
    }
    // policy/v1beta1 is what kubectl 1.20 posts to pods/eviction; the shape is the same.
    let version = if (group, version) == ("policy", "v1beta1") {
        "v1"
    } else {
        version
    };
    crate::RESOURCES
        .iter()
        .flat_map(|r| r.subresources)
        .find(|s| s.group == group && s.version == version && s.kind == kind)
        .and_then(|s| find(s.schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_hold_what_the_rest_relies_on() {
        let container = find("io.k8s.api.core.v1.PodSpec")
            .and_then(|t| t.field("containers"))
            .expect("containers");
        assert!(container.required && container.patch_merge);
        assert_eq!(container.patch_merge_key, Some("name"));
        assert_eq!(container.list_type, Some(ListType::Map));
        let volumes = find("io.k8s.api.core.v1.Volume").expect("volume");
        assert_eq!(volumes.field("secret").expect("inlined").proto_path, [2, 6]);
        let data = find("io.k8s.api.core.v1.Secret")
            .and_then(|t| t.field("data"))
            .expect("data");
        assert_eq!(data.shape, Shape::Map(Box::new(Shape::Bytes)));
        assert!(find_kind("policy/v1beta1", "Eviction").is_some());
        for ty in types() {
            assert!(
                ty.fields.is_sorted_by(|a, b| a.name < b.name),
                "{}",
                ty.name
            );
        }
    }
}
