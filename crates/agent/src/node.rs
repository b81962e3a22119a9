//! The Node object this agent stands for. Pure: values in, JSON out.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::machine::Machine;

/// Taint that keeps pods away: there is nothing here to run them.
pub const NO_RUNTIME_TAINT: &str = "trivet.io/no-container-runtime";

/// What the node's Ready condition says besides "True".
const READY_MESSAGE: &str =
    "the node agent is posting ready status; there is no container runtime, pods do not run here";

/// What is known of a node besides its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Name, lower case.
    pub name: String,
    /// The machine's own host name.
    pub host_name: String,
    /// Addresses inside the cluster, the preferred one first.
    pub internal_ips: Vec<IpAddr>,
    /// Addresses from outside.
    pub external_ips: Vec<IpAddr>,
    /// `key=value` labels of the user.
    pub labels: Vec<(String, String)>,
    /// Taints of the user.
    pub taints: Vec<Taint>,
    /// Command line after the settings file is folded in, secrets masked.
    pub args: Vec<String>,
    /// Environment that was taken into account, secrets masked.
    pub env: Vec<(String, String)>,
    /// Kubernetes version to show.
    pub version: String,
}

/// A taint as `key[=value]:effect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value; may be empty.
    pub value: String,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub effect: String,
}

impl Taint {
    /// Parses `key[=value]:effect`; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rest, effect) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("taint {text:?} has no effect: write key[=value]:effect"))?;
        if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            return Err(format!(
                "taint {text:?}: effect {effect:?} is none of NoSchedule, PreferNoSchedule, NoExecute"
            ));
        }
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        if key.is_empty() {
            return Err(format!("taint {text:?} has no key"));
        }
        Ok(Self {
            key: key.into(),
            value: value.into(),
            effect: effect.into(),
        })
    }

    fn json(&self) -> Value {
        let mut taint = json!({ "key": self.key, "effect": self.effect });
        if !self.value.is_empty() {
            taint["value"] = json!(self.value);
        }
        taint
    }
}

/// Parses a `key=value` label; the error says what is wrong with it.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("label {text:?} has no value: write key=value"))?;
    let plain = |text: &str| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
    };
    if key.is_empty() || !plain(key) || !plain(value) || value.len() > 63 {
        return Err(format!(
            "label {text:?} is not key=value with letters, digits, '-', '_', '.'"
        ));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Labels that the agent keeps on its node.
pub(crate) fn labels(config: &NodeConfig, machine: &Machine) -> Map<String, Value> {
    let os = std::env::consts::OS;
    let mut labels = Map::new();
    for (key, value) in [
        ("beta.kubernetes.io/arch", machine.architecture),
        ("beta.kubernetes.io/instance-type", "k3s"),
        ("beta.kubernetes.io/os", os),
        ("kubernetes.io/arch", machine.architecture),
        ("kubernetes.io/hostname", &config.name),
        ("kubernetes.io/os", os),
        ("node.kubernetes.io/instance-type", "k3s"),
    ] {
        labels.insert(key.into(), value.into());
    }
    for (key, value) in &config.labels {
        labels.insert(key.clone(), value.as_str().into());
    }
    labels
}

/// Annotations that the agent keeps on its node, with K3s's names.
pub(crate) fn annotations(config: &NodeConfig) -> Map<String, Value> {
    let env: Map<String, Value> = config
        .env
        .iter()
        .map(|(key, value)| (key.clone(), value.as_str().into()))
        .collect();
    let mut annotations = Map::new();
    annotations.insert("k3s.io/hostname".into(), config.host_name.as_str().into());
    annotations.insert(
        "k3s.io/internal-ip".into(),
        join(&config.internal_ips).into(),
    );
    if !config.external_ips.is_empty() {
        annotations.insert(
            "k3s.io/external-ip".into(),
            join(&config.external_ips).into(),
        );
    }
    annotations.insert(
        "k3s.io/node-args".into(),
        json!(config.args).to_string().into(),
    );
    annotations.insert(
        "k3s.io/node-env".into(),
        Value::Object(env).to_string().into(),
    );
    annotations
}

/// The node as it is first created.
pub(crate) fn object(config: &NodeConfig, machine: &Machine, now: &str) -> Value {
    let mut taints: Vec<Value> = config.taints.iter().map(Taint::json).collect();
    taints.push(json!({ "key": NO_RUNTIME_TAINT, "value": "true", "effect": "NoSchedule" }));
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": config.name,
            "labels": labels(config, machine),
            "annotations": annotations(config),
        },
        "spec": { "providerID": format!("k3s://{}", config.name), "taints": taints },
        "status": status(config, machine, now),
    })
}

