//! What a server's node shows of its part in the cluster: role labels, and which member of the
//! store it is.
//!
//! Kubelets may not set these themselves (node restriction), so the server does, and puts them
//! back when somebody takes them off, as K3s does.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use trivet_apiserver::Resource;
use trivet_join::NodeReport;

use crate::shared::{Opened, Shared};

const NODES: Resource<'_> = Resource::core("nodes");

/// After a failed attempt.
const RETRY: Duration = Duration::from_secs(2);

/// Role labels carry this prefix.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

/// Keeps labels and annotations on this server's node, from the time the API is ready.
pub(crate) async fn keep(shared: Arc<Shared>, opened: Opened) {
    // The sender lives as long as `shared`.
    let _ = shared.ready.subscribe().wait_for(|ready| *ready).await;
    let client = opened.api.client();
    let Ok(mut changes) = client.subscribe(NODES) else {
        return;
    };
    let wanted = wanted(&shared, &opened).await;
    let node = shared.config.node_name.as_str();
    loop {
        match client.get(NODES, None, node).await {
            Ok(Some(found)) if !covers(&found["metadata"], &wanted) => {
                let written = client
                    .update(NODES, None, node, |node| {
                        merge(&mut node["metadata"], &wanted);
                    })
                    .await;
                if let Err(status) = written {
                    tracing::warn!(message = %status.message, "cannot label this server's node");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            // Not registered yet, or as it should be.
            Ok(_) => {}
            Err(status) => {
                tracing::debug!(message = %status.message, "cannot read this server's node");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn wanted(shared: &Shared, opened: &Opened) -> Value {
    let mut wanted = json!({
        "labels": { format!("{ROLE_PREFIX}control-plane"): "true" },
    });
    let Some(cluster) = opened.store.cluster() else {
        return wanted;
    };
    wanted["labels"][format!("{ROLE_PREFIX}etcd")] = json!("true");
    let address = shared.config.node_ip().to_string();
    wanted["annotations"] = json!({ "etcd.k3s.cattle.io/node-address": address });
    if let Ok(status) = cluster.status().await
        && let Some(member) = status
            .members
            .iter()
            .find(|member| member.id == status.local)
    {
        wanted["annotations"]["etcd.k3s.cattle.io/node-name"] = json!(member.name);
    }
    wanted
}

fn covers(found: &Value, wanted: &Value) -> bool {
    match wanted {
        Value::Object(fields) => fields.iter().all(|(key, value)| covers(&found[key], value)),
        wanted => found == wanted,
    }
}

fn merge(target: &mut Value, wanted: &Value) {
    match wanted {
        Value::Object(fields) => {
            if !target.is_object() {
                *target = json!({});
            }
            for (key, value) in fields {
                merge(&mut target[key], value);
            }
        }
        wanted => *target = wanted.clone(),
    }
}

/// Every node for `trivet status`; none while the API cannot tell.
pub(crate) async fn nodes(opened: &Opened) -> Vec<NodeReport> {
    if !opened.api.is_ready() {
        return Vec::new();
    }
    let client = opened.api.client();
    let listed = tokio::time::timeout(Duration::from_secs(2), client.list(NODES, None));
    let Ok(Ok(nodes)) = listed.await else {
        return Vec::new();
    };
    nodes.iter().map(node_report).collect()
}

fn node_report(node: &Value) -> NodeReport {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let roles = node["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix(ROLE_PREFIX).map(str::to_owned))
        .collect();
    NodeReport {
        name: node["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        ready,
        roles,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_written() {
        let wanted = json!({ "labels": { "a": "1" }, "annotations": { "x": "y" } });
        let mut found = json!({ "name": "n", "labels": { "b": "2" } });
        assert!(!covers(&found, &wanted));
        merge(&mut found, &wanted);
        assert!(covers(&found, &wanted));
        assert_eq!(found["labels"]["b"], "2");
    }

    #[test]
    fn nodes_are_summed_up() {
        let report = node_report(&json!({
            "metadata": { "name": "n", "labels": { "node-role.kubernetes.io/etcd": "true", "x": "y" } },
            "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] },
        }));
        assert_eq!(
            report,
            NodeReport {
                name: "n".into(),
                ready: false,
                roles: vec!["etcd".into()]
            }
        );
    }
}
