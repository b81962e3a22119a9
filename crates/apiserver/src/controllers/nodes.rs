//! Node life cycle: a node whose Lease is not renewed becomes Unknown and tainted; taints
//! follow condition Ready.
//!
//! Every server watches the leases by its own clock all the time, so that a new leader need not
//! start counting anew. Only the leader acts, and only after the store itself has confirmed
//! that the Lease is still the old one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use trivet_kube_schema::{Status, find, meta};

use super::node_state::{corrected_taints, make_unknown, ready};
use super::{SETTLE, Shared};
use crate::cache::{Entry, Slot};
use crate::registry::UpdateTarget;

const LEASES: &str = "kube-node-lease";

/// A sign of life and when it was first seen.
struct Observed {
    sign: String,
    at: Duration,
}

struct Monitor {
    shared: Arc<Shared>,
    nodes: Arc<Slot>,
    leases: Arc<Slot>,
    observed: HashMap<String, Observed>,
}

/// Observes until the server stops, acts while it leads.
pub(super) async fn run(shared: Arc<Shared>, leading: watch::Receiver<bool>) {
    let (Some(nodes), Some(leases)) = (
        shared.slot("", "nodes"),
        shared.slot("coordination.k8s.io", "leases"),
    ) else {
        return;
    };
    if !shared.cache_ready().await {
        return;
    }
    let period = shared.core.config.timings.node_monitor_period;
    let mut changed = nodes.subscribe();
    let mut monitor = Monitor {
        shared: Arc::clone(&shared),
        nodes,
        leases,
        observed: HashMap::new(),
    };
    loop {
        changed.borrow_and_update();
        monitor.observe();
        if *leading.borrow()
            && let Err(status) = monitor.act().await
        {
            tracing::debug!(
                message = status.message,
                "node states will be looked at again"
            );
        }
        tokio::select! {
            () = shared.core.stop.cancelled() => return,
            () = tokio::time::sleep(period) => {}
            // Taints follow a node's own report at once.
            _ = changed.changed() => {
                if !shared.sleep(SETTLE).await {
                    return;
                }
            }
        }
    }
}

fn renew_time(lease: &Value) -> Option<&str> {
    lease.pointer("/spec/renewTime")?.as_str()
}

fn heartbeat(node: &Value) -> Option<&str> {
    let conditions = node.pointer("/status/conditions")?.as_array()?;
    let ready = conditions.iter().find(|c| c["type"] == "Ready")?;
    // What this controller wrote is not a sign of the node's life.
    if ready["status"] == "Unknown" {
        return None;
    }
    ready.get("lastHeartbeatTime")?.as_str()
}

impl Monitor {
    /// Notes every new sign of life.
    fn observe(&mut self) {
        let now = self.shared.monotonic();
        let nodes = self.nodes.all("");
        self.observed
            .retain(|name, _| nodes.iter().any(|node| node.name() == name));
        for node in nodes {
            let lease = self
                .leases
                .get_named(Some(LEASES), node.name())
                .map(|entry| entry.value());
            let value = node.value();
            let mut sign = lease
                .as_ref()
                .and_then(renew_time)
                .unwrap_or_default()
                .to_owned();
            match heartbeat(&value) {
                Some(beat) => sign.push_str(beat),
                // Unknown: only a new Lease counts, whatever was in the old sign.
                None => sign.push('?'),
            }
            let known = self.observed.get(node.name());
            let same = known.is_some_and(|known| {
                known.sign == sign
                    || (sign.ends_with('?') && known.sign.starts_with(sign.trim_end_matches('?')))
            });
            if !same {
                self.observed
                    .insert(node.name().to_owned(), Observed { sign, at: now });
            }
        }
    }

    async fn act(&self) -> Result<(), Status> {
        let now = self.shared.monotonic();
        let grace = self.shared.core.config.timings.node_grace;
        let period = super::servers::period(&self.shared);
        let works_since = self.shared.health.works_since(now, period);
        for node in self.nodes.all("") {
            let Some(observed) = self.observed.get(node.name()) else {
                continue;
            };
            // While the store does not work nobody can speak.
            let silent = works_since.map(|since| now.saturating_sub(observed.at.max(since)));
            if silent.is_some_and(|silent| silent >= grace)
                && ready(&node.value()) != Some("Unknown")
            {
                self.give_up(&node, observed).await?;
            } else {
                self.taint(node.name(), &node.value()).await?;
            }
        }
        Ok(())
    }

    /// Marks a silent node, unless the store knows better.
    async fn give_up(&self, node: &Entry, observed: &Observed) -> Result<(), Status> {
        let Some(leases) = find("coordination.k8s.io", "v1", "leases") else {
            return Ok(());
        };
        let stored = self
            .shared
            .core
            .read(leases, Some(LEASES), node.name())
            .await?;
        let renewed = stored
            .as_ref()
            .and_then(|s| renew_time(&s.value))
            .unwrap_or_default();
        if !observed.sign.starts_with(renewed) {
            return Ok(());
        }
        // The read itself may have had to wait for the store to come back.
        let period = super::servers::period(&self.shared);
        if self
            .shared
            .health
            .works_since(self.shared.monotonic(), period)
            .is_none()
        {
            return Ok(());
        }
        let time = meta::rfc3339(self.shared.core.now_seconds());
        tracing::info!(node = node.name(), "the node stopped renewing its lease");
        let target = UpdateTarget {
            info: self.nodes.info,
            subresource: Some("status"),
            namespace: None,
            name: node.name(),
        };
        let updated = self
            .shared
            .update(&target, |node| make_unknown(node, &time))
            .await;
        let Some(updated) = unless_gone(updated)? else {
            return Ok(());
        };
        self.record(&updated, &time).await;
        self.taint(node.name(), &updated).await
    }

    async fn taint(&self, name: &str, node: &Value) -> Result<(), Status> {
        let time = meta::rfc3339(self.shared.core.now_seconds());
        if corrected_taints(node, &time).is_none() {
            return Ok(());
        }
        let target = UpdateTarget {
            info: self.nodes.info,
            subresource: None,
            namespace: None,
            name,
        };
        let updated = self.shared.update(&target, |node| {
            if let Some(taints) = corrected_taints(node, &time) {
                if !node["spec"].is_object() {
                    node["spec"] = json!({});
                }
                node["spec"]["taints"] = taints.into();
            }
        });
        unless_gone(updated.await).map(|_| ())
    }

    /// An Event for people; nothing depends on it.
    async fn record(&self, node: &Value, time: &str) {
        let Some(events) = find("", "v1", "events") else {
            return;
        };
        let name = meta::name(node).unwrap_or_default();
        let event = json!({
            "metadata": {"generateName": format!("{name}.")},
            "involvedObject": {
                "apiVersion": "v1",
                "kind": "Node",
                "name": name,
                "uid": meta::uid(node).unwrap_or_default(),
            },
            "reason": "NodeNotReady",
            "message": format!("Node {name} status is now: NodeNotReady"),
            "type": "Normal",
            "source": {"component": "node-controller"},
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        });
        if let Err(status) = self.shared.create(events, Some("default"), event).await {
            tracing::debug!(message = status.message, "an event was not recorded");
        }
    }
}

fn unless_gone(result: Result<Value, Status>) -> Result<Option<Value>, Status> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(status) if status.code == 404 => Ok(None),
        Err(status) => Err(status),
    }
}
