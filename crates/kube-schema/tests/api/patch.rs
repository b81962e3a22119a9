//! Patch algebra, by text fixtures: input, patch and result of each case.

use serde_json::{Value, json};
use trivet_kube_schema::codec::{self, MediaType};
use trivet_kube_schema::patch::{self, MAX_OPERATIONS, PatchKind};

const POD: &str = "io.k8s.api.core.v1.Pod";

/// Cases are separated by `=== name`; the parts of a case by `--- patch` and `--- result`.
#[test]
fn strategic_fixtures() {
    let mut count = 0;
    for case in include_str!("../fixtures/strategic.txt")
        .split("=== ")
        .skip(1)
    {
        let (name, rest) = case.split_once('\n').unwrap();
        let (input, rest) = rest.split_once("--- patch\n").unwrap();
        let (patch, result) = rest.split_once("--- result\n").unwrap();
        let yaml = |text: &str| codec::parse_text(text.as_bytes(), MediaType::Yaml).unwrap();
        let patched = patch::apply(
            PatchKind::Strategic,
            POD,
            &yaml(input),
            &codec::to_json(&yaml(patch)),
        );
        match result.strip_prefix("error: ") {
            Some(text) => assert_eq!(patched.unwrap_err().to_string(), text.trim(), "{name}"),
            None => assert_eq!(patched.unwrap(), yaml(result), "{name}"),
        }
        count += 1;
    }
    assert!(count >= 15, "{count}");
}

fn apply(kind: PatchKind, current: &Value, patch: &Value) -> Result<Value, patch::PatchError> {
    patch::apply(kind, POD, current, &codec::to_json(patch))
}

#[test]
fn merge_patch() {
    let current = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
    let patched = apply(
        PatchKind::Merge,
        &current,
        &json!({"a": {"b": null, "d": 3}, "l": [9]}),
    )
    .unwrap();
    assert_eq!(patched, json!({"a": {"c": 2, "d": 3}, "l": [9]}));
    assert_eq!(
        apply(PatchKind::Merge, &current, &json!([1]))
            .unwrap_err()
            .to_string(),
        "the patch must be an object"
    );
}

#[test]
fn json_patch() {
    let current = json!({"metadata": {"resourceVersion": "5"}, "l": [1, 2]});
    let patch = json!([{"op": "test", "path": "/metadata/resourceVersion", "value": "5"}, {"op": "remove", "path": "/l/0"}]);
    assert_eq!(
        apply(PatchKind::Json, &current, &patch).unwrap()["l"],
        json!([2])
    );
    let info = trivet_kube_schema::find("", "v1", "pods").unwrap();
    let failing = json!([{"op": "test", "path": "/l/0", "value": 7}]);
    assert_eq!(
        apply(PatchKind::Json, &current, &failing)
            .unwrap_err()
            .status(info, "p")
            .code,
        422
    );
    assert_eq!(
        apply(PatchKind::Json, &current, &json!({"op": "x"}))
            .unwrap_err()
            .status(info, "p")
            .code,
        400
    );
    let many: Value =
        vec![json!({"op": "test", "path": "/x", "value": 1}); MAX_OPERATIONS + 1].into();
    assert_eq!(
        apply(PatchKind::Json, &current, &many)
            .unwrap_err()
            .status(info, "p")
            .code,
        413
    );
}
