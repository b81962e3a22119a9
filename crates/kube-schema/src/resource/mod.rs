//! The table of served kinds and how paths, kinds and storage keys map onto it.

mod events;
mod rows;

pub use events::{from_storage, to_storage};
pub use rows::RESOURCES;

/// What a client may do with a resource, by the names discovery uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// POST to the collection (or to a subresource).
    Create,
    /// DELETE of one object.
    Delete,
    /// DELETE of a collection.
    DeleteCollection,
    /// GET of one object.
    Get,
    /// GET of a collection.
    List,
    /// PATCH of one object.
    Patch,
    /// PUT of one object.
    Update,
    /// GET of a collection as a stream of changes.
    Watch,
}

impl Verb {
    /// The name in discovery documents and RBAC rules.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// A path below one object, such as `status`.
#[derive(Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Last path element.
    pub name: &'static str,
    /// Group of the kind exchanged (empty for the core group).
    pub group: &'static str,
    /// Version of the kind exchanged.
    pub version: &'static str,
    /// Kind exchanged; the parent's own kind for `status`.
    pub kind: &'static str,
    /// What may be done with it.
    pub verbs: &'static [Verb],
    /// Name of the exchanged type in the field tables.
    pub schema: &'static str,
}

/// One row of the resource table.
#[derive(Debug, PartialEq, Eq)]
pub struct ResourceInfo {
    /// API group, empty for the core group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Kind of one object.
    pub kind: &'static str,
    /// Kind of a list of objects; empty for request-only kinds.
    pub list_kind: &'static str,
    /// Name in paths.
    pub plural: &'static str,
    /// Singular name for command lines.
    pub singular: &'static str,
    /// Abbreviations for command lines.
    pub short_names: &'static [&'static str],
    /// Groups of resources, such as `all`.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// What may be done with it.
    pub verbs: &'static [Verb],
    /// Paths below one object.
    pub subresources: &'static [Subresource],
    /// Where objects are stored below `/registry/`; `None` for kinds that are answered and forgotten.
    pub storage_prefix: Option<&'static str>,
    /// Whether `metadata.generation` counts changes of anything but metadata and status.
    pub has_spec_generation: bool,
    /// Whether PUT of a missing object creates it.
    pub create_on_update: bool,
    /// Whether PUT without a resourceVersion overwrites.
    pub unconditional_update: bool,
    /// Life time of objects in seconds, for kinds that expire.
    pub ttl_seconds: Option<u64>,
    /// Field selector labels besides `metadata.name` and `metadata.namespace`.
    pub field_labels: &'static [&'static str],
    /// Name of the kind's type in the field tables.
    pub schema: &'static str,
}

impl ResourceInfo {
    /// `v1` or `group/version`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// `configmaps` or `leases.coordination.k8s.io`: how messages name the resource.
    pub fn qualified_resource(&self) -> String {
        qualified(self.plural, self.group)
    }

    /// `ConfigMap` or `Lease.coordination.k8s.io`: how validation messages name the kind.
    pub fn qualified_kind(&self) -> String {
        qualified(self.kind, self.group)
    }

    /// Whether the resource itself supports `verb`.
    pub fn has_verb(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    /// The subresource of that name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether `status` is written through its own path only.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// Key prefix of a collection, ending in `/`; without a namespace, of all namespaces.
    /// `None` for kinds that are not stored.
    pub fn collection_prefix(&self, namespace: Option<&str>) -> Option<String> {
        let prefix = self.storage_prefix?;
        Some(match namespace {
            Some(namespace) if self.namespaced => format!("/registry/{prefix}/{namespace}/"),
            _ => format!("/registry/{prefix}/"),
        })
    }

    /// Key of one object; `None` for kinds that are not stored.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> Option<String> {
        Some(format!("{}{name}", self.collection_prefix(namespace)?))
    }

    /// URL path of the collection.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = match self.group {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match namespace {
            Some(namespace) if self.namespaced => {
                format!("{root}/namespaces/{namespace}/{}", self.plural)
            }
            _ => format!("{root}/{}", self.plural),
        }
    }
}

/// `v1` or `group/version`.
pub fn api_version(group: &str, version: &str) -> String {
    match group {
        "" => version.to_owned(),
        _ => format!("{group}/{version}"),
    }
}

/// Splits `v1` or `group/version` into group and version.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

fn qualified(name: &str, group: &str) -> String {
    match group {
        "" => name.to_owned(),
        _ => format!("{name}.{group}"),
    }
}

/// The row behind a path.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static ResourceInfo> {
    RESOURCES
        .iter()
        .find(|r| r.plural == plural && r.group == group && r.version == version)
}

/// The row of a kind.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static ResourceInfo> {
    RESOURCES
        .iter()
        .find(|r| r.kind == kind && r.group == group && r.version == version)
}

/// Served group versions, the core group first, in the order discovery shows them.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut seen = Vec::new();
    for resource in RESOURCES {
        let pair = (resource.group, resource.version);
        if !seen.contains(&pair) {
            seen.push(pair);
        }
    }
    // A subresource of another group (`pods/eviction`) makes that group visible as well.
    for sub in RESOURCES.iter().flat_map(|r| r.subresources) {
        if sub.group == "policy" && !seen.contains(&(sub.group, sub.version)) {
            seen.push((sub.group, sub.version));
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_upstream() {
        let key = |g, v, p, ns, n| find(g, v, p).and_then(|r| r.key(ns, n));
        assert_eq!(
            key("", "v1", "nodes", None, "a").as_deref(),
            Some("/registry/minions/a")
        );
        assert_eq!(
            key("", "v1", "services", Some("default"), "kubernetes").as_deref(),
            Some("/registry/services/specs/default/kubernetes")
        );
        assert_eq!(
            key("", "v1", "endpoints", Some("n"), "e").as_deref(),
            Some("/registry/services/endpoints/n/e")
        );
        assert_eq!(
            key(
                "coordination.k8s.io",
                "v1",
                "leases",
                Some("kube-node-lease"),
                "a"
            )
            .as_deref(),
            Some("/registry/leases/kube-node-lease/a")
        );
        assert_eq!(
            key("authentication.k8s.io", "v1", "tokenreviews", None, "a"),
            None
        );
    }

    #[test]
    fn rows_are_consistent() {
        for row in RESOURCES {
            assert_eq!(
                row.storage_prefix.is_some(),
                !row.list_kind.is_empty(),
                "{}",
                row.kind
            );
            assert!(std::ptr::eq(
                find(row.group, row.version, row.plural).expect("path"),
                row
            ));
            assert!(std::ptr::eq(
                find_kind(row.group, row.version, row.kind).expect("kind"),
                row
            ));
            assert!(
                crate::schema::find(row.schema).is_some(),
                "no table for {}",
                row.schema
            );
            for sub in row.subresources {
                assert!(
                    crate::schema::find(sub.schema).is_some(),
                    "no table for {}",
                    sub.schema
                );
            }
        }
    }
}
