//! Checks between decoding and storing: namespaces, and what kubelets may write.

use serde_json::Value;
use trivet_kube_schema::{ResourceInfo, Status, find};

use super::WriteContext;
use crate::auth::check_node_write;
use crate::server::Core;

/// Namespaces the cluster cannot do without.
pub(super) const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

impl Core {
    /// NamespaceLifecycle: nothing is created in a namespace that is missing or going away.
    pub(super) async fn admit_namespace(
        &self,
        info: &ResourceInfo,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<(), Status> {
        let (Some(namespace), true) = (namespace, info.namespaced) else {
            return Ok(());
        };
        let row = find("", "v1", "namespaces").ok_or_else(Status::unknown_path)?;
        let cached = self.slot(row)?.get_named(None, namespace);
        let terminating = match cached {
            Some(entry) => entry.deleting,
            // The cache may be a moment behind the client that created the namespace.
            None => match self.read(row, None, namespace).await? {
                Some(stored) => {
                    trivet_kube_schema::meta::deletion_timestamp(&stored.value).is_some()
                }
                None => return Err(Status::not_found(row, namespace)),
            },
        };
        if terminating {
            return Err(Status::namespace_terminating(info, name, namespace));
        }
        Ok(())
    }

    /// NodeRestriction: a kubelet writes its own Node and Lease, without giving itself a role.
    pub(super) fn admit_node(
        &self,
        info: &ResourceInfo,
        context: &WriteContext<'_>,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        let Some(node) = context.user.node() else {
            return Ok(());
        };
        let name = trivet_kube_schema::meta::name(new).unwrap_or_default();
        match (info.group, info.plural) {
            ("", "nodes") => check_node_write(node, new, old)
                .map_err(|text| Status::forbidden(info, name, &text)),
            ("coordination.k8s.io", "leases") if name != node => {
                let text = "can only access node lease with the same name as the requesting node";
                Err(Status::forbidden(info, name, text))
            }
            _ => Ok(()),
        }
    }
}
