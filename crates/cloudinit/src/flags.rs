//! The flags K3s takes, so that a misspelt one is found before the node starts.

use crate::spelling::nearest;

/// Who takes a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taker {
    Both,
    Server,
    Agent,
}

/// A flag without its dashes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) taker: Taker,
    pub(crate) takes_value: bool,
}

/// Flags with a value that servers and agents take.
const BOTH_VALUE: &str = "config v vmodule log token token-file server data-dir node-name \
    node-label node-taint image-credential-provider-bin-dir image-credential-provider-config \
    lb-server-port container-runtime-endpoint default-runtime image-service-endpoint pause-image \
    snapshotter private-registry system-default-registry airgap-extra-registry node-ip \
    bind-address node-external-ip node-internal-dns node-external-dns resolv-conf flannel-iface \
    flannel-conf flannel-cni-conf vpn-auth vpn-auth-file kubelet-arg kube-proxy-arg \
    nonroot-devices log-format node-identity-dir";
/// Flags without a value that servers and agents take.
const BOTH_SWITCH: &str = "debug alsologtostderr with-node-id selinux protect-kernel-defaults \
    docker disable-default-registry-endpoint enable-pprof rootless prefer-bundled-bin";
const SERVER_VALUE: &str = "https-listen-port supervisor-port apiserver-port \
    apiserver-bind-address advertise-address advertise-port tls-san cluster-cidr service-cidr \
    service-node-port-range cluster-dns cluster-domain flannel-backend egress-selector-mode \
    servicelb-namespace write-kubeconfig write-kubeconfig-mode write-kubeconfig-group \
    helm-job-image agent-token agent-token-file cluster-reset-restore-path kube-apiserver-arg \
    etcd-arg kube-controller-manager-arg kube-scheduler-arg kube-cloud-controller-manager-arg \
    datastore-endpoint datastore-cafile datastore-certfile datastore-keyfile etcd-snapshot-name \
    etcd-snapshot-schedule-cron etcd-snapshot-reconcile-interval etcd-snapshot-retention \
    etcd-snapshot-dir etcd-s3-endpoint etcd-s3-endpoint-ca etcd-s3-access-key \
    etcd-s3-secret-key etcd-s3-session-token etcd-s3-bucket etcd-s3-bucket-lookup-type \
    etcd-s3-region etcd-s3-folder etcd-s3-proxy etcd-s3-config-secret etcd-s3-timeout \
    etcd-s3-retention default-local-storage-path disable secrets-encryption-provider datastore \
    heartbeat-interval election-timeout join-timeout";
const SERVER_SWITCH: &str = "tls-san-security flannel-ipv6-masq flannel-external-ip \
    cluster-init cluster-reset kine-tls etcd-expose-metrics etcd-disable-snapshots \
    etcd-snapshot-compress etcd-s3 etcd-s3-skip-ssl-verify etcd-s3-insecure disable-scheduler \
    disable-cloud-controller disable-kube-proxy disable-network-policy disable-helm-controller \
    disable-apiserver disable-controller-manager disable-etcd embedded-registry \
    supervisor-metrics secrets-encryption disable-agent";
const AGENT_VALUE: &str = "lb-bind-address";
const AGENT_SWITCH: &str = "disable-apiserver-lb";

const SHORT: &[(&str, &str)] = &[
    ("c", "config"),
    ("l", "log"),
    ("t", "token"),
    ("s", "server"),
    ("d", "data-dir"),
    ("i", "node-ip"),
    ("o", "write-kubeconfig"),
];

/// Flags that are gone, with what took their place.
const REMOVED: &[(&str, &str)] = &[
    ("no-deploy", "--disable"),
    ("cluster-secret", "--token"),
    ("no-flannel", "--flannel-backend=none"),
    ("kube-controller-arg", "--kube-controller-manager-arg"),
    (
        "kube-cloud-controller-arg",
        "--kube-cloud-controller-manager-arg",
    ),
    ("storage-endpoint", "--datastore-endpoint"),
    ("storage-cafile", "--datastore-cafile"),
    ("storage-certfile", "--datastore-certfile"),
    ("storage-keyfile", "--datastore-keyfile"),
    ("storage-backend", "--datastore-endpoint"),
    ("bootstrap", "--cluster-init"),
    ("disable-selinux", "--selinux=false"),
    ("multi-cluster-cidr", ""),
    ("etcd-s3-insecure-skip-verify", "--etcd-s3-skip-ssl-verify"),
];

