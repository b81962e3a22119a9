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
