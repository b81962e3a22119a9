//! Bodies in and out.

use serde_json::{Value, json};
use trivet_kube_schema::codec::{self, DecodeError, MediaType};

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A length-delimited field, built by hand.
fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, number << 3 | 2);
    varint(&mut out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out
}

fn number(number: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, number << 3);
    varint(&mut out, value);
    out
}

fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [
        b"k8s\0".to_vec(),
        field(1, &meta),
        field(2, raw),
        field(3, b""),
        field(4, b""),
    ]
    .concat()
}

/// What `kubectl create namespace` sends: every non-pointer field is there, most of them empty.
#[test]
fn namespace_as_typed_clients_send_it() {
    let metadata = [
        field(1, b"demo"),
        field(2, b""),
        field(3, b""),
        field(4, b""),
        field(5, b""),
        field(6, b""),
        number(7, 0),
        field(8, b""),
    ]
    .concat();
    let raw = [field(1, &metadata), field(2, b""), field(3, &field(1, b""))].concat();
    let decoded = codec::decode(&envelope("v1", "Namespace", &raw), MediaType::Protobuf).unwrap();
    assert_eq!(
        (decoded.api_version.as_str(), decoded.kind.as_str()),
        ("v1", "Namespace")
    );
    assert_eq!(
        decoded.value,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}, "spec": {}, "status": {}})
    );
}

#[test]
fn chosen_zeros_survive_and_empty_fields_do_not() {
    // DeleteOptions.gracePeriodSeconds is a pointer: zero was chosen.
    let raw = [number(1, 0), field(4, b"Background")].concat();
    let decoded =
        codec::decode(&envelope("v1", "DeleteOptions", &raw), MediaType::Protobuf).unwrap();
    assert_eq!(decoded.value["gracePeriodSeconds"], 0);
    assert_eq!(decoded.value["propagationPolicy"], "Background");
    // Container ports: hostPort 0 means none.
    let port = [
        field(1, b""),
        number(2, 0),
        number(3, 80),
        field(4, b"TCP"),
        field(5, b""),
    ]
    .concat();
    let container = [field(1, b"c"), field(2, b"i"), field(6, &port)].concat();
    let raw = field(2, &field(2, &container));
    let decoded = codec::decode(&envelope("v1", "Pod", &raw), MediaType::Protobuf).unwrap();
    assert_eq!(
        decoded.value["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 80, "protocol": "TCP"}])
    );
}

#[test]
fn bodies_recorded_from_kubectl() {
    let mut count = 0;
    for line in include_str!("../fixtures/kubectl-1.32.txt").lines().skip(2) {
        let (hex, object) = line.split_once(' ').unwrap();
        let bytes: Vec<u8> = (0..hex.len() / 2)
            .map(|index| u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap())
            .collect();
        let decoded = codec::decode(&bytes, MediaType::Protobuf).unwrap();
        let expected: Value = serde_json::from_str(object).unwrap();
        assert_eq!(decoded.value, expected);
        count += 1;
    }
    assert!(count >= 12, "{count}");
}

/// Every special message and embedded struct at least once.
fn samples() -> Vec<Value> {
    vec![
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n", "labels": {"x": "y"},
            "creationTimestamp": "2024-01-02T03:04:05Z", "finalizers": ["a/b", "c/d"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "o", "uid": "u", "controller": true, "blockOwnerDeletion": false}],
            "managedFields": [{"manager": "m", "operation": "Update", "apiVersion": "v1", "time": "2024-01-02T03:04:05Z",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:k": {}}}}]},
            "data": {"k": "v", "ü": ""}, "binaryData": {"b": "AAEC"}, "immutable": false}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "Opaque", "data": {"k": "cGFzcw=="}}),
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {
            "holderIdentity": "h", "leaseDurationSeconds": 40, "leaseTransitions": 0,
            "acquireTime": "2024-01-02T03:04:05.000006Z", "renewTime": "1969-12-31T23:59:59.999999Z"}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}],
            "podCIDRs": ["10.42.0.0/24"]}, "status": {"capacity": {"cpu": "2", "memory": "8129264Ki"},
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2024-01-02T03:04:05Z"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}, "images": [{"names": ["a"], "sizeBytes": 5}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [
            {"port": 80, "targetPort": "http", "protocol": "TCP"}, {"port": 81, "targetPort": 8081, "nodePort": 30081}],
            "clusterIP": "None", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "a", "secret": {"secretName": "s", "defaultMode": 420}}, {"name": "b", "emptyDir": {"sizeLimit": "1Gi"}}],
            "containers": [{"name": "c", "image": "i", "args": ["-1", ""],
                "env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k", "optional": false}}}],
                "envFrom": [{"secretRef": {"name": "s"}}],
                "livenessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 3},
                "lifecycle": {"preStop": {"exec": {"command": ["x"]}}},
                "resources": {"limits": {"cpu": "500m"}}, "securityContext": {"runAsUser": 0, "privileged": false}}],
            "ephemeralContainers": [{"name": "d", "image": "i", "targetContainerName": "c"}]},
            "status": {"containerStatuses": [{"name": "c", "ready": true, "restartCount": 0, "image": "i", "imageID": "",
                "state": {"running": {"startedAt": "2024-01-02T03:04:05Z"}}}]}}),
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": "u",
            "extra": {"k": ["a", "b"]}, "resourceAttributes": {"verb": "get", "resource": "pods"}}}),
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["a"], "expirationSeconds": 600}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "e"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": false}}], "ports": [{"name": "https", "port": 6443}]}),
        json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "note": "n",
            "eventTime": "2024-01-02T03:04:05.000006Z", "regarding": {"kind": "Node", "name": "n"},
            "series": {"count": 2, "lastObservedTime": "2024-01-02T03:04:05.000006Z"}}),
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 0}}),
    ]
}