/// The node's status. `now` is RFC 3339 in seconds.
pub(crate) fn status(config: &NodeConfig, machine: &Machine, now: &str) -> Value {
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        })
    };
    let internal = config
        .internal_ips
        .iter()
        .map(|ip| ("InternalIP", ip.to_string()));
    let external = config
        .external_ips
        .iter()
        .map(|ip| ("ExternalIP", ip.to_string()));
    let addresses: Vec<Value> = internal
        .chain(external)
        .chain([("Hostname", config.host_name.clone())])
        .map(|(kind, address)| json!({ "type": kind, "address": address }))
        .collect();
    json!({
        "addresses": addresses,
        "capacity": machine.capacity(),
        "allocatable": machine.capacity(),
        "conditions": [condition("Ready", "True", "AgentReady", READY_MESSAGE)],
        "nodeInfo": machine.node_info(&config.version),
    })
}

/// Whether a stored node already says what [`status`], [`labels`] and [`annotations`] would.
/// Times are left out of the comparison: the lease is the heartbeat, the node is not rewritten
/// for it.
pub(crate) fn is_current(stored: &Value, config: &NodeConfig, machine: &Machine) -> bool {
    let wanted = status(config, machine, "");
    let ready = stored["status"]["conditions"]
        .as_array()
        .and_then(|conditions| {
            conditions
                .iter()
                .find(|condition| condition["type"] == "Ready")
        });
    let ready_as_wanted = ready.is_some_and(|ready| {
        let wanted = &wanted["conditions"][0];
        ["status", "reason", "message"]
            .iter()
            .all(|field| ready[field] == wanted[field])
    });
    ready_as_wanted
        && ["addresses", "capacity", "nodeInfo"]
            .iter()
            .all(|field| covers(&stored["status"][field], &wanted[field]))
        && covers(
            &stored["metadata"]["labels"],
            &Value::Object(labels(config, machine)),
        )
        && covers(
            &stored["metadata"]["annotations"],
            &Value::Object(annotations(config)),
        )
}

/// Whether `stored` holds everything in `wanted`; empty texts may have been dropped on the way.
fn covers(stored: &Value, wanted: &Value) -> bool {
    match wanted {
        Value::Object(wanted) => wanted.iter().all(|(key, value)| {
            covers(&stored[key], value) || (*value == json!("") && stored[key].is_null())
        }),
        wanted => stored == wanted,
    }
}

fn join(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(IpAddr::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config() -> NodeConfig {
        NodeConfig {
            name: "box".into(),
            host_name: "box".into(),
            internal_ips: vec!["10.0.0.1".parse().unwrap()],
            external_ips: Vec::new(),
            labels: vec![("a".into(), "b".into())],
            taints: vec![Taint::parse("x=y:NoExecute").unwrap()],
            args: vec!["agent".into()],
            env: Vec::new(),
            version: "v1.35.0+trivet1".into(),
        }
    }

    #[test]
    fn the_object_says_that_nothing_runs_here() {
        let node = object(
            &config(),
            &Machine::read(Path::new("/")),
            "2026-01-01T00:00:00Z",
        );
        assert_eq!(node["spec"]["taints"][1]["key"], NO_RUNTIME_TAINT);
        assert_eq!(
            node["spec"]["taints"][0],
            json!({"key":"x","value":"y","effect":"NoExecute"})
        );
        assert_eq!(node["metadata"]["labels"]["a"], "b");
        let message = node["status"]["conditions"][0]["message"].as_str().unwrap();
        assert!(message.contains("no container runtime"), "{message}");
        assert_eq!(node["status"]["addresses"][0]["address"], "10.0.0.1");
    }

    #[test]
    fn only_real_differences_count() {
        let (config, machine) = (config(), Machine::read(Path::new("/")));
        let mut node = object(&config, &machine, "2026-01-01T00:00:00Z");
        node["status"]["conditions"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "type": "EtcdIsVoter", "status": "True" }));
        node["metadata"]["labels"]["node-role.kubernetes.io/etcd"] = json!("true");
        assert!(is_current(&node, &config, &machine));
        node["status"]["conditions"][0]["status"] = json!("Unknown");
        assert!(!is_current(&node, &config, &machine));
        let mut moved = config.clone();
        moved.internal_ips = vec!["10.0.0.2".parse().unwrap()];
        assert!(!is_current(
            &object(&config, &machine, ""),
            &moved,
            &machine
        ));
    }

    #[test]
    fn labels_and_taints_are_checked() {
        assert_eq!(parse_label("a/b=c").unwrap(), ("a/b".into(), "c".into()));
        assert!(parse_label("a").is_err());
        assert!(parse_label("=b").is_err());
        assert!(parse_label("a=b c").is_err());
        assert_eq!(Taint::parse("k:NoSchedule").unwrap().value, "");
        assert!(Taint::parse("k").is_err());
        assert!(Taint::parse("k:Never").is_err());
        assert!(Taint::parse(":NoSchedule").is_err());
    }
}
