//! Defaults and validation of Pod: as much as an object that is stored and shown needs.

use serde_json::{Map, Value, json};

use super::defaults::{default, default_text, each};
use super::{list, names, port, supported, text};
use crate::FieldError;
use crate::meta::as_object_mut;

type Fields = Map<String, Value>;

/// Lists of containers in a pod's spec.
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
/// Octal 0644, how files of secrets and config maps appear.
const DEFAULT_FILE_MODE: i64 = 420;
/// Volume sources that hold files with modes.
const FILE_SOURCES: [&str; 4] = ["secret", "configMap", "downwardAPI", "projected"];

pub(super) fn defaults(fields: &mut Fields) {
    let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "enableServiceLinks", true);
    default(spec, "securityContext", json!({}));
    // The old and the new name of one field.
    let account = ["serviceAccountName", "serviceAccount"]
        .iter()
        .find_map(|name| {
            spec.get(*name)
                .cloned()
                .filter(|v| v.as_str().is_some_and(|s| !s.is_empty()))
        });
    if let Some(account) = account {
        spec.insert("serviceAccountName".into(), account.clone());
        spec.insert("serviceAccount".into(), account);
    }
    for name in CONTAINER_LISTS {
        each(spec, name).for_each(container);
    }
    each(spec, "volumes").for_each(volume);
}

