//! What single kinds get on creation, beyond the schema's defaults.

use serde_json::{Value, json};
use trivet_kube_schema::{ResourceInfo, Status, meta};

use super::WriteContext;
use crate::server::Core;

impl Core {
    pub(super) async fn prepare_kind(
        &self,
        info: &ResourceInfo,
        object: &mut Value,
        context: &WriteContext<'_>,
    ) -> Result<(), Status> {
        match (info.group, info.plural) {
            ("", "namespaces") => prepare_namespace(object),
            ("", "nodes") => prepare_node(object),
            ("", "services") => self.allocate_address(info, object, context.dry_run).await?,
            _ => {}
        }
        Ok(())
    }
}

fn prepare_namespace(object: &mut Value) {
    if let Some(name) = meta::name(object).map(str::to_owned) {
        let mut labels = meta::labels(object).cloned().unwrap_or_default();
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
        meta::set(object, "labels", labels);
    }
}

/// A new node is not ready until it has shown that it is (TaintNodesByCondition).
fn prepare_node(object: &mut Value) {
    const KEY: &str = "node.kubernetes.io/not-ready";
    let taints = object
        .pointer("/spec/taints")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if taints
        .iter()
        .any(|t| t["key"] == KEY && t["effect"] == "NoSchedule")
    {
        return;
    }
    if let Some(object) = object.as_object_mut() {
        let spec = object.entry("spec").or_insert_with(|| json!({}));
        let mut taints = taints;
        taints.push(json!({"key": KEY, "effect": "NoSchedule"}));
        spec["taints"] = taints.into();
    }
}
