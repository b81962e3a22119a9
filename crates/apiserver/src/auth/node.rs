//! What a kubelet may do, and what it may write into its own Node.
//!
//! Follows kube-apiserver's Node authorizer and NodeRestriction admission: a kubelet reads
//! only what belongs to pods bound to it and writes only its own Node, its own Lease and the
//! status of its own pods. It cannot give itself a role: labels below
//! `node-role.kubernetes.io/` and `node-restriction.kubernetes.io/` come from the control
//! plane (a server labels its Node through its in-process client).

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use trivet_kube_schema::meta;

use super::{Attributes, Decision};
use crate::cache::Cache;

const READ: &[&str] = &["get", "list", "watch"];

/// Rules without a limit to the node itself: verbs, group, resource.
const UNLIMITED: &[(&[&str], &str, &str)] = &[
    (READ, "", "services"),
    (READ, "", "endpoints"),
    (READ, "discovery.k8s.io", "endpointslices"),
    (READ, "", "namespaces"),
    (&["create", "patch", "update"], "", "events"),
    (&["create", "patch", "update"], "events.k8s.io", "events"),
    (&["create"], "authentication.k8s.io", "tokenreviews"),
    (&["create"], "authorization.k8s.io", "subjectaccessreviews"),
    (
        &["create"],
        "authorization.k8s.io",
        "localsubjectaccessreviews",
    ),
];

/// All rules, for listing; the ones left out of [`UNLIMITED`] hold for own objects only.
pub(crate) fn rules() -> Vec<(&'static [&'static str], &'static str, &'static str)> {
    let mut all = UNLIMITED.to_vec();
    all.extend_from_slice(&[
        (
            &["create", "get", "list", "patch", "update", "watch"] as &[_],
            "",
            "nodes",
        ),
        (&["patch", "update"], "", "nodes/status"),
        (
            &["create", "delete", "get", "patch", "update"],
            "coordination.k8s.io",
            "leases",
        ),
        (&["delete", "get", "list", "watch"], "", "pods"),
        (&["patch", "update"], "", "pods/status"),
        (READ, "", "configmaps"),
        (READ, "", "secrets"),
        (&["get"], "", "serviceaccounts"),
        (&["create"], "", "serviceaccounts/token"),
    ]);
    all
}

pub(crate) fn authorize(node: &str, asked: &Attributes<'_>, cache: &Cache) -> Decision {
    let Attributes {
        verb,
        group,
        resource,
        subresource,
        namespace,
        name,
        ..
    } = *asked;
    let unlimited = subresource.is_empty()
        && UNLIMITED
            .iter()
            .any(|(v, g, r)| v.contains(&verb) && *g == group && *r == resource);
    if unlimited {
        return Decision::allow();
    }
    let own = match (group, resource, subresource) {
        // The name of a Node that is being created is in the body: admission checks it.
        ("", "nodes", "") if verb == "create" => true,
        ("", "nodes", "") => {
            ["get", "list", "watch", "update", "patch"].contains(&verb) && name == node
        }
        ("", "nodes", "status") => ["get", "update", "patch"].contains(&verb) && name == node,
        ("coordination.k8s.io", "leases", "") if namespace == "kube-node-lease" => {
            verb == "create"
                || (["get", "update", "patch", "delete"].contains(&verb) && name == node)
        }
        ("", "pods", "") if matches!(verb, "list" | "watch") => asked.node_name == node,
        ("", "pods", "" | "status") if !name.is_empty() => {
            ["get", "delete", "update", "patch"].contains(&verb)
                && (verb != "update" && verb != "patch" || subresource == "status")
                && is_bound(node, namespace, name, cache)
        }
        ("", "configmaps" | "secrets" | "serviceaccounts", "") if !name.is_empty() => {
            READ.contains(&verb) && is_used(node, resource, namespace, name, cache)
        }
        ("", "serviceaccounts", "token") => {
            verb == "create" && is_used(node, resource, namespace, name, cache)
        }
        _ => false,
    };
    if own {
        return Decision::allow();
    }
    Decision::deny(format!(
        "node '{node}' can only read or write objects of its own"
    ))
}

fn is_bound(node: &str, namespace: &str, name: &str, cache: &Cache) -> bool {
    cache
        .named("", "pods")
        .and_then(|slot| slot.get_named(Some(namespace), name))
        .is_some_and(|pod| {
            pod.value()
                .pointer("/spec/nodeName")
                .and_then(Value::as_str)
                == Some(node)
        })
}

/// Whether a pod bound to the node refers to the object.
fn is_used(node: &str, resource: &str, namespace: &str, name: &str, cache: &Cache) -> bool {
    let Some(slot) = cache.named("", "pods") else {
        return false;
    };
    slot.all(&format!("{namespace}/")).iter().any(|pod| {
        let pod = pod.value();
        pod.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node)
            && references(&pod, resource).contains(name)
    })
}

