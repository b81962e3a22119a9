//! Settings that all servers of a cluster must share.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Critical settings, as the flags have them. Defaults are K3s's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// `--cluster-cidr`
    pub cluster_cidr: Vec<String>,
    /// `--service-cidr`
    pub service_cidr: Vec<String>,
    /// `--cluster-dns`; empty means the tenth address of every service range.
    pub cluster_dns: Vec<String>,
    /// `--cluster-domain`
    pub cluster_domain: String,
    /// `--flannel-backend`
    pub flannel_backend: String,
    /// `--flannel-ipv6-masq`
    pub flannel_ipv6_masq: bool,
    /// `--flannel-external-ip`
    pub flannel_external_ip: bool,
    /// `--egress-selector-mode`
    pub egress_selector_mode: String,
    /// `--disable-cloud-controller`
    pub disable_cloud_controller: bool,
    /// `--disable-helm-controller`
    pub disable_helm_controller: bool,
    /// `--disable-network-policy`
    pub disable_network_policy: bool,
    /// `--disable servicelb`
    pub disable_service_lb: bool,
    /// `--secrets-encryption`
    pub secrets_encryption: bool,
    /// `--embedded-registry`
    pub embedded_registry: bool,
    /// `--supervisor-metrics`
    pub supervisor_metrics: bool,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            cluster_cidr: vec!["10.42.0.0/16".to_owned()],
            service_cidr: vec!["10.43.0.0/16".to_owned()],
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            flannel_backend: "vxlan".to_owned(),
            flannel_ipv6_masq: false,
            flannel_external_ip: false,
            egress_selector_mode: "agent".to_owned(),
            disable_cloud_controller: false,
            disable_helm_controller: false,
            disable_network_policy: false,
            disable_service_lb: false,
            secrets_encryption: false,
            embedded_registry: false,
            supervisor_metrics: false,
        }
    }
}

/// One flag that differs between two servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingDifference {
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// Value on this server.
    pub ours: String,
    /// Value in the cluster.
    pub theirs: String,
}

impl std::fmt::Display for SettingDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} is {:?} here but {:?} in the cluster",
            self.flag, self.ours, self.theirs
        )
    }
}

impl ClusterSettings {
    /// The same settings with what follows from others filled in, and ranges without host bits.
    /// Errors name the flag.
    pub fn normalized(mut self) -> Result<Self, String> {
        for (flag, list) in [
            ("--cluster-cidr", &mut self.cluster_cidr),
            ("--service-cidr", &mut self.service_cidr),
        ] {
            if list.is_empty() {
                return Err(format!("{flag} must not be empty"));
            }
            for text in list.iter_mut() {
                let range = Cidr::parse(text)
                    .ok_or_else(|| format!("{flag}: {text:?} is not an address range"))?;
                *text = range.to_string();
            }
        }
        if self.cluster_dns.is_empty() {
            let tenth = |text: &String| Cidr::parse(text).and_then(|range| range.address(10));
            self.cluster_dns = self
                .service_cidr
                .iter()
                .filter_map(tenth)
                .map(|address| address.to_string())
                .collect();
        }
        for text in &self.cluster_dns {
            let _: std::net::IpAddr = text
                .parse()
                .map_err(|_| format!("--cluster-dns: {text:?} is not an address"))?;
        }
        Ok(self)
    }

    /// The address of the service `kubernetes`: the first of every service range.
    pub fn service_ips(&self) -> Vec<std::net::IpAddr> {
        self.service_cidr
            .iter()
            .filter_map(|text| Cidr::parse(text)?.address(1))
            .collect()
    }

    /// Every flag whose value differs.
    pub fn differences(&self, theirs: &Self) -> Vec<SettingDifference> {
        let (ours, theirs) = (self.flags(), theirs.flags());
        ours.into_iter()
            .zip(theirs)
            .filter(|((_, a), (_, b))| a != b)
            .map(|((flag, ours), (_, theirs))| SettingDifference { flag, ours, theirs })
            .collect()
    }

    fn flags(&self) -> Vec<(&'static str, String)> {
        vec![
            ("--cluster-cidr", self.cluster_cidr.join(",")),
            ("--service-cidr", self.service_cidr.join(",")),
            ("--cluster-dns", self.cluster_dns.join(",")),
            ("--cluster-domain", self.cluster_domain.clone()),
            ("--flannel-backend", self.flannel_backend.clone()),
            ("--flannel-ipv6-masq", self.flannel_ipv6_masq.to_string()),
            (
                "--flannel-external-ip",
                self.flannel_external_ip.to_string(),
            ),
            ("--egress-selector-mode", self.egress_selector_mode.clone()),
            (
                "--disable-cloud-controller",
                self.disable_cloud_controller.to_string(),
            ),
            (
                "--disable-helm-controller",
                self.disable_helm_controller.to_string(),
            ),
            (
                "--disable-network-policy",
                self.disable_network_policy.to_string(),
            ),
            ("--disable=servicelb", self.disable_service_lb.to_string()),
            ("--secrets-encryption", self.secrets_encryption.to_string()),
            ("--embedded-registry", self.embedded_registry.to_string()),
            ("--supervisor-metrics", self.supervisor_metrics.to_string()),
        ]
    }

