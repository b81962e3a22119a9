//! What is tested where.

/// A selection of tests: executables by crate, and within them by name.
pub(crate) struct Cell {
    pub(crate) backend: &'static str,
    pub(crate) topology: &'static str,
    pub(crate) suite: &'static str,
    pub(crate) select: Select,
}

/// Which tests make up a cell.
pub(crate) enum Select {
    /// Every test of these crates, except of cells that name their tests.
    Crates(&'static [&'static str]),
    /// Tests of one target (`crate`, `target`) whose names begin with one of these; all of them
    /// where none is given.
    Named {
        package: &'static str,
        target: &'static str,
        prefixes: &'static [&'static str],
    },
    /// The examples in the documentation.
    Doc,
    /// A cargo command that must succeed; counts as one test.
    Cargo(&'static [&'static str]),
    /// The project's own rules; counts as one test.
    Rules,
}

impl Cell {
    pub(crate) fn name(&self) -> String {
        format!("{}/{}/{}", self.backend, self.topology, self.suite)
    }
}

/// Every cell, quick ones first.
pub(crate) fn all() -> Vec<Cell> {
    use Select::{Cargo, Crates, Doc, Named, Rules};
    let cell = |backend, topology, suite, select| Cell {
        backend,
        topology,
        suite,
        select,
    };
    let etcd = |prefixes| Named {
        package: "trivet-store-etcd",
        target: "it",
        prefixes,
    };
    let scenario = |prefixes| Named {
        package: "trivet-cli",
        target: "cluster",
        prefixes,
    };
    vec![
        cell("-", "-", "project rules", Rules),
        cell("-", "-", "formatting", Cargo(&["fmt", "--all", "--check"])),
        cell(
            "-",
            "-",
            "lints",
            Cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ]),
        ),
        cell(
            "-",
            "-",
            "rustdoc",
            Cargo(&["doc", "--workspace", "--no-deps", "--locked", "--quiet"]),
        ),
        cell(
            "-",
            "-",
            "formats and algebra",
            Crates(&[
                "trivet-env",
                "trivet-sim",
                "trivet-kube-schema",
                "trivet-mvcc",
                "base2histogram",
                "trivet-bbolt",
            ]),
        ),
        cell("-", "-", "mutated inputs", Crates(&["trivet-fuzz"])),
        cell("-", "-", "legacy data", Crates(&["trivet-legacy-reader"])),
        cell("-", "-", "log and crashes", Crates(&["trivet-wal"])),
        cell(
            "-",
            "-",
            "testers of the tests",
            Crates(&["trivet-datastore-testkit"]),
        ),
        cell(
            "-",
            "-",
            "identity and transport",
            Crates(&["trivet-pki", "trivet-https", "trivet-join"]),
        ),
        cell(
            "-",
            "-",
            "agent and command line",
            Crates(&["trivet-agent", "trivet-cli", "xtask"]),
        ),
        cell("-", "-", "cloud-init", Crates(&["trivet-cloudinit"])),
        cell("-", "-", "users and roles", Crates(&["trivet-etcd-auth"])),
        cell("-", "-", "JSON gateway", Crates(&["trivet-etcd-gateway"])),
        cell("-", "-", "documentation", Doc),
        cell("memory", "1", "conformance", Crates(&["trivet-datastore"])),
        cell(
            "memory",
            "1 and 2",
            "Kubernetes API",
            Crates(&["trivet-apiserver"]),
        ),
        cell(
            "memory",
            "1",
            "embedding and joins",
            Crates(&["trivet-core"]),
        ),
        cell(
            "-",
            "3",
            "consensus and faults",
            Crates(&["trivet-raft-node"]),
        ),
        cell(
            "etcd",
            "1",
            "state and formats",
            Crates(&["trivet-store-etcd"]),
        ),
        cell(
            "etcd",
            "1",
            "conformance",
            etcd(&["conformance::one_member::"]),
        ),
        cell(
            "etcd",
            "3",
            "conformance",
            etcd(&["conformance::three_members::"]),
        ),
        cell(
            "etcd",
            "1 and 3",
            "etcd clients",
            etcd(&[
                "backend::",
                "cluster::",
                "divergences::",
                "etcdctl::",
                "kubernetes::",
                "kv::",
                "lease::",
                "python::",
                "tour::",
                "traps::",
                "watch::",
                "hostile::",
            ]),
        ),
        cell(
            "etcd",
            "1 and 3",
            "users, locks, HTTP",
            etcd(&[
                "auth::",
                "election::",
                "gateway::",
                "health::",
                "http::",
                "lock::",
            ]),
        ),
        cell(
            "etcd",
            "1 and 3",
            "limits and full disks",
            etcd(&["full_disk::", "limits::"]),
        ),
        cell(
            "etcd",
            "1 and 2",
            "snapshots and imports",
            etcd(&["import::", "snapshot::"]),
        ),
        cell(
            "etcd",
            "1",
            "beside a genuine etcd",
            Crates(&["trivet-etcd-diff"]),
        ),
        cell(
            "etcd",
            "1 and 3",
            "power loss",
            Named {
                package: "trivet-store-etcd",
                target: "power_loss",
                prefixes: &[],
            },
        ),
        cell(
            "etcd",
            "1 and 3",
            "damage and healing",
            Named {
                package: "trivet-store-etcd",
                target: "healing",
                prefixes: &[],
            },
        ),
        cell(
            "etcd",
            "3",
            "members come and go",
            Named {
                package: "trivet-store-etcd",
                target: "churn",
                prefixes: &[],
            },
        ),
        cell(
            "etcd",
            "1 to 4",
            "trivet etcd",
            Named {
                package: "trivet-cli",
                target: "etcd",
                prefixes: &[],
            },
        ),
        cell(
            "etcd",
            "3 and agent",
            "the exercise",
            scenario(&["exercise::"]),
        ),
        cell("etcd", "1", "kubectl", scenario(&["kubectl::"])),
        cell("etcd", "3", "etcdctl", scenario(&["etcd::"])),
        cell(
            "etcd",
            "1 and 2",
            "joins and guard",
            scenario(&["join_failures::", "guard::", "import::"]),
        ),
        cell("etcd", "3", "leader killed", scenario(&["failover::"])),
        cell("etcd", "3", "quorum lost", scenario(&["quorum::"])),
        cell(
            "etcd",
            "3 and agent",
            "boot in every order",
            scenario(&["boot::"]),
        ),
        cell("etcd", "3 and agent", "agents", scenario(&["agents::"])),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A crate that nobody lists would never be tested.
    #[test]
    fn every_crate_with_tests_has_a_cell() {
        let listed: BTreeSet<String> = all()
            .iter()
            .flat_map(|cell| match cell.select {
                Select::Crates(crates) => crates.to_vec(),
                Select::Named { package, .. } => vec![package],
                Select::Doc | Select::Cargo(_) | Select::Rules => Vec::new(),
            })
            .map(str::to_owned)
            .collect();
        let crates = crate::build::root().join("crates");
        for entry in std::fs::read_dir(crates).expect("the workspace has crates") {
            let name = entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned();
            // These two are tools without tests of their own.
            if !matches!(name.as_str(), "harness" | "bench") {
                assert!(
                    listed.contains(&format!("trivet-{name}")),
                    "crates/{name} is in no cell"
                );
            }
        }
    }
}
