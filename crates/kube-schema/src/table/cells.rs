//! Cells of the smaller kinds, and what all printers share.

use serde_json::{Map, Value};

use crate::{duration, meta};

pub(super) const NONE: &str = "<none>";
const UNKNOWN: &str = "<unknown>";

/// The value at a dotted path.
pub(super) fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .try_fold(object, |value, name| value.get(name))
}

/// Text at a dotted path, empty when missing.
pub(super) fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// A list at a dotted path, empty when missing.
pub(super) fn list<'a>(object: &'a Value, path: &str) -> &'a [Value] {
    at(object, path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// `text`, or `other` when it is empty.
pub(super) fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

pub(super) fn name(object: &Value) -> Value {
    meta::name(object).unwrap_or_default().into()
}

pub(super) fn age(object: &Value, now: i64) -> Value {
    duration::age(meta::creation_seconds(object), now).into()
}

/// Age of a time in a field.
pub(super) fn since(time: &str, now: i64) -> String {
    let seconds = meta::parse_rfc3339(time).map(|micros| micros.div_euclid(1_000_000));
    duration::age(seconds, now)
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn label_text(labels: Option<&Map<String, Value>>) -> String {
    let pairs: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    or(&pairs.join(","), NONE).to_owned()
}

fn count(object: &Value, fields: &[&str]) -> Value {
    fields
        .iter()
        .filter_map(|field| object.get(field)?.as_object())
        .map(Map::len)
        .sum::<usize>()
        .into()
}

pub(super) fn name_and_age(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

pub(super) fn name_and_creation(object: &Value, _now: i64) -> Vec<Value> {
    vec![
        name(object),
        text(object, "metadata.creationTimestamp").into(),
    ]
}

pub(super) fn namespace(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        text(object, "status.phase").into(),
        age(object, now),
    ]
}

pub(super) fn config_map(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        count(object, &["data", "binaryData"]),
        age(object, now),
    ]
}

pub(super) fn secret(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        text(object, "type").into(),
        count(object, &["data"]),
        age(object, now),
    ]
}

pub(super) fn lease(object: &Value, now: i64) -> Vec<Value> {
    vec![
        name(object),
        text(object, "spec.holderIdentity").into(),
        age(object, now),
    ]
}

pub(super) fn node(object: &Value, now: i64) -> Vec<Value> {
    let info = |field: &str| or(text(object, &format!("status.nodeInfo.{field}")), UNKNOWN).into();
    vec![
        name(object),
        node_status(object).into(),
        node_roles(object).into(),
        age(object, now),
        text(object, "status.nodeInfo.kubeletVersion").into(),
        node_address(object, "InternalIP").into(),
        node_address(object, "ExternalIP").into(),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn node_status(object: &Value) -> String {
    let ready = list(object, "status.conditions")
        .iter()
        .find(|condition| text(condition, "type") == "Ready");
    let mut status = match ready.map(|condition| text(condition, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if at(object, "spec.unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(object: &Value) -> String {
    let mut roles: Vec<&str> = meta::labels(object)
        .into_iter()
        .flatten()
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => value.as_str(),
                None => None,
            },
        )
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or(&roles.join(","), NONE).to_owned()
}

fn node_address<'a>(object: &'a Value, kind: &str) -> &'a str {
    let found = list(object, "status.addresses")
        .iter()
        .find(|address| text(address, "type") == kind);
    found.map_or(NONE, |address| text(address, "address"))
}

/// Both views of an event print the same.
pub(super) fn event(object: &Value, now: i64) -> Vec<Value> {
    let either =
        |core: &'static str, view: &'static str| or(text(object, core), text(object, view));
    let involved = if object.get("regarding").is_some() {
        "regarding"
    } else {
        "involvedObject"
    };
    let kind = text(object, &format!("{involved}.kind")).to_lowercase();
    let target = match text(object, &format!("{involved}.name")) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let first = or(
        either("firstTimestamp", "deprecatedFirstTimestamp"),
        text(object, "eventTime"),
    );
    let mut last = or(either("lastTimestamp", "deprecatedLastTimestamp"), first);
    let number = |path: &str| at(object, path).and_then(Value::as_i64).filter(|n| *n > 0);
    let mut count = number("count")
        .or_else(|| number("deprecatedCount"))
        .unwrap_or(1);
    if object.get("series").is_some_and(Value::is_object) {
        last = text(object, "series.lastObservedTime");
        count = number("series.count").unwrap_or(0);
    }
    vec![
        since(last, now).into(),
        text(object, "type").into(),
        text(object, "reason").into(),
        target.into(),
        text(object, &format!("{involved}.fieldPath")).into(),
        event_source(object).into(),
        either("message", "note").trim().into(),
        since(first, now).into(),
        count.into(),
        name(object),
    ]
}

fn event_source(object: &Value) -> String {
    let source = if object.get("deprecatedSource").is_some() {
        "deprecatedSource"
    } else {
        "source"
    };
    let part = |field: &str| text(object, &format!("{source}.{field}"));
    let (component, host) = match part("component") {
        "" => {
            let controller = or(
                text(object, "reportingComponent"),
                text(object, "reportingController"),
            );
            (controller, text(object, "reportingInstance"))
        }
        component => (component, part("host")),
    };
    match host {
        "" => component.to_owned(),
        _ => format!("{component}, {host}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes() {
        let node = json!({
            "metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:00:00Z", "labels": {
                "node-role.kubernetes.io/etcd": "true", "node-role.kubernetes.io/control-plane": "true"}},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.35.0", "osImage": "Linux"}}});
        assert_eq!(
            Value::from(super::node(&node, 61)),
            json!([
                "a",
                "Ready,SchedulingDisabled",
                "control-plane,etcd",
                "61s",
                "v1.35.0",
                "127.0.0.1",
                "<none>",
                "Linux",
                "<unknown>",
                "<unknown>"
            ])
        );
        let bare = json!({"metadata": {"name": "b"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
        assert_eq!(Value::from(super::node(&bare, 0))[1], "NotReady");
        assert_eq!(Value::from(super::node(&bare, 0))[2], "<none>");
        assert_eq!(Value::from(super::node(&json!({}), 0))[1], "Unknown");
    }

    #[test]
    fn events_print_alike_in_both_views() {
        let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Node", "name": "a"}, "reason": "R",
            "message": " m\n", "type": "Normal", "firstTimestamp": "1970-01-01T00:00:00Z",
            "lastTimestamp": "1970-01-01T00:01:00Z", "count": 3, "source": {"component": "c", "host": "h"}});
        let info = crate::find("events.k8s.io", "v1", "events").expect("row");
        let view = crate::from_storage(info, core.clone());
        assert_eq!(
            Value::from(event(&core, 70)),
            json!([
                "10s", "Normal", "R", "node/a", "", "c, h", "m", "70s", 3, "e"
            ])
        );
        assert_eq!(event(&view, 70), event(&core, 70));
    }
}