    /// The document of `/v1-k3s/config`: K3s's field names, ranges as Go encodes them.
    pub fn to_wire(&self) -> Value {
        let nets = |list: &[String]| {
            list.iter()
                .filter_map(|text| Some(Cidr::parse(text)?.to_wire()))
                .collect::<Vec<_>>()
        };
        let (cluster, service) = (nets(&self.cluster_cidr), nets(&self.service_cidr));
        json!({
            "ClusterIPRange": cluster.first(),
            "ClusterIPRanges": cluster,
            "ServiceIPRange": service.first(),
            "ServiceIPRanges": service,
            "ClusterDNS": self.cluster_dns.first(),
            "ClusterDNSs": self.cluster_dns,
            "ClusterDomain": self.cluster_domain,
            "FlannelBackend": self.flannel_backend,
            "FlannelIPv6Masq": self.flannel_ipv6_masq,
            "FlannelExternalIP": self.flannel_external_ip,
            "EgressSelectorMode": self.egress_selector_mode,
            "DisableCCM": self.disable_cloud_controller,
            "DisableHelmController": self.disable_helm_controller,
            "DisableNPC": self.disable_network_policy,
            "DisableServiceLB": self.disable_service_lb,
            "EncryptSecrets": self.secrets_encryption,
            "EmbeddedRegistry": self.embedded_registry,
            "SupervisorMetrics": self.supervisor_metrics,
        })
    }

    /// Reads what [`ClusterSettings::to_wire`] wrote; unknown fields are ignored.
    pub fn from_wire(value: Value) -> Result<Self, serde_json::Error> {
        let wire: Wire = serde_json::from_value(value)?;
        let nets = |list: Vec<WireNet>| {
            list.iter()
                .filter_map(|net| Some(Cidr::from_wire(net)?.to_string()))
                .collect()
        };
        Ok(Self {
            cluster_cidr: nets(wire.cluster_ranges),
            service_cidr: nets(wire.service_ranges),
            cluster_dns: wire.cluster_dns,
            cluster_domain: wire.cluster_domain,
            flannel_backend: wire.flannel_backend,
            flannel_ipv6_masq: wire.flannel_ipv6_masq,
            flannel_external_ip: wire.flannel_external_ip,
            egress_selector_mode: wire.egress_selector_mode,
            disable_cloud_controller: wire.disable_ccm,
            disable_helm_controller: wire.disable_helm_controller,
            disable_network_policy: wire.disable_npc,
            disable_service_lb: wire.disable_service_lb,
            secrets_encryption: wire.encrypt_secrets,
            embedded_registry: wire.embedded_registry,
            supervisor_metrics: wire.supervisor_metrics,
        })
    }
}

#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "ClusterIPRanges")]
    cluster_ranges: Vec<WireNet>,
    #[serde(rename = "ServiceIPRanges")]
    service_ranges: Vec<WireNet>,
    #[serde(rename = "ClusterDNSs")]
    cluster_dns: Vec<String>,
    #[serde(rename = "ClusterDomain")]
    cluster_domain: String,
    #[serde(rename = "FlannelBackend", default)]
    flannel_backend: String,
    #[serde(rename = "FlannelIPv6Masq", default)]
    flannel_ipv6_masq: bool,
    #[serde(rename = "FlannelExternalIP", default)]
    flannel_external_ip: bool,
    #[serde(rename = "EgressSelectorMode", default)]
    egress_selector_mode: String,
    #[serde(rename = "DisableCCM", default)]
    disable_ccm: bool,
    #[serde(rename = "DisableHelmController", default)]
    disable_helm_controller: bool,
    #[serde(rename = "DisableNPC", default)]
    disable_npc: bool,
    #[serde(rename = "DisableServiceLB", default)]
    disable_service_lb: bool,
    #[serde(rename = "EncryptSecrets", default)]
    encrypt_secrets: bool,
    #[serde(rename = "EmbeddedRegistry", default)]
    embedded_registry: bool,
    #[serde(rename = "SupervisorMetrics", default)]
    supervisor_metrics: bool,
}

