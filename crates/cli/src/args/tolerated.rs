//! Flags of K3s that concern what Trivet does not do (running containers, packaged add-ons).
//!
//! They are accepted, so that an existing unit file or config file starts, and a line in the
//! log says that they have no effect. Flags that would change where data lives or who may get
//! at it are *not* here: those are refused by name (see [`REFUSED`]).

use clap::Args;

/// Accepted without effect.
#[derive(Debug, Args)]
#[command(next_help_heading = "Accepted for compatibility, without effect")]
pub(crate) struct ToleratedArgs {
    #[arg(long, hide = true)]
    pub(crate) docker: bool,
    #[arg(long, hide = true, value_name = "SOCKET")]
    pub(crate) container_runtime_endpoint: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) pause_image: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) snapshotter: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) private_registry: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) flannel_iface: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) flannel_conf: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) resolv_conf: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) kubelet_arg: Vec<String>,
    #[arg(long, hide = true)]
    pub(crate) kube_proxy_arg: Vec<String>,
    #[arg(long, hide = true)]
    pub(crate) kube_apiserver_arg: Vec<String>,
    #[arg(long, hide = true)]
    pub(crate) kube_controller_manager_arg: Vec<String>,
    #[arg(long, hide = true)]
    pub(crate) kube_scheduler_arg: Vec<String>,
    #[arg(long, hide = true)]
    pub(crate) service_node_port_range: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) default_local_storage_path: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) disable_scheduler: bool,
    #[arg(long, hide = true)]
    pub(crate) disable_kube_proxy: bool,
    #[arg(long, hide = true)]
    pub(crate) protect_kernel_defaults: bool,
    #[arg(long, hide = true)]
    pub(crate) selinux: bool,
    #[arg(short = 'v', hide = true, value_name = "LEVEL")]
    pub(crate) v: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) vmodule: Option<String>,
}

impl ToleratedArgs {
    /// Names of the flags that were given.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        [
            ("--docker", self.docker),
            (
                "--container-runtime-endpoint",
                self.container_runtime_endpoint.is_some(),
            ),
            ("--pause-image", self.pause_image.is_some()),
            ("--snapshotter", self.snapshotter.is_some()),
            ("--private-registry", self.private_registry.is_some()),
            ("--flannel-iface", self.flannel_iface.is_some()),
            ("--flannel-conf", self.flannel_conf.is_some()),
            ("--resolv-conf", self.resolv_conf.is_some()),
            ("--kubelet-arg", !self.kubelet_arg.is_empty()),
            ("--kube-proxy-arg", !self.kube_proxy_arg.is_empty()),
            ("--kube-apiserver-arg", !self.kube_apiserver_arg.is_empty()),
            (
                "--kube-controller-manager-arg",
                !self.kube_controller_manager_arg.is_empty(),
            ),
            ("--kube-scheduler-arg", !self.kube_scheduler_arg.is_empty()),
            (
                "--service-node-port-range",
                self.service_node_port_range.is_some(),
            ),
            (
                "--default-local-storage-path",
                self.default_local_storage_path.is_some(),
            ),
            ("--disable-scheduler", self.disable_scheduler),
            ("--disable-kube-proxy", self.disable_kube_proxy),
            ("--protect-kernel-defaults", self.protect_kernel_defaults),
            ("--selinux", self.selinux),
            ("-v", self.v.is_some()),
            ("--vmodule", self.vmodule.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect()
    }
}

/// K3s flags that are not carried out yet and must not be ignored silently, with the reason.
pub(crate) const REFUSED: &[(&str, &str)] = &[
    (
        "cluster-reset",
        "resetting the membership is not available yet",
    ),
    (
        "cluster-reset-restore-path",
        "restoring snapshots is not available yet",
    ),
    (
        "datastore-endpoint",
        "external datastores are not available yet",
    ),
    (
        "datastore-cafile",
        "external datastores are not available yet",
    ),
    (
        "datastore-certfile",
        "external datastores are not available yet",
    ),
    (
        "datastore-keyfile",
        "external datastores are not available yet",
    ),
    (
        "secrets-encryption",
        "encryption of secrets at rest is not available yet",
    ),
    (
        "disable-etcd",
        "servers without a datastore member are not available yet",
    ),
    (
        "disable-apiserver",
        "servers without an API are not available yet",
    ),
    ("etcd-s3", "snapshots to S3 are not available yet"),
];

/// K3s's environment variables for settings of [`REFUSED`]. Ignoring one would start a cluster
/// beside the datastore that was meant.
const REFUSED_VARIABLES: &[(&str, &str)] = &[
    ("K3S_CLUSTER_RESET", "cluster-reset"),
    ("K3S_DATASTORE_ENDPOINT", "datastore-endpoint"),
    ("K3S_DATASTORE_CAFILE", "datastore-cafile"),
    ("K3S_DATASTORE_CERTFILE", "datastore-certfile"),
    ("K3S_DATASTORE_KEYFILE", "datastore-keyfile"),
    ("K3S_SECRETS_ENCRYPTION", "secrets-encryption"),
];

/// What is wrong with the environment of a server, if anything. The message names variables,
/// never their values: an endpoint may hold a password.
pub(crate) fn refused_variable(
    value_of: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Option<String> {
    let set = |name: &str| value_of(name).filter(|value| !off(value));
    for (variable, key) in REFUSED_VARIABLES {
        if set(variable).is_some() {
            let reason = REFUSED
                .iter()
                .find_map(|(refused, reason)| (refused == key).then_some(*reason))
                .unwrap_or("not available yet");
            return Some(format!(
                "{variable} is set in the environment: {reason}; unset it to start without"
            ));
        }
    }
    if set("K3S_CLUSTER_SECRET").is_some()
        && set("K3S_TOKEN").is_none()
        && set("K3S_TOKEN_FILE").is_none()
    {
        return Some(
            "K3S_CLUSTER_SECRET is the old name of the token: set K3S_TOKEN instead".into(),
        );
    }
    None
}

/// Empty, or a spelling of "no".
fn off(value: &std::ffi::OsStr) -> bool {
    value
        .to_str()
        .is_some_and(|text| matches!(text.to_ascii_lowercase().as_str(), "" | "0" | "f" | "false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)]) -> Option<String> {
        refused_variable(|name| {
            variables
                .iter()
                .find_map(|(set, value)| (*set == name).then(|| (*value).into()))
        })
    }

    #[test]
    fn a_refused_setting_is_refused_in_the_environment_too() {
        for (variable, key) in REFUSED_VARIABLES {
            assert!(REFUSED.iter().any(|(refused, _)| refused == key), "{key}");
            let message = check(&[(variable, "mysql://u:hunter2@h")]).expect("refused");
            assert!(message.starts_with(variable), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn what_is_switched_off_is_not_refused() {
        for value in ["", "false", "False", "0"] {
            assert_eq!(check(&[("K3S_CLUSTER_RESET", value)]), None);
        }
    }

    #[test]
    fn the_old_name_of_the_token_is_explained() {
        assert!(check(&[("K3S_CLUSTER_SECRET", "x")]).is_some());
        assert_eq!(
            check(&[("K3S_CLUSTER_SECRET", "x"), ("K3S_TOKEN", "y")]),
            None
        );
    }
}
