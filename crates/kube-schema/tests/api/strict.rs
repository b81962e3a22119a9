//! Unknown, duplicate and ill-typed fields.

use serde_json::json;
use trivet_kube_schema::codec::{self, MediaType};
use trivet_kube_schema::schema;

#[test]
fn unknown_and_duplicate_fields_are_named() {
    let body = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","bogus":1},"foo":1,"data":{"a":"1","a":"2"}}"#;
    let mut decoded = codec::decode(body, MediaType::Json).unwrap();
    assert_eq!(decoded.duplicates, ["data.a"]);
    let unknown = schema::conform("v1", "ConfigMap", &mut decoded.value).unwrap();
    assert_eq!(unknown, ["foo", "metadata.bogus"]);
    assert_eq!(decoded.value["data"]["a"], "2");
    assert_eq!(decoded.value.get("foo"), None);
    let status =
        schema::strict_status("v1", "ConfigMap", &unknown[..1], &decoded.duplicates).unwrap();
    assert_eq!(status.code, 400);
    assert_eq!(
        status.message,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"foo\", \
         duplicate field \"data.a\""
    );
    assert_eq!(
        schema::strict_warnings(&unknown[..1], &[]),
        ["unknown field \"foo\""]
    );
    assert_eq!(schema::strict_status("v1", "ConfigMap", &[], &[]), None);
}

#[test]
fn duplicates_in_lists_and_yaml() {
    let body = b"kind: Pod\napiVersion: v1\nspec:\n  containers:\n  - name: a\n    name: b\n";
    let decoded = codec::decode(body, MediaType::Yaml).unwrap();
    assert_eq!(decoded.duplicates, ["spec.containers[0].name"]);
    assert_eq!(decoded.value["spec"]["containers"][0]["name"], "b");
}

#[test]
fn wrong_types_are_refused_in_upstreams_words() {
    let mut body = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": 1}});
    let status = schema::conform("v1", "ConfigMap", &mut body)
        .unwrap_err()
        .status("v1", "ConfigMap");
    assert_eq!(
        status.message,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct \
         field ConfigMap.data of type string"
    );
    for bad in [
        json!({"spec": {"containers": {}}}),
        json!({"spec": {"containers": [7]}}),
        json!({"metadata": {"creationTimestamp": "yesterday"}}),
        json!({"spec": {"hostNetwork": "true"}}),
        json!({"spec": {"priority": 1e20}}),
        json!({"spec": {"priority": 1.5}}),
        json!([]),
    ] {
        assert!(
            schema::conform("v1", "Pod", &mut bad.clone()).is_err(),
            "{bad}"
        );
    }
}

#[test]
fn nulls_and_numbers_are_brought_into_one_form() {
    let mut pod = json!({"metadata": {"name": "a", "creationTimestamp": null}, "spec": {"nodeName": null, "priority": 3.0,
        "containers": [{"name": "c", "resources": {"limits": {"cpu": 1, "memory": "1024Mi"}}}]}});
    assert!(schema::conform("v1", "Pod", &mut pod).unwrap().is_empty());
    assert_eq!(
        pod,
        json!({"metadata": {"name": "a"}, "spec": {"priority": 3,
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}})
    );
}