/// Flags whose value is a secret.
const SECRET: &[&str] = &[
    "token",
    "agent-token",
    "cluster-secret",
    "etcd-s3-secret-key",
    "etcd-s3-session-token",
    "datastore-endpoint",
    "vpn-auth",
];

fn all() -> impl Iterator<Item = Flag> {
    [
        (BOTH_VALUE, Taker::Both, true),
        (BOTH_SWITCH, Taker::Both, false),
        (SERVER_VALUE, Taker::Server, true),
        (SERVER_SWITCH, Taker::Server, false),
        (AGENT_VALUE, Taker::Agent, true),
        (AGENT_SWITCH, Taker::Agent, false),
    ]
    .into_iter()
    .flat_map(|(names, taker, takes_value)| {
        names.split_ascii_whitespace().map(move |name| Flag {
            name,
            taker,
            takes_value,
        })
    })
}

/// A flag by its name without dashes, long or short.
pub(crate) fn find(name: &str) -> Option<Flag> {
    let long = SHORT
        .iter()
        .find(|(short, _)| *short == name)
        .map_or(name, |(_, long)| long);
    all().find(|flag| flag.name == long)
}

/// What took the place of a removed flag; empty if nothing did.
pub(crate) fn removed(name: &str) -> Option<&'static str> {
    REMOVED
        .iter()
        .find(|(old, _)| *old == name)
        .map(|(_, new)| *new)
}

/// The flag that was probably meant.
pub(crate) fn suggest(name: &str) -> Option<&'static str> {
    let folded = name.replace('_', "-");
    if let Some(flag) = find(&folded) {
        return Some(flag.name);
    }
    nearest(&folded, all().map(|flag| flag.name))
}

/// Whether the value of a flag (without dashes) is a secret.
pub(crate) fn is_secret(name: &str) -> bool {
    let long = SHORT
        .iter()
        .find(|(short, _)| *short == name)
        .map_or(name, |(_, long)| long);
    SECRET.contains(&long)
}

/// A word cut into a flag's name and the value behind its `=`; `None` if it is no flag.
pub(crate) fn split(word: &str) -> Option<(&str, Option<&str>)> {
    let name = word
        .strip_prefix("--")
        .or_else(|| word.strip_prefix('-'))
        .filter(|name| !name.is_empty())?;
    Some(match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    })
}

/// Values of a flag in a command line, in order, with the index of the word that names it. A
/// switch has the value `true`.
pub(crate) fn values<'a>(words: &'a [String], wanted: &str) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    let mut index = 0;
    while index < words.len() {
        let at = index;
        index += 1;
        let Some((name, inline)) = split(&words[at]) else {
            continue;
        };
        let Some(flag) = find(name) else { continue };
        let value = match inline {
            Some(value) => value,
            None if flag.takes_value => {
                let value = words.get(index).map_or("", String::as_str);
                index += 1;
                value
            }
            None => "true",
        };
        if flag.name == wanted {
            found.push((at, value));
        }
    }
    found
}

/// Whether a switch is on.
pub(crate) fn is_on(words: &[String], wanted: &str) -> Option<usize> {
    values(words, wanted)
        .last()
        .filter(|(_, value)| !matches!(*value, "false" | "0" | "no" | "off" | "f" | "F"))
        .map(|(index, _)| *index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_follow_both_forms() {
        let words: Vec<String> = [
            "server",
            "--tls-san",
            "--node-name",
            "--tls-san=b",
            "--cluster-init",
            "-t",
            "x",
        ]
        .map(String::from)
        .to_vec();
        assert_eq!(values(&words, "tls-san"), [(1, "--node-name"), (3, "b")]);
        assert_eq!(values(&words, "token"), [(5, "x")]);
        assert!(values(&words, "node-name").is_empty());
        assert_eq!(is_on(&words, "cluster-init"), Some(4));
        assert_eq!(
            is_on(&["--cluster-init=false".into()], "cluster-init"),
            None
        );
    }

    #[test]
    fn no_flag_stands_twice() {
        let mut names: Vec<_> = all().map(|flag| flag.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
