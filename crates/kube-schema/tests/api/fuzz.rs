//! Nothing from outside makes this crate panic.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use trivet_kube_schema::codec::{self, MediaType};
use trivet_kube_schema::patch::{self, PatchKind};
use trivet_kube_schema::table::{IncludeObject, TableOptions, table};
use trivet_kube_schema::{RESOURCES, from_storage, meta, rules, schema, to_storage};

/// Words that lead into the tables.
const WORDS: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "name",
    "labels",
    "annotations",
    "containers",
    "finalizers",
    "conditions",
    "type",
    "ports",
    "data",
    "stringData",
    "taints",
    "addresses",
    "ownerReferences",
    "volumes",
    "resources",
    "limits",
    "cpu",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "delete",
    "replace",
    "creationTimestamp",
    "series",
    "endpoints",
    "subsets",
    "env",
    "valueFrom",
    "image",
    "key",
    "",
    "é",
];

fn any_value() -> impl Strategy<Value = Value> {
    let word = || proptest::sample::select(WORDS).prop_map(str::to_owned);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((word(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for media in [MediaType::Json, MediaType::Yaml, MediaType::Protobuf] {
            let _ = codec::decode(&bytes, media);
        }
        // Behind a valid envelope the tables are reached.
        for (api_version, kind) in [("v1", "Pod"), ("v1", "Node"), ("authorization.k8s.io/v1", "SubjectAccessReview")] {
            let mut framed = codec::to_protobuf(&json!({"apiVersion": api_version, "kind": kind})).unwrap();
            framed.push(2 << 3 | 2);
            framed.push(bytes.len().min(127) as u8);
            framed.extend_from_slice(&bytes[..bytes.len().min(127)]);
            let _ = codec::decode(&framed, MediaType::Protobuf);
        }
    }

    #[test]
    fn damaged_protobuf(position in 0usize..400, byte: u8) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {
            "volumes": [{"name": "v", "secret": {"secretName": "s"}}],
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}, "ports": [{"containerPort": 80}]}]}});
        let mut bytes = codec::to_protobuf(&pod).unwrap();
        let position = position % bytes.len();
        bytes[position] = byte;
        if let Ok(decoded) = codec::decode(&bytes, MediaType::Protobuf) {
            let _ = codec::to_protobuf(&decoded.value);
        }
    }

    #[test]
    fn arbitrary_objects(mut object in any_value(), old in any_value(), now: i64) {
        let options = TableOptions {
            include: IncludeObject::Object,
            now_unix_seconds: now,
            list_metadata: json!({}),
            columns: true,
            version: "v1",
        };
        for info in RESOURCES {
            let mut given = object.clone();
            meta::set_type(&mut given, &info.api_version(), info.kind);
            let _ = table(info, [&given], &options);
            let _ = from_storage(info, to_storage(info, given.clone()));
            let _ = codec::to_protobuf(&given);
            rules::inherit_metadata(&mut given, &old);
            rules::apply_defaults(info, &mut given);
            rules::retain_status(info, &mut given, Some(&old));
            rules::retain_spec(info, &mut given, &old);
            rules::set_generation(info, &mut given, Some(&old));
            let _ = rules::validate_create(info, &given);
            let _ = rules::validate_update(info, &given, &old);
            if schema::conform(&info.api_version(), info.kind, &mut given).is_ok() {
                // What fits the tables can be written and read back.
                let bytes = codec::to_protobuf(&given).unwrap();
                codec::decode(&bytes, MediaType::Protobuf).unwrap();
            }
        }
        meta::set_resource_version(&mut object, 1);
        prop_assert_eq!(meta::resource_version(&object), Some("1"));
    }

    #[test]
    fn arbitrary_patches(current in any_value(), patch in any_value()) {
        let body = codec::to_json(&patch);
        for kind in [PatchKind::Json, PatchKind::Merge, PatchKind::Strategic] {
            let _ = patch::apply(kind, "io.k8s.api.core.v1.Pod", &current, &body);
        }
    }

    #[test]
    fn yaml_out_is_yaml_in(value in any_value()) {
        let text = codec::to_yaml(&value).unwrap();
        let read = codec::parse_text(text.as_bytes(), MediaType::Yaml).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        // Floats may change their spelling; everything else must not.
        if !value.to_string().contains('.') && !value.to_string().contains('e') {
            prop_assert_eq!(read, value, "{}", text);
        }
    }
}
