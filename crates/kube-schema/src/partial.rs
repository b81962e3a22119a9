//! `PartialObjectMetadata`: objects without anything but their metadata.

use serde_json::{Map, Value, json};

/// Metadata of one object. `version` is `v1` or `v1beta1` of `meta.k8s.io`.
pub fn partial_object(object: &Value, version: &str) -> Value {
    let mut fields = item(object);
    fields.insert("apiVersion".into(), format!("meta.k8s.io/{version}").into());
    fields.insert("kind".into(), "PartialObjectMetadata".into());
    Value::Object(fields)
}

/// Metadata of many objects; `list_metadata` is the list's own (resourceVersion, continue).
pub fn partial_list<'a>(
    objects: impl IntoIterator<Item = &'a Value>,
    list_metadata: &Value,
    version: &str,
) -> Value {
    let items: Vec<Value> = objects
        .into_iter()
        .map(|object| partial_object(object, version))
        .collect();
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": list_metadata,
        "items": items,
    })
}

fn item(object: &Value) -> Map<String, Value> {
    let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    Map::from_iter([("metadata".to_owned(), metadata)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_metadata_remains() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}});
        let list = partial_list([&pod], &json!({"resourceVersion": "7"}), "v1");
        assert_eq!(
            list,
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": "7"},
                "items": [{"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "p"}}]})
        );
    }
}
