//! Discovery documents, built from the resource table.

use serde_json::{Value, json};

use crate::resource::{RESOURCES, ResourceInfo, Subresource, Verb, api_version, group_versions};

/// Versions of the aggregated document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscoveryVersion {
    /// `apidiscovery.k8s.io/v2`.
    V2,
    /// `apidiscovery.k8s.io/v2beta1`.
    V2Beta1,
}

impl DiscoveryVersion {
    /// `v2` or `v2beta1`.
    pub const fn as_str(self) -> &'static str {
        match self {
            DiscoveryVersion::V2 => "v2",
            DiscoveryVersion::V2Beta1 => "v2beta1",
        }
    }

    /// The content type of the answer; without its parameters clients take it for the plain document.
    pub const fn content_type(self) -> &'static str {
        match self {
            DiscoveryVersion::V2 => {
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            }
            DiscoveryVersion::V2Beta1 => {
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
            }
        }
    }
}

/// `GET /api`. `server_address` is `host:port`.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `GET /apis`.
pub fn api_group_list() -> Value {
    let groups: Vec<Value> = named_groups().into_iter().map(group_fields).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/{group}`; `None` for groups that are not served.
pub fn api_group(group: &str) -> Option<Value> {
    let group = named_groups().into_iter().find(|name| *name == group)?;
    let mut document = group_fields(group);
    crate::meta::set_type(&mut document, "v1", "APIGroup");
    Some(document)
}

/// `GET /api/v1` and `GET /apis/{group}/{version}`; `None` when not served.
pub fn api_resource_list(group: &str, version: &str) -> Option<Value> {
    if !group_versions().contains(&(group, version)) {
        return None;
    }
    let resources: Vec<Value> = in_group(group, version)
        .flat_map(|info| {
            std::iter::once(resource_entry(info)).chain(
                info.subresources
                    .iter()
                    .map(move |sub| sub_entry(info, sub)),
            )
        })
        .collect();
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version(group, version),
        "resources": resources,
    }))
}

/// The aggregated document of `/api` (`core`) or `/apis`.
pub fn aggregated(core: bool, version: DiscoveryVersion) -> Value {
    let groups = if core { vec![""] } else { named_groups() };
    let items: Vec<Value> = groups.into_iter().map(aggregated_group).collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{}", version.as_str()),
        "metadata": {},
        "items": items,
    })
}

fn named_groups() -> Vec<&'static str> {
    let mut groups: Vec<&'static str> = Vec::new();
    for (group, _) in group_versions() {
        if !group.is_empty() && !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

fn versions_of(group: &str) -> Vec<&'static str> {
    group_versions()
        .into_iter()
        .filter(|(g, _)| *g == group)
        .map(|(_, version)| version)
        .collect()
}

fn in_group<'a>(
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'static ResourceInfo> + 'a {
    RESOURCES
        .iter()
        .filter(move |r| r.group == group && r.version == version)
}

fn group_fields(group: &str) -> Value {
    let versions: Vec<Value> = versions_of(group)
        .into_iter()
        .map(|version| json!({"groupVersion": api_version(group, version), "version": version}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

fn verbs(verbs: &[Verb]) -> Vec<&'static str> {
    verbs.iter().map(|verb| verb.as_str()).collect()
}

fn resource_entry(info: &ResourceInfo) -> Value {
    let mut entry = json!({
        "name": info.plural,
        "singularName": info.singular,
        "namespaced": info.namespaced,
        "kind": info.kind,
        "verbs": verbs(info.verbs),
    });
    let fields = crate::meta::as_object_mut(&mut entry);
    if !info.short_names.is_empty() {
        fields.insert("shortNames".into(), info.short_names.into());
    }
    if !info.categories.is_empty() {
        fields.insert("categories".into(), info.categories.into());
    }
    entry
}

fn sub_entry(info: &ResourceInfo, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", info.plural, sub.name),
        "singularName": "",
        "namespaced": info.namespaced,
        "kind": sub.kind,
        "verbs": verbs(sub.verbs),
    });
    // Clients find `pods/eviction` and the like by the group and version of the kind exchanged.
    if (sub.group, sub.version) != (info.group, info.version) {
        let fields = crate::meta::as_object_mut(&mut entry);
        fields.insert("group".into(), sub.group.into());
        fields.insert("version".into(), sub.version.into());
    }
    entry
}

fn aggregated_group(group: &str) -> Value {
    let versions: Vec<Value> = versions_of(group)
        .into_iter()
        .map(|version| {
            let resources: Vec<Value> = in_group(group, version).map(aggregated_resource).collect();
            json!({"version": version, "freshness": "Current", "resources": resources})
        })
        .collect();
    let metadata = match group {
        "" => json!({"creationTimestamp": null}),
        _ => json!({"name": group, "creationTimestamp": null}),
    };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(info: &ResourceInfo) -> Value {
    let mut entry = json!({
        "resource": info.plural,
        "responseKind": kind_of(info.group, info.version, info.kind),
        "scope": if info.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": info.singular,
        "verbs": verbs(info.verbs),
    });
    let fields = crate::meta::as_object_mut(&mut entry);
    if !info.short_names.is_empty() {
        fields.insert("shortNames".into(), info.short_names.into());
    }
    if !info.categories.is_empty() {
        fields.insert("categories".into(), info.categories.into());
    }
    if !info.subresources.is_empty() {
        let subs: Vec<Value> = info
            .subresources
            .iter()
            .map(|sub| {
                json!({
                    "subresource": sub.name,
                    "responseKind": kind_of(sub.group, sub.version, sub.kind),
                    "verbs": verbs(sub.verbs),
                })
            })
            .collect();
        fields.insert("subresources".into(), subs.into());
    }
    entry
}

fn kind_of(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eviction_carries_its_own_group() {
        let list = api_resource_list("", "v1").expect("core");
        let entry = list["resources"]
            .as_array()
            .and_then(|all| all.iter().find(|r| r["name"] == "pods/eviction"))
            .expect("eviction");
        assert_eq!(entry["group"], "policy");
        assert_eq!(entry["kind"], "Eviction");
        assert!(api_group("policy").is_some());
        assert!(api_resource_list("policy", "v1").is_some());
    }

    #[test]
    fn both_forms_name_the_same_resources() {
        let plain: usize = group_versions()
            .iter()
            .filter_map(|(g, v)| api_resource_list(g, v))
            .map(|list| list["resources"].as_array().map_or(0, Vec::len))
            .sum();
        let mut aggregated_count = 0;
        for core in [true, false] {
            let document = aggregated(core, DiscoveryVersion::V2);
            for version in document["items"]
                .as_array()
                .expect("items")
                .iter()
                .flat_map(|i| i["versions"].as_array())
                .flatten()
            {
                for resource in version["resources"].as_array().expect("resources") {
                    aggregated_count += 1 + resource["subresources"].as_array().map_or(0, Vec::len);
                }
            }
        }
        assert_eq!(plain, aggregated_count);
    }
}
