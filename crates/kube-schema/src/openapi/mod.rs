//! OpenAPI documents, built once on first use from the field tables and the resource table.
//!
//! Version 2 covers everything in one document (JSON, and the protobuf form older clients insist on);
//! version 3 has one document per group version behind an index of hashes.

mod definitions;
mod gnostic;
mod paths;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::resource::{api_version, group_versions};
use definitions::Dialect;

/// Response type of the protobuf form of version 2.
pub const V2_PROTOBUF_CONTENT_TYPE: &str =
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// Names by which clients ask for it.
pub const V2_PROTOBUF_ACCEPTED: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

const TITLE: &str = "Kubernetes";
/// The API level the tables were made from.
const VERSION: &str = "v1.35.0";

/// The version 2 document as JSON.
pub fn v2_json() -> &'static [u8] {
    static DOCUMENT: LazyLock<Vec<u8>> = LazyLock::new(|| v2_value().to_string().into_bytes());
    &DOCUMENT
}

/// The version 2 document as gnostic protobuf (`openapi.v2.Document`).
pub fn v2_protobuf() -> &'static [u8] {
    static DOCUMENT: LazyLock<Vec<u8>> = LazyLock::new(|| gnostic::document(&v2_value()));
    &DOCUMENT
}

/// The index at `/openapi/v3`.
pub fn v3_index() -> Value {
    let paths: Map<String, Value> = V3
        .iter()
        .map(|(path, document)| {
            let url = format!("/openapi/v3/{path}?hash={}", hash(document));
            (path.clone(), json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": paths })
}

/// The version 3 document of one group version; `None` when it is not served.
pub fn v3_document(group: &str, version: &str) -> Option<&'static [u8]> {
    V3.get(&v3_path(group, version)).map(Vec::as_slice)
}

/// The hash of a document, as the `hash` parameter of version 3 URLs carries it. The same on every server
/// of one build.
pub fn hash(document: &[u8]) -> String {
    // FNV-1a with 128 bits: no secret is protected here, and equal documents hash alike.
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = document.iter().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
    });
    format!("{hash:032X}")
}

/// The value of an `ETag` header: the hash in quotes.
pub fn etag(document: &[u8]) -> String {
    format!("\"{}\"", hash(document))
}

static V3: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(|| {
    group_versions()
        .into_iter()
        .map(|(group, version)| {
            (
                v3_path(group, version),
                v3_value(group, version).to_string().into_bytes(),
            )
        })
        .collect()
});

fn v3_path(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        _ => format!("apis/{}", api_version(group, version)),
    }
}

fn v2_value() -> Value {
    let operations = paths::all();
    json!({
        "swagger": "2.0",
        "info": {"title": TITLE, "version": VERSION},
        "paths": paths::v2(&operations),
        "definitions": definitions::all(Dialect::V2),
    })
}

fn v3_value(group: &str, version: &str) -> Value {
    let mut operations = paths::all();
    operations.retain(|operation| operation.belongs_to(group, version));
    let roots = operations.iter().flat_map(|operation| operation.schemas());
    let schemas = definitions::closure(roots, Dialect::V3);
    json!({
        "openapi": "3.0.0",
        "info": {"title": TITLE, "version": VERSION},
        "paths": paths::v3(&operations),
        "components": {"schemas": schemas},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, inner) in fields {
                    match (name.as_str(), inner) {
                        ("$ref", Value::String(target)) => into.push(target.clone()),
                        _ => references(inner, into),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|inner| references(inner, into)),
            _ => {}
        }
    }

    #[test]
    fn references_resolve() {
        let v2: Value = serde_json::from_slice(v2_json()).expect("json");
        let v3 = group_versions().into_iter().map(|(g, v)| {
            serde_json::from_slice::<Value>(v3_document(g, v).expect("served")).expect("json")
        });
        for document in std::iter::once(v2).chain(v3) {
            let mut found = Vec::new();
            references(&document, &mut found);
            assert!(!found.is_empty());
            for target in found {
                let pointer = target.strip_prefix('#').expect("local reference");
                assert!(document.pointer(pointer).is_some(), "{target}");
            }
        }
        assert!(v3_document("apps", "v1").is_none());
    }

    #[test]
    fn what_clients_look_for() {
        let core: Value =
            serde_json::from_slice(v3_document("", "v1").expect("core")).expect("json");
        let patch = &core["paths"]["/api/v1/namespaces/{namespace}/configmaps/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"]["kind"],
            "ConfigMap"
        );
        let names: Vec<&str> = patch["parameters"]
            .as_array()
            .expect("parameters")
            .iter()
            .filter_map(|p| p["name"].as_str())
            .collect();
        assert!(
            names.contains(&"fieldValidation") && names.contains(&"dryRun"),
            "{names:?}"
        );
        assert!(
            patch["requestBody"]["content"]
                .get("application/strategic-merge-patch+json")
                .is_some()
        );
        let schemas = &core["components"]["schemas"];
        assert_eq!(
            schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
            json!([{"group": "", "kind": "Pod", "version": "v1"}])
        );
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        let index = v3_index();
        let url = index["paths"]["api/v1"]["serverRelativeURL"]
            .as_str()
            .expect("url");
        assert!(url.starts_with("/openapi/v3/api/v1?hash="), "{url}");
        assert_eq!(etag(b"a"), etag(b"a"));
        assert_ne!(etag(b"a"), etag(b"b"));
    }

    #[test]
    fn documents_stay_small() {
        assert!(v2_json().len() < 600_000, "{}", v2_json().len());
        assert!(v2_protobuf().len() < 600_000, "{}", v2_protobuf().len());
    }
}
