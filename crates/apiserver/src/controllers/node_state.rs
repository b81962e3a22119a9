//! What a node's silence or voice makes of its Node object: pure functions.

use serde_json::{Value, json};

/// Taint of a node that says it is not ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a node that says nothing.
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Conditions a kubelet reports; all become unknown when it stops.
const REPORTED: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// `True`, `False` or `Unknown` of condition Ready, if there is one.
pub(super) fn ready(node: &Value) -> Option<&str> {
    node.pointer("/status/conditions")?
        .as_array()?
        .iter()
        .find(|c| c["type"] == "Ready")?
        .get("status")?
        .as_str()
}

/// Makes every condition the node reported Unknown. A node that never reported gets them all.
pub(super) fn make_unknown(node: &mut Value, now: &str) {
    let never_reported = ready(node).is_none();
    if !node["status"].is_object() {
        node["status"] = json!({});
    }
    let status = &mut node["status"];
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else {
        return;
    };
    for kind in REPORTED {
        match conditions.iter_mut().find(|c| c["type"] == *kind) {
            Some(condition) => {
                if condition["status"] != "Unknown" {
                    condition["status"] = "Unknown".into();
                    condition["reason"] = "NodeStatusUnknown".into();
                    condition["message"] = "Kubelet stopped posting node status.".into();
                    condition["lastTransitionTime"] = now.into();
                }
            }
            None if !never_reported => {}
            None => conditions.push(json!({
                "type": kind,
                "status": "Unknown",
                "reason": "NodeStatusNeverUpdated",
                "message": "Kubelet never posted node status.",
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            })),
        }
    }
}

/// The taints that condition Ready calls for: key and effect.
fn wanted_taints(node: &Value) -> &'static [(&'static str, &'static str)] {
    match ready(node) {
        Some("True") => &[],
        Some("Unknown") => &[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
        Some(_) => &[(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")],
        None => &[(NOT_READY, "NoSchedule")],
    }
}

/// The taints the node should have, or `None` when it has them.
pub(super) fn corrected_taints(node: &Value, now: &str) -> Option<Vec<Value>> {
    let current = node
        .pointer("/spec/taints")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let wanted = wanted_taints(node);
    let is = |taint: &Value, (key, effect): &(&str, &str)| {
        taint["key"] == *key && taint["effect"] == *effect
    };
    let managed = |taint: &Value| taint["key"] == NOT_READY || taint["key"] == UNREACHABLE;
    let mut taints: Vec<Value> = current
        .iter()
        .filter(|taint| !managed(taint) || wanted.iter().any(|w| is(taint, w)))
        .cloned()
        .collect();
    for want in wanted {
        if !taints.iter().any(|taint| is(taint, want)) {
            let mut taint = json!({"key": want.0, "effect": want.1});
            if want.1 == "NoExecute" {
                taint["timeAdded"] = now.into();
            }
            taints.push(taint);
        }
    }
    (taints != current).then_some(taints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_makes_unknown_and_taints() {
        let mut node = json!({
            "spec": {"taints": [{"key": "mine", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        assert_eq!(corrected_taints(&node, "t"), None);
        make_unknown(&mut node, "t1");
        assert_eq!(ready(&node), Some("Unknown"));
        assert_eq!(
            node.pointer("/status/conditions/0/reason"),
            Some(&json!("NodeStatusUnknown"))
        );
        let taints = corrected_taints(&node, "t1").unwrap();
        let keys: Vec<_> = taints.iter().map(|t| t["key"].as_str().unwrap()).collect();
        assert_eq!(keys, ["mine", UNREACHABLE, UNREACHABLE]);
        node["spec"]["taints"] = taints.into();
        let once = node.clone();
        make_unknown(&mut node, "t2");
        assert_eq!(node, once, "a second look changes nothing");
        node["status"]["conditions"][0]["status"] = "True".into();
        assert_eq!(corrected_taints(&node, "t3").unwrap().len(), 1);
    }

    #[test]
    fn a_node_that_never_spoke_is_unknown_too() {
        let mut node = json!({"metadata": {"name": "a"}});
        make_unknown(&mut node, "t");
        assert_eq!(ready(&node), Some("Unknown"));
        assert_eq!(node["status"]["conditions"].as_array().unwrap().len(), 4);
    }
}