fn container(container: &mut Fields) {
    default(container, "resources", json!({}));
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    let image = container
        .get("image")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    default_text(container, "imagePullPolicy", pull_policy(&image));
    for port in each(container, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for variable in each(container, "env") {
        let reference = variable
            .get_mut("valueFrom")
            .and_then(|v| v.get_mut("fieldRef"));
        if let Some(reference) = reference.and_then(Value::as_object_mut) {
            default_text(reference, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get_mut(name).and_then(Value::as_object_mut) else {
            continue;
        };
        for (field, value) in [
            ("timeoutSeconds", 1),
            ("periodSeconds", 10),
            ("successThreshold", 1),
            ("failureThreshold", 3),
        ] {
            default(probe, field, value);
        }
        if let Some(http) = probe.get_mut("httpGet").and_then(Value::as_object_mut) {
            default_text(http, "path", "/");
            default_text(http, "scheme", "HTTP");
        }
    }
    let resources = as_object_mut(container.entry("resources").or_insert_with(|| json!({})));
    if let Some(Value::Object(limits)) = resources.get("limits").cloned() {
        let requests = as_object_mut(resources.entry("requests").or_insert_with(|| json!({})));
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// An image without a tag, or with the tag `latest`, is always pulled; one with a digest is not.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    let tag = match last.split_once('@') {
        Some(_) => return "IfNotPresent",
        None => last.rsplit_once(':').map_or("latest", |(_, tag)| tag),
    };
    if tag == "latest" {
        "Always"
    } else {
        "IfNotPresent"
    }
}

fn volume(volume: &mut Fields) {
    if volume.len() <= 1 {
        volume.insert("emptyDir".into(), json!({}));
    }
    for name in FILE_SOURCES {
        if let Some(source) = volume.get_mut(name).and_then(Value::as_object_mut) {
            default(source, "defaultMode", DEFAULT_FILE_MODE);
        }
    }
    if let Some(host) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        default(host, "type", "");
    }
}

/// `Guaranteed` when every container has cpu and memory limits equal to its requests, `BestEffort` when none
/// has any, `Burstable` otherwise.
pub(super) fn qos_class(fields: &Fields) -> &'static str {
    let Some(spec) = fields.get("spec") else {
        return "BestEffort";
    };
    let (mut any, mut guaranteed) = (false, true);
    for container in ["initContainers", "containers"]
        .into_iter()
        .flat_map(|name| list(spec, name))
    {
        let resource = |kind: &str, name: &str| container.get("resources")?.get(kind)?.get(name);
        for name in ["cpu", "memory"] {
            let (limit, request) = (resource("limits", name), resource("requests", name));
            any |= limit.or(request).is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

pub(super) fn check(object: &Value, errors: &mut Vec<FieldError>) {
    if list(object, "spec.containers").is_empty() {
        errors.push(FieldError::required("spec.containers", ""));
    }
    supported(
        "spec.restartPolicy",
        text(object, "spec.restartPolicy"),
        &["Always", "OnFailure", "Never"],
        errors,
    );
    supported(
        "spec.dnsPolicy",
        text(object, "spec.dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        errors,
    );
    let volumes: Vec<&str> = list(object, "spec.volumes")
        .iter()
        .map(|volume| text(volume, "name"))
        .collect();
    for (index, name) in volumes.iter().enumerate() {
        let path = format!("spec.volumes[{index}].name");
        label_name(
            &path,
            name,
            volumes.get(..index).unwrap_or_default(),
            errors,
        );
    }
    let mut seen: Vec<&str> = Vec::new();
    for kind in CONTAINER_LISTS {
        for (index, container) in list(object, &format!("spec.{kind}")).iter().enumerate() {
            let path = format!("spec.{kind}[{index}]");
            let name = text(container, "name");
            label_name(&format!("{path}.name"), name, &seen, errors);
            seen.push(name);
            check_container(&path, container, &volumes, errors);
        }
    }
}

fn label_name(path: &str, name: &str, seen: &[&str], errors: &mut Vec<FieldError>) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    for problem in names::dns_label_problems(name) {
        errors.push(FieldError::invalid(path, name, &problem));
    }
    if seen.contains(&name) {
        errors.push(FieldError::duplicate(path, name));
    }
}

fn check_container(path: &str, container: &Value, volumes: &[&str], errors: &mut Vec<FieldError>) {
    if text(container, "image").is_empty() {
        errors.push(FieldError::required(&format!("{path}.image"), ""));
    }
    supported(
        &format!("{path}.imagePullPolicy"),
        text(container, "imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
        errors,
    );
    for (index, item) in list(container, "ports").iter().enumerate() {
        let path = format!("{path}.ports[{index}]");
        port(
            &format!("{path}.containerPort"),
            item.get("containerPort").and_then(Value::as_i64),
            errors,
        );
        supported(
            &format!("{path}.protocol"),
            text(item, "protocol"),
            &["SCTP", "TCP", "UDP"],
            errors,
        );
    }
    for (index, variable) in list(container, "env").iter().enumerate() {
        if text(variable, "name").is_empty() {
            errors.push(FieldError::required(
                &format!("{path}.env[{index}].name"),
                "",
            ));
        }
    }
    for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let name = text(mount, "name");
        match name {
            "" => errors.push(FieldError::required(&format!("{path}.name"), "")),
            _ if !volumes.contains(&name) => {
                errors.push(FieldError::not_found(&format!("{path}.name"), name));
            }
            _ => {}
        }
        if text(mount, "mountPath").is_empty() {
            errors.push(FieldError::required(&format!("{path}.mountPath"), ""));
        }
    }
}

/// The few parts of a pod's spec that may change.
pub(super) fn change(new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if fixed_parts(new, old) != fixed_parts(old, old) {
        errors.push(FieldError::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
             existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
             previously negative)",
        ));
    }
}

fn fixed_parts(pod: &Value, old: &Value) -> Value {
    let mut spec = pod.get("spec").cloned().unwrap_or(Value::Null);
    let Some(fields) = spec.as_object_mut() else {
        return spec;
    };
    fields.remove("activeDeadlineSeconds");
    // A scheduler binds through this field when it writes pods directly.
    if text(old, "spec.nodeName").is_empty() {
        fields.remove("nodeName");
    }
    let before = list(old, "spec.tolerations");
    let kept = before
        .iter()
        .all(|toleration| list(pod, "spec.tolerations").contains(toleration));
    fields.insert("tolerations".into(), kept.into());
    for name in ["initContainers", "containers"] {
        for container in each(fields, name) {
            container.remove("image");
        }
    }
    spec
}
