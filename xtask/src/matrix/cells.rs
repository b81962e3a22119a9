//! What is tested where.

/// One run of cargo test.
pub(crate) struct Cell {
    pub(crate) backend: &'static str,
    pub(crate) topology: &'static str,
    pub(crate) suite: &'static str,
    /// Arguments after `cargo test`.
    arguments: &'static [&'static str],
}

impl Cell {
    pub(crate) fn name(&self) -> String {
        format!("{}/{}/{}", self.backend, self.topology, self.suite)
    }

    pub(crate) fn cargo_arguments(&self) -> impl Iterator<Item = &'static str> {
        ["test", "--locked", "--quiet"]
            .into_iter()
            .chain(self.arguments.iter().copied())
    }
}

/// Every cell, quick ones first.
pub(crate) fn all() -> Vec<Cell> {
    let cell = |backend, topology, suite, arguments| Cell {
        backend,
        topology,
        suite,
        arguments,
    };
    vec![
        cell(
            "-",
            "-",
            "unit and behaviour",
            &["--workspace", "--exclude", "trivet-cli"],
        ),
        cell("-", "-", "command line", &["-p", "trivet-cli", "--bins"]),
        cell(
            "etcd",
            "1 and 3",
            "cluster scenarios",
            &["--release", "-p", "trivet-cli", "--test", "cluster"],
        ),
    ]
}