/// Names of objects of one kind that a pod refers to.
fn references(pod: &Value, resource: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let keys: &[(&str, &str)] = match resource {
        "configmaps" => &[
            ("configMap", "name"),
            ("configMapRef", "name"),
            ("configMapKeyRef", "name"),
        ],
        "secrets" => &[
            ("secret", "secretName"),
            ("secret", "name"),
            ("secretRef", "name"),
            ("secretKeyRef", "name"),
        ],
        _ => &[],
    };
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    collect(spec, keys, &mut found);
    let text = |field: &str| spec.get(field).and_then(Value::as_str).map(str::to_owned);
    match resource {
        "serviceaccounts" => {
            found.extend(text("serviceAccountName").or(Some("default".to_owned())));
        }
        "secrets" => {
            for reference in spec
                .get("imagePullSecrets")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                found.extend(
                    reference
                        .get("name")
                        .and_then(Value::as_str)
                        .map(str::to_owned),
                );
            }
        }
        _ => {}
    }
    found
}

fn collect(value: &Value, keys: &[(&str, &str)], found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, keys, found)),
        Value::Object(map) => {
            for (key, inner) in map {
                for (outer, field) in keys {
                    if key == outer {
                        found.extend(inner.get(*field).and_then(Value::as_str).map(str::to_owned));
                    }
                }
                collect(inner, keys, found);
            }
        }
        _ => {}
    }
}

/// Labels below these domains that a kubelet may set all the same.
const KUBELET_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// NodeRestriction for writes of Node objects by the kubelet `node`; the error is the text of
/// the refusal.
pub(crate) fn check_node_write(node: &str, new: &Value, old: Option<&Value>) -> Result<(), String> {
    let name = meta::name(new).unwrap_or_default();
    if name != node {
        return Err(format!(
            "node \"{node}\" is not allowed to modify node \"{name}\""
        ));
    }
    let changed = changed_labels(meta::labels(new), old.and_then(meta::labels));
    let forbidden: Vec<&str> = changed
        .into_iter()
        .filter(|label| !may_set(label))
        .collect();
    if !forbidden.is_empty() {
        return Err(format!(
            "is not allowed to modify labels: {}",
            forbidden.join(", ")
        ));
    }
    if let Some(old) = old
        && taints(new) != taints(old)
    {
        return Err(format!("node \"{node}\" is not allowed to modify taints"));
    }
    let owners = |object: &Value| meta::owner_references(object).to_vec();
    if old.is_none_or(|old| owners(new) != owners(old)) && !owners(new).is_empty() {
        return Err(format!(
            "node \"{node}\" is not allowed to set ownerReferences"
        ));
    }
    Ok(())
}

fn taints(node: &Value) -> Option<&Value> {
    node.pointer("/spec/taints")
        .filter(|t| t.as_array().is_some_and(|a| !a.is_empty()))
}

fn changed_labels<'a>(
    new: Option<&'a Map<String, Value>>,
    old: Option<&'a Map<String, Value>>,
) -> BTreeSet<&'a str> {
    let get = |map: Option<&'a Map<String, Value>>, key: &str| map.and_then(|m| m.get(key));
    new.into_iter()
        .chain(old)
        .flat_map(|map| map.keys())
        .filter(|key| get(new, key) != get(old, key))
        .map(String::as_str)
        .collect()
}

fn may_set(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else {
        return true;
    };
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    KUBELET_LABELS.contains(&label)
        || within("kubelet.kubernetes.io")
        || within("node.kubernetes.io")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kubelet_writes_its_own_node_without_roles() {
        let node = |labels: Value| json!({"metadata": {"name": "a", "labels": labels}});
        let plain = node(json!({"kubernetes.io/hostname": "a", "mine": "1"}));
        assert!(check_node_write("a", &plain, None).is_ok());
        assert!(check_node_write("b", &plain, None).is_err());
        let role = node(json!({"node-role.kubernetes.io/master": "true"}));
        assert!(check_node_write("a", &role, Some(&plain)).is_err());
        // What the control plane set may stay.
        assert!(check_node_write("a", &role, Some(&role)).is_ok());
        // And may not be taken away.
        assert!(check_node_write("a", &plain, Some(&role)).is_err());
        let tainted = json!({"metadata": {"name": "a"}, "spec": {"taints": [{"key": "x"}]}});
        assert!(check_node_write("a", &tainted, None).is_ok());
        assert!(
            check_node_write("a", &tainted, Some(&json!({"metadata": {"name": "a"}}))).is_err()
        );
    }

    #[test]
    fn references_of_a_pod_are_found() {
        let pod = json!({"spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"secret": {"secretName": "vol"}}, {"configMap": {"name": "cm"}}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}]}],
        }});
        let secrets: Vec<_> = references(&pod, "secrets").into_iter().collect();
        assert_eq!(secrets, ["env", "pull", "vol"]);
        assert!(references(&pod, "configmaps").contains("cm"));
        assert!(references(&pod, "serviceaccounts").contains("default"));
    }
}
