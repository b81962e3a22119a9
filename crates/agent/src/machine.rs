//! What the machine under this node is: read from the kernel, never invented.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use serde_json::{Value, json};

/// Pods a node takes by default in Kubernetes; reported for schedulers that divide by it.
const PODS: u32 = 110;

/// Facts for `status.nodeInfo`, `capacity` and `addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Logical processors this process may use.
    pub cpus: usize,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// Size of the file system that holds the data directory, in KiB.
    pub storage_kib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Distribution's own name for itself.
    pub os_image: String,
    /// Architecture in Go's words (`amd64`, `arm64`).
    pub architecture: &'static str,
    /// `/etc/machine-id`, empty where there is none.
    pub machine_id: String,
    /// Identity of the current boot.
    pub boot_id: String,
}

impl Machine {
    /// Reads the facts; what cannot be read is empty or zero.
    pub fn read(data_dir: &Path) -> Self {
        let kernel = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_kib: memory_kib(&read("/proc/meminfo")).unwrap_or(0),
            storage_kib: storage_kib(data_dir),
            kernel,
            os_image: os_image(&read("/etc/os-release")),
            architecture: architecture(std::env::consts::ARCH),
            machine_id: read("/etc/machine-id").trim().to_owned(),
            boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        }
    }

    /// `status.capacity`.
    pub fn capacity(&self) -> Value {
        json!({
            "cpu": self.cpus.to_string(),
            "memory": format!("{}Ki", self.memory_kib),
            "ephemeral-storage": format!("{}Ki", self.storage_kib),
            "pods": PODS.to_string(),
        })
    }

    /// `status.nodeInfo`. There is no container runtime, so none is named.
    pub fn node_info(&self, version: &str) -> Value {
        json!({
            "machineID": self.machine_id,
            "systemUUID": self.machine_id,
            "bootID": self.boot_id,
            "kernelVersion": self.kernel,
            "osImage": self.os_image,
            "containerRuntimeVersion": "none",
            "kubeletVersion": version,
            "kubeProxyVersion": "",
            "operatingSystem": std::env::consts::OS,
            "architecture": self.architecture,
        })
    }
}

/// The host name, lower case and without its domain, as node names want it.
pub fn host_name() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_lowercase();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// The address this machine would use to reach others; loopback when it has no network.
///
/// A datagram socket is connected, which asks the kernel's routing table and sends nothing.
pub fn default_address() -> IpAddr {
    let routes: [(SocketAddr, SocketAddr); 2] = [
        (
            (Ipv4Addr::UNSPECIFIED, 0).into(),
            (Ipv4Addr::new(192, 0, 2, 1), 9).into(),
        ),
        (
            (Ipv6Addr::UNSPECIFIED, 0).into(),
            (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
        ),
    ];
    for (local, remote) in routes {
        let found = UdpSocket::bind(local)
            .and_then(|socket| socket.connect(remote).and_then(|()| socket.local_addr()));
        if let Ok(address) = found
            && !address.ip().is_unspecified()
        {
            return address.ip();
        }
    }
    Ipv4Addr::LOCALHOST.into()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn memory_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn storage_kib(dir: &Path) -> u64 {
    let existing = dir
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    rustix::fs::statvfs(existing)
        .map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize) / 1024)
}

fn os_image(os_release: &str) -> String {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(
            || "Linux".to_owned(),
            |name| name.trim_matches('"').to_owned(),
        )
}

fn architecture(rust_name: &'static str) -> &'static str {
    match rust_name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "riscv64gc" => "riscv64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_facts() {
        let machine = Machine::read(Path::new("/nowhere/below/root"));
        assert!(machine.cpus >= 1);
        assert!(machine.memory_kib > 1024);
        assert!(machine.storage_kib > 1024);
        assert!(!machine.kernel.is_empty());
        assert_eq!(machine.capacity()["pods"], "110");
    }

    #[test]
    fn files_of_the_kernel_are_understood() {
        assert_eq!(
            memory_kib("MemFree: 1 kB\nMemTotal:       2048 kB\n"),
            Some(2048)
        );
        assert_eq!(memory_kib(""), None);
        assert_eq!(os_image("ID=x\nPRETTY_NAME=\"Some OS 1\"\n"), "Some OS 1");
        assert_eq!(os_image(""), "Linux");
    }
}