#[test]
fn every_encoding_round_trips() {
    for sample in samples() {
        let kind = &sample["kind"];
        let bytes = codec::to_protobuf(&sample).unwrap();
        assert_eq!(
            codec::decode(&bytes, MediaType::Protobuf).unwrap().value,
            sample,
            "protobuf {kind}"
        );
        let text = codec::to_yaml(&sample).unwrap();
        assert_eq!(
            codec::decode(text.as_bytes(), MediaType::Yaml)
                .unwrap()
                .value,
            sample,
            "yaml {kind}\n{text}"
        );
        assert_eq!(
            codec::decode(&codec::to_json(&sample), MediaType::Json)
                .unwrap()
                .value,
            sample,
            "json {kind}"
        );
    }
}

/// Field numbers from an independent source: a message built with literal numbers of the published protos.
#[test]
fn lease_numbers() {
    let time = [number(1, 1), number(2, 2000)].concat();
    let spec = [
        field(1, b"h"),
        number(2, 15),
        field(3, &time),
        field(4, &time),
        number(5, 3),
    ]
    .concat();
    let raw = [field(1, &field(1, b"l")), field(2, &spec)].concat();
    let decoded = codec::decode(
        &envelope("coordination.k8s.io/v1", "Lease", &raw),
        MediaType::Protobuf,
    )
    .unwrap();
    assert_eq!(
        decoded.value["spec"],
        json!({"holderIdentity": "h", "leaseDurationSeconds": 15, "acquireTime": "1970-01-01T00:00:01.000002Z",
            "renewTime": "1970-01-01T00:00:01.000002Z", "leaseTransitions": 3})
    );
}

#[test]
fn types_are_filled_in_from_the_path() {
    let decoded = codec::decode_as(b"{\"data\":{}}", MediaType::Json, "v1", "ConfigMap").unwrap();
    assert_eq!(decoded.kind, "ConfigMap");
    assert_eq!(decoded.value["apiVersion"], "v1");
    let decoded = codec::decode(b"{\"a\":1}", MediaType::Json).unwrap();
    assert_eq!(decoded.kind, "");
    assert_eq!(decoded.value, json!({"a": 1}));
}

#[test]
fn yaml_is_read_as_one_document() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  a: \"1\"\n  t: 'yes'\n  m: |\n    x\n    y\n";
    let decoded = codec::decode(text.as_bytes(), MediaType::Yaml).unwrap();
    assert_eq!(
        decoded.value["data"],
        json!({"a": "1", "t": "yes", "m": "x\ny\n"})
    );
    assert!(codec::decode(b"a: 1\n---\nb: 2\n", MediaType::Yaml).is_err());
    assert!(codec::decode(b"- 1\n", MediaType::Yaml).is_err());
    assert!(codec::decode(b"a: [", MediaType::Yaml).is_err());
    // Text that would read as something else is quoted on the way out.
    for tricky in [
        "true",
        "null",
        "1",
        "1e3",
        "~",
        "no",
        "a: b",
        "- a",
        "",
        " x ",
        "#",
        "2024-01-02",
        "0x1f",
        "é\n\n",
        "@a",
        "'",
    ] {
        let value = json!({"v": tricky});
        let text = codec::to_yaml(&value).unwrap();
        assert_eq!(
            codec::parse_text(text.as_bytes(), MediaType::Yaml).unwrap(),
            value,
            "{text}"
        );
    }
}

#[test]
fn limits() {
    let large = vec![b' '; codec::MAX_BODY_BYTES + 1];
    assert_eq!(
        codec::decode(&large, MediaType::Json),
        Err(DecodeError::TooLarge)
    );
    assert_eq!(DecodeError::TooLarge.status().code, 413);
    let deep = |open: &str, close: &str, n: usize| format!("{}{}", open.repeat(n), close.repeat(n));
    for (text, media) in [
        (deep("{\"a\":", "1", 1) + "}", MediaType::Json),
        (
            format!("{{\"a\":{}}}", deep("[", "]", codec::MAX_DEPTH + 5)),
            MediaType::Json,
        ),
        (
            format!("{{\"a\":{}}}", deep("[", "]", 100_000)),
            MediaType::Json,
        ),
        (format!("a: {}", deep("[", "]", 100_000)), MediaType::Yaml),
    ]
    .into_iter()
    .skip(1)
    {
        assert!(codec::decode(text.as_bytes(), media).is_err());
    }
    // Aliases must not multiply without bound.
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for n in 1..12 {
        let list = vec![format!("*a{}", n - 1); 10].join(",");
        bomb.push_str(&format!("a{n}: &a{n} [{list}]\n"));
    }
    assert!(codec::decode(bomb.as_bytes(), MediaType::Yaml).is_err());
    assert!(matches!(
        codec::decode(&envelope("apps/v1", "Deployment", b""), MediaType::Protobuf),
        Err(DecodeError::UnknownKind { .. })
    ));
}
