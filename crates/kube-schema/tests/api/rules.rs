//! Defaults and validation, in upstream's words.

use serde_json::{Value, json};
use trivet_kube_schema::{ResourceInfo, Status, find, rules};

fn core(plural: &str) -> &'static ResourceInfo {
    find("", "v1", plural).unwrap()
}

fn created(info: &ResourceInfo, mut object: Value) -> Result<Value, String> {
    rules::apply_defaults(info, &mut object);
    rules::retain_status(info, &mut object, None);
    rules::set_generation(info, &mut object, None);
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    match rules::validate_create(info, &object) {
        errors if errors.is_empty() => Ok(object),
        errors => Err(Status::invalid(info, &name, &errors).message),
    }
}

fn updated(info: &ResourceInfo, mut new: Value, old: &Value) -> Result<Value, String> {
    rules::inherit_metadata(&mut new, old);
    rules::apply_defaults(info, &mut new);
    rules::retain_status(info, &mut new, Some(old));
    rules::set_generation(info, &mut new, Some(old));
    let errors = rules::validate_update(info, &new, old);
    match errors.as_slice() {
        [] => Ok(new),
        errors => Err(Status::invalid(info, "x", errors).message),
    }
}

#[test]
fn namespaces() {
    let made = created(
        core("namespaces"),
        json!({"metadata": {"name": "demo"}, "status": {"phase": "Odd"}}),
    )
    .unwrap();
    assert_eq!(
        made,
        json!({"metadata": {"name": "demo", "labels": {"kubernetes.io/metadata.name": "demo"}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
    );
    let error = created(core("namespaces"), json!({"metadata": {"name": "Demo.x"}})).unwrap_err();
    assert!(
        error.starts_with("Namespace \"Demo.x\" is invalid: metadata.name: Invalid value: \"Demo.x\": a lowercase RFC 1123 label must"),
        "{error}"
    );
    // Finalizers do not change by an ordinary update.
    let mut new = made.clone();
    new["spec"]["finalizers"] = json!([]);
    assert_eq!(
        updated(core("namespaces"), new, &made).unwrap()["spec"]["finalizers"],
        json!(["kubernetes"])
    );
}

#[test]
fn secrets() {
    let made = created(core("secrets"), json!({"metadata": {"name": "s", "namespace": "n"}, "stringData": {"k": "pass"}, "data": {"j": "AA=="}})).unwrap();
    assert_eq!(made["type"], "Opaque");
    assert_eq!(made["data"], json!({"j": "AA==", "k": "cGFzcw=="}));
    assert_eq!(made.get("stringData"), None);
    let mut frozen = made.clone();
    frozen["immutable"] = true.into();
    let mut new = frozen.clone();
    new["data"]["k"] = "AA==".into();
    assert_eq!(
        updated(core("secrets"), new, &frozen).unwrap_err(),
        "Secret \"x\" is invalid: data: Forbidden: field is immutable when `immutable` is set"
    );
    let mut new = made.clone();
    new["type"] = "other".into();
    assert_eq!(
        updated(core("secrets"), new, &made).unwrap_err(),
        "Secret \"x\" is invalid: type: Invalid value: \"other\": field is immutable"
    );
    assert_eq!(
        created(core("secrets"), json!({"metadata": {"name": "s", "namespace": "n"}, "type": "kubernetes.io/tls", "data": {"tls.crt": ""}})).unwrap_err(),
        "Secret \"s\" is invalid: data[tls.key]: Required value"
    );
}

#[test]
fn config_maps() {
    let info = core("configmaps");
    let object = |data: Value| json!({"metadata": {"name": "c", "namespace": "n"}, "data": data});
    assert!(created(info, object(json!({"a.b-c_D": "x"}))).is_ok());
    let error = created(info, object(json!({"a/b": "x"}))).unwrap_err();
    assert!(
        error.starts_with(
            "ConfigMap \"c\" is invalid: data[a/b]: Invalid value: \"a/b\": a valid config key must"
        ),
        "{error}"
    );
    assert_eq!(
        created(info, object(json!({"k": "x".repeat(1024 * 1024 + 1)}))).unwrap_err(),
        "ConfigMap \"c\" is invalid: []: Too long: may not be more than 1048576 bytes"
    );
    assert!(created(info, object(json!({"k": "x".repeat(1024 * 1024)}))).is_ok());
}

#[test]
fn metadata_rules() {
    let info = core("configmaps");
    for (metadata, problem) in [
        (
            json!({"namespace": "n"}),
            "metadata.name: Required value: name or generateName is required",
        ),
        (json!({"name": "a"}), "metadata.namespace: Required value"),
        (
            json!({"name": "a", "namespace": "n", "labels": {"-": "x"}}),
            "metadata.labels: Invalid value: \"-\": name part must consist of",
        ),
        (
            json!({"name": "a", "namespace": "n", "labels": {"a": "b c"}}),
            "metadata.labels: Invalid value: \"b c\": a valid label must",
        ),
        (
            json!({"name": "a", "namespace": "n", "annotations": {"a": "x".repeat(262_145)}}),
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (
            json!({"name": "a", "namespace": "n", "finalizers": ["x"]}),
            "metadata.finalizers: Invalid value: \"x\": name is neither a standard",
        ),
        (
            json!({"name": "a", "namespace": "n", "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "o"}]}),
            "metadata.ownerReferences[0].uid: Invalid value: \"\": uid must not be empty",
        ),
    ] {
        let error = created(info, json!({"metadata": metadata})).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
    assert!(
        created(
            info,
            json!({"metadata": {"generateName": "a-", "namespace": "n"}})
        )
        .is_ok()
    );
    let error = created(
        core("nodes"),
        json!({"metadata": {"name": "a", "namespace": "n"}}),
    )
    .unwrap_err();
    assert_eq!(
        error,
        "Node \"a\" is invalid: metadata.namespace: Forbidden: not allowed on this type"
    );
}

#[test]
fn metadata_changes() {
    let info = core("configmaps");
    let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "creationTimestamp": "2024-01-01T00:00:00Z",
        "deletionTimestamp": "2024-01-01T00:00:01Z", "finalizers": ["a/a"]}});
    let kept = updated(info, json!({"metadata": {"finalizers": ["a/a"]}}), &old).unwrap();
    assert_eq!(kept["metadata"], old["metadata"]);
    assert_eq!(
        updated(
            info,
            json!({"metadata": {"uid": "v", "finalizers": ["a/a"]}}),
            &old
        )
        .unwrap_err(),
        "ConfigMap \"x\" is invalid: metadata.uid: Invalid value: \"v\": field is immutable"
    );
    let error = updated(
        info,
        json!({"metadata": {"finalizers": ["a/a", "b/b"]}}),
        &old,
    )
    .unwrap_err();
    assert!(error.ends_with("metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"b/b\"}"), "{error}");
}

#[test]
fn services_and_pods() {
    let made = created(
        core("services"),
        json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"ports": [{"port": 80}]}}),
    )
    .unwrap();
    assert_eq!(
        made["spec"]["ports"],
        json!([{"port": 80, "protocol": "TCP", "targetPort": 80}])
    );
    assert_eq!(made["spec"]["type"], "ClusterIP");
    assert_eq!(made["status"], json!({"loadBalancer": {}}));
    let pods = core("pods");
    assert_eq!(
        created(
            pods,
            json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {}})
        )
        .unwrap_err(),
        "Pod \"p\" is invalid: spec.containers: Required value"
    );
    let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": "c", "image": "r:5000/i"}]}});
    let made = created(pods, pod).unwrap();
    assert_eq!(made["spec"]["restartPolicy"], "Always");
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(
        made["status"],
        json!({"phase": "Pending", "qosClass": "BestEffort"})
    );
    assert_eq!(made["metadata"]["generation"], 1);
    let mut new = made.clone();
    new["spec"]["containers"][0]["image"] = "j".into();
    assert_eq!(
        updated(pods, new, &made).unwrap()["metadata"]["generation"],
        2
    );
    let mut new = made.clone();
    new["spec"]["hostNetwork"] = true.into();
    assert!(
        updated(pods, new, &made)
            .unwrap_err()
            .contains("spec: Forbidden: pod updates may not change fields other than")
    );
    assert_eq!(updated(pods, made.clone(), &made).unwrap(), made);
}

