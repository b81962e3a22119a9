//! `events.k8s.io/v1` and core `v1` events are two views of one storage, kept as core `v1`.

use serde_json::{Map, Value};

use super::ResourceInfo;

/// Names of the fields in `events.k8s.io/v1` and in core `v1`; all others are the same.
const RENAMED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("reportingController", "reportingComponent"),
];

fn is_view(info: &ResourceInfo) -> bool {
    info.group == "events.k8s.io"
}

/// The stored form of an object given in `info`'s version.
pub fn to_storage(info: &ResourceInfo, object: Value) -> Value {
    if !is_view(info) {
        return object;
    }
    rename(object, "v1", |name| {
        RENAMED
            .iter()
            .find(|(view, _)| *view == name)
            .map(|(_, stored)| *stored)
    })
}

/// The form in `info`'s version of a stored object.
pub fn from_storage(info: &ResourceInfo, object: Value) -> Value {
    if !is_view(info) {
        return object;
    }
    rename(object, "events.k8s.io/v1", |name| {
        RENAMED
            .iter()
            .find(|(_, stored)| *stored == name)
            .map(|(view, _)| *view)
    })
}

fn rename(
    object: Value,
    api_version: &str,
    new_name: impl Fn(&str) -> Option<&'static str>,
) -> Value {
    let Value::Object(fields) = object else {
        return object;
    };
    let mut renamed: Map<String, Value> = fields
        .into_iter()
        .map(|(name, value)| match new_name(&name) {
            Some(new) => (new.to_owned(), value),
            None => (name, value),
        })
        .collect();
    if renamed.contains_key("apiVersion") {
        renamed.insert("apiVersion".into(), api_version.into());
    }
    Value::Object(renamed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn views_round_trip() {
        let info = crate::find("events.k8s.io", "v1", "events").expect("row");
        let view = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "n",
            "regarding": {"kind": "Node"}, "reportingController": "c", "deprecatedCount": 2});
        let stored = to_storage(info, view.clone());
        assert_eq!(
            stored,
            json!({"apiVersion": "v1", "kind": "Event", "message": "n",
            "involvedObject": {"kind": "Node"}, "reportingComponent": "c", "count": 2})
        );
        assert_eq!(from_storage(info, stored), view);
    }
}