#[derive(Serialize, Deserialize)]
struct WireNet {
    #[serde(rename = "IP")]
    ip: String,
    #[serde(rename = "Mask")]
    mask: String,
}

/// An address range: network address as bits (IPv4 in the low 32) and prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cidr {
    bits: u128,
    v4: bool,
    prefix: u32,
}

impl Cidr {
    fn width(v4: bool) -> u32 {
        if v4 { 32 } else { 128 }
    }

    fn new(address: std::net::IpAddr, prefix: u32) -> Option<Self> {
        let (bits, v4) = match address {
            std::net::IpAddr::V4(address) => (u128::from(u32::from(address)), true),
            std::net::IpAddr::V6(address) => (u128::from(address), false),
        };
        let host = Self::width(v4).checked_sub(prefix)?;
        let mask = u128::MAX.checked_shl(host).unwrap_or(0);
        Some(Self {
            bits: bits & mask,
            v4,
            prefix,
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.trim().split_once('/')?;
        Self::new(address.parse().ok()?, prefix.parse().ok()?)
    }

    /// The n-th address of the range.
    fn address(self, n: u32) -> Option<std::net::IpAddr> {
        let host = Self::width(self.v4) - self.prefix;
        if host < 32 && u64::from(n) >= 1u64 << host {
            return None;
        }
        let bits = self.bits + u128::from(n);
        Some(if self.v4 {
            std::net::Ipv4Addr::from(bits as u32).into()
        } else {
            std::net::Ipv6Addr::from(bits).into()
        })
    }

    /// As Go encodes a `net.IPNet`: the address as text, the mask as base64 of its bytes.
    fn to_wire(self) -> WireNet {
        let host = Self::width(self.v4) - self.prefix;
        let mask = u128::MAX.checked_shl(host).unwrap_or(0);
        let mask = if self.v4 {
            (mask as u32).to_be_bytes().to_vec()
        } else {
            mask.to_be_bytes().to_vec()
        };
        let ip = self
            .address(0)
            .map(|address| address.to_string())
            .unwrap_or_default();
        WireNet {
            ip,
            mask: STANDARD.encode(mask),
        }
    }

    fn from_wire(wire: &WireNet) -> Option<Self> {
        let prefix = STANDARD
            .decode(&wire.mask)
            .ok()?
            .iter()
            .map(|byte| byte.leading_ones())
            .sum();
        Self::new(wire.ip.parse().ok()?, prefix)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address(0) {
            Some(address) => write!(f, "{address}/{}", self.prefix),
            None => write!(f, "?/{}", self.prefix),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn defaults_follow_from_the_service_range() {
        let settings = ClusterSettings::default().normalized().unwrap();
        assert_eq!(settings.cluster_dns, ["10.43.0.10"]);
        assert_eq!(
            settings.service_ips(),
            ["10.43.0.1".parse::<std::net::IpAddr>().unwrap()]
        );
    }

    #[test]
    fn the_wire_form_is_read_back() {
        let settings = ClusterSettings {
            cluster_cidr: vec!["10.1.2.3/16".to_owned(), "fd00:42::/56".to_owned()],
            disable_service_lb: true,
            ..ClusterSettings::default()
        }
        .normalized()
        .unwrap();
        assert_eq!(settings.cluster_cidr[0], "10.1.0.0/16");
        let wire = settings.to_wire();
        assert_eq!(
            wire["ClusterIPRange"],
            json!({"IP": "10.1.0.0", "Mask": "//8AAA=="})
        );
        assert_eq!(ClusterSettings::from_wire(wire).unwrap(), settings);
        assert!(ClusterSettings::from_wire(json!({})).is_err());
    }

    #[test]
    fn differences_name_the_flag() {
        let ours = ClusterSettings {
            cluster_cidr: vec!["10.9.0.0/16".to_owned()],
            ..ClusterSettings::default()
        };
        let found = ours.differences(&ClusterSettings::default());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].flag, "--cluster-cidr");
        assert!(ours.differences(&ours).is_empty());
    }

    #[test]
    fn bad_ranges_are_refused() {
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "::/129"] {
            let settings = ClusterSettings {
                service_cidr: vec![bad.to_owned()],
                ..ClusterSettings::default()
            };
            assert!(
                settings
                    .normalized()
                    .unwrap_err()
                    .contains("--service-cidr"),
                "{bad}"
            );
        }
        assert_eq!(Cidr::parse("0.0.0.0/0").unwrap().to_string(), "0.0.0.0/0");
        assert_eq!(Cidr::parse("::/0").unwrap().to_string(), "::/0");
        assert_eq!(Cidr::parse("10.0.0.1/32").unwrap().address(1), None);
    }
}