#[test]
fn status_writes_leave_the_rest() {
    let old = json!({"metadata": {"name": "n"}, "spec": {"a": 1}, "status": {"x": 1}});
    let mut new = json!({"metadata": {"name": "n", "labels": {"l": "v"}}, "spec": {"a": 2}, "extra": 1, "status": {"x": 2}});
    rules::retain_spec(core("nodes"), &mut new, &old);
    assert_eq!(
        new,
        json!({"metadata": {"name": "n", "labels": {"l": "v"}}, "spec": {"a": 1}, "status": {"x": 2}})
    );
    // A node registers with its status.
    let mut node = json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "2"}}});
    rules::apply_defaults(core("nodes"), &mut node);
    rules::retain_status(core("nodes"), &mut node, None);
    assert_eq!(node["status"]["allocatable"]["cpu"], "2");
}

#[test]
fn leases_and_nodes() {
    let leases = find("coordination.k8s.io", "v1", "leases").unwrap();
    assert_eq!(
        created(leases, json!({"metadata": {"name": "l", "namespace": "n"}, "spec": {"leaseDurationSeconds": 0}})).unwrap_err(),
        "Lease.coordination.k8s.io \"l\" is invalid: spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"
    );
    assert_eq!(
        created(core("nodes"), json!({"metadata": {"name": "l"}, "spec": {"taints": [{"key": "k", "effect": "Never"}]}})).unwrap_err(),
        "Node \"l\" is invalid: spec.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \
         \"PreferNoSchedule\", \"NoExecute\""
    );
}
