//! etcd's flags: one table, read the way Go reads flags.
//!
//! One dash or two, the value behind `=` or as the next word, switches alone or with a value.
//! Every flag is also an environment variable (`--data-dir`, `ETCD_DATA_DIR`); the flag wins.

use std::collections::BTreeMap;

use Effect::{Ignored, Refused, Used};
use Kind::{Switch, Value};

/// Whether a flag may stand alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Switch,
    Value,
}

/// What becomes of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It does what it does in etcd.
    Used,
    /// It concerns something inside etcd that is not there, or not settable, here.
    Ignored,
    /// Ignoring it would surprise; the reason. An empty or false value is let pass.
    Refused(&'static str),
}

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) effect: Effect,
    /// What `--help` says.
    pub(super) help: &'static str,
}

const fn flag(name: &'static str, kind: Kind, effect: Effect, help: &'static str) -> Flag {
    Flag {
        name,
        kind,
        effect,
        help,
    }
}

const DISCOVERY: Effect = Refused("discovery services are not available; use --initial-cluster");
const TRACING: Effect = Ignored;

/// All flags, by the headings of `--help`.
pub(super) const SECTIONS: &[(&str, &[Flag])] = &[
    (
        "Member",
        &[
            flag(
                "name",
                Value,
                Used,
                "Name of this member, for people [default].",
            ),
            flag(
                "data-dir",
                Value,
                Used,
                "Where the data lies [${name}.etcd].",
            ),
            flag(
                "listen-peer-urls",
                Value,
                Used,
                "Where peers connect to [http://localhost:2380].",
            ),
            flag(
                "listen-client-urls",
                Value,
                Used,
                "Where clients connect to [http://localhost:2379].",
            ),
            flag(
                "listen-client-http-urls",
                Value,
                Used,
                "Where clients get everything but gRPC, if not at --listen-client-urls.",
            ),
            flag(
                "heartbeat-interval",
                Value,
                Used,
                "Milliseconds between heartbeats of a leader [100].",
            ),
            flag(
                "election-timeout",
                Value,
                Used,
                "Milliseconds without a leader before an election [1000].",
            ),
            flag(
                "wal-dir",
                Value,
                Refused("log and state share one directory: use --data-dir"),
                "",
            ),
            flag("snapshot-count", Value, Ignored, ""),
            flag("snapshot-catchup-entries", Value, Ignored, ""),
            flag("initial-election-tick-advance", Switch, Ignored, ""),
            flag("max-snapshots", Value, Ignored, ""),
            flag("max-wals", Value, Ignored, ""),
            flag(
                "quota-backend-bytes",
                Value,
                Ignored,
                "Size of the data from which writes are refused.",
            ),
            flag("backend-bbolt-freelist-type", Value, Ignored, ""),
            flag("backend-batch-interval", Value, Ignored, ""),
            flag("backend-batch-limit", Value, Ignored, ""),
            flag(
                "max-txn-ops",
                Value,
                Ignored,
                "Most operations in a transaction [128].",
            ),
            flag(
                "max-request-bytes",
                Value,
                Ignored,
                "Largest request [1572864].",
            ),
            flag("max-concurrent-streams", Value, Ignored, ""),
            flag("grpc-keepalive-min-time", Value, Ignored, ""),
            flag("grpc-keepalive-interval", Value, Ignored, ""),
            flag("grpc-keepalive-timeout", Value, Ignored, ""),
            flag("socket-reuse-port", Switch, Ignored, ""),
            flag("socket-reuse-address", Switch, Ignored, ""),
            flag("raft-read-timeout", Value, Ignored, ""),
            flag("raft-write-timeout", Value, Ignored, ""),
            flag("set-member-localaddr", Switch, Ignored, ""),
        ],
    ),
    (
        "Clustering",
        &[
            flag(
                "initial-advertise-peer-urls",
                Value,
                Used,
                "Where the others reach this member [http://localhost:2380].",
            ),
            flag(
                "initial-cluster",
                Value,
                Used,
                "All members as NAME=URL,NAME=URL [${name}=${initial-advertise-peer-urls}].",
            ),
            flag(
                "initial-cluster-state",
                Value,
                Used,
                "\"new\" to found a cluster, \"existing\" after `member add` [new].",
            ),
            flag(
                "initial-cluster-token",
                Value,
                Used,
                "Keeps clusters with the same addresses apart [etcd-cluster].",
            ),
            flag(
                "advertise-client-urls",
                Value,
                Used,
                "Where clients reach this member [http://localhost:2379].",
            ),
            flag(
                "strict-reconfig-check",
                Switch,
                Used,
                "Refuse changes of members that could cost the quorum [true].",
            ),
            flag(
                "force-new-cluster",
                Switch,
                Used,
                "Go on with the data here as the only member. For disasters.",
            ),
            flag("max-learners", Value, Ignored, ""),
            flag("pre-vote", Switch, Ignored, ""),
            flag(
                "auto-compaction-retention",
                Value,
                Ignored,
                "How much history is kept [0: all].",
            ),
            flag(
                "auto-compaction-mode",
                Value,
                Ignored,
                "\"periodic\" or \"revision\" [periodic].",
            ),
            flag("compaction-batch-limit", Value, Ignored, ""),
            flag("compaction-sleep-interval", Value, Ignored, ""),
            flag(
                "watch-progress-notify-interval",
                Value,
                Used,
                "How often watches are told how far they are [10m].",
            ),
            flag("bootstrap-defrag-threshold-megabytes", Value, Ignored, ""),
            flag("corrupt-check-time", Value, Ignored, ""),
            flag("compact-hash-check-time", Value, Ignored, ""),
            flag("compact-hash-check-enabled", Switch, Ignored, ""),
            flag("initial-corrupt-check", Switch, Ignored, ""),
            flag("enable-lease-checkpoint", Switch, Ignored, ""),
            flag("enable-lease-checkpoint-persist", Switch, Ignored, ""),
            flag("txn-mode-write-with-shared-buffer", Switch, Ignored, ""),
            flag("stop-grpc-service-on-defrag", Switch, Ignored, ""),
            flag("downgrade-check-time", Value, Ignored, ""),
            flag("warning-apply-duration", Value, Ignored, ""),
            flag("warning-unary-request-duration", Value, Ignored, ""),
            flag("memory-mlock", Switch, Ignored, ""),
            flag("feature-gates", Value, Ignored, ""),
            flag("unsafe-no-fsync", Switch, Ignored, ""),
            flag(
                "enable-v2",
                Switch,
                Refused("the API of version 2 is gone"),
                "",
            ),
            flag(
                "enable-v2v3",
                Value,
                Refused("the API of version 2 is gone"),
                "",
            ),
            flag("v2-deprecation", Value, Ignored, ""),
            flag("proxy", Value, Ignored, ""),
            flag("proxy-failure-wait", Value, Ignored, ""),
            flag("proxy-refresh-interval", Value, Ignored, ""),
            flag("proxy-dial-timeout", Value, Ignored, ""),
            flag("proxy-write-timeout", Value, Ignored, ""),
            flag("proxy-read-timeout", Value, Ignored, ""),
            flag("discovery", Value, DISCOVERY, ""),
            flag("discovery-token", Value, DISCOVERY, ""),
            flag("discovery-endpoints", Value, DISCOVERY, ""),
            flag("discovery-srv", Value, DISCOVERY, ""),
            flag("discovery-srv-name", Value, DISCOVERY, ""),
            flag("discovery-proxy", Value, DISCOVERY, ""),
            flag("discovery-fallback", Value, Ignored, ""),
            flag("discovery-dial-timeout", Value, Ignored, ""),
            flag("discovery-request-timeout", Value, Ignored, ""),
            flag("discovery-keepalive-time", Value, Ignored, ""),
            flag("discovery-keepalive-timeout", Value, Ignored, ""),
            flag("discovery-insecure-transport", Switch, Ignored, ""),
            flag("discovery-insecure-skip-tls-verify", Switch, Ignored, ""),
            flag("discovery-cert", Value, Ignored, ""),
            flag("discovery-key", Value, Ignored, ""),
            flag("discovery-cacert", Value, Ignored, ""),
            flag("discovery-user", Value, Ignored, ""),
            flag("discovery-password", Value, Ignored, ""),
        ],
    ),
    (
        "Security",
        &[
            flag("cert-file", Value, Used, "Certificate for clients."),
            flag("key-file", Value, Used, "Its key."),
            flag(
                "client-cert-auth",
                Switch,
                Used,
                "Clients must show a certificate [false].",
            ),
            flag(
                "trusted-ca-file",
                Value,
                Used,
                "CA of the clients' certificates.",
            ),
            flag(
                "client-crl-file",
                Value,
                Used,
                "Revoked certificates of clients.",
            ),
            flag(
                "client-cert-allowed-hostname",
                Value,
                Used,
                "Name that clients' certificates must be valid for.",
            ),
            flag(
                "auto-tls",
                Switch,
                Used,
                "TLS for clients with a certificate made at the start.",
            ),
            flag("client-cert-file", Value, Ignored, ""),
            flag("client-key-file", Value, Ignored, ""),
            flag("peer-cert-file", Value, Used, "Certificate for peers."),
            flag("peer-key-file", Value, Used, "Its key."),
            flag(
                "peer-client-cert-file",
                Value,
                Used,
                "Certificate shown to peers, if not --peer-cert-file.",
            ),
            flag("peer-client-key-file", Value, Used, "Its key."),
            flag(
                "peer-client-cert-auth",
                Switch,
                Used,
                "Peers must show a certificate [false].",
            ),
            flag(
                "peer-trusted-ca-file",
                Value,
                Used,
                "CA of the peers' certificates.",
            ),
            flag(
                "peer-crl-file",
                Value,
                Used,
                "Revoked certificates of peers.",
            ),
            flag(
                "peer-cert-allowed-cn",
                Value,
                Used,
                "Common name that peers' certificates must have.",
            ),
            flag(
                "peer-cert-allowed-hostname",
                Value,
                Used,
                "Name that peers' certificates must be valid for.",
            ),
            flag(
                "peer-auto-tls",
                Switch,
                Used,
                "TLS between peers with certificates made at the start.",
            ),
            flag("peer-skip-client-san-verification", Switch, Ignored, ""),
            flag("self-signed-cert-validity", Value, Ignored, ""),
            flag(
                "cipher-suites",
                Value,
                Used,
                "TLS 1.2 cipher suites, by their names [all safe ones].",
            ),
            flag(
                "tls-min-version",
                Value,
                Used,
                "\"TLS1.2\" or \"TLS1.3\" [TLS1.2].",
            ),
            flag(
                "tls-max-version",
                Value,
                Used,
                "\"TLS1.2\" or \"TLS1.3\" [TLS1.3].",
            ),
            flag("cors", Value, Ignored, ""),
            flag("host-whitelist", Value, Ignored, ""),
            flag(
                "auth-token",
                Value,
                Used,
                "\"simple\" or \"jwt,…\" [simple].",
            ),
            flag(
                "auth-token-ttl",
                Value,
                Used,
                "Seconds that a simple token lives [300].",
            ),
            flag("bcrypt-cost", Value, Used, "Cost of password hashes [10]."),
        ],
    ),
    (
        "Monitoring and logging",
        &[
            flag(
                "listen-metrics-urls",
                Value,
                Used,
                "Where metrics and health are had without a certificate.",
            ),
            flag("metrics", Value, Ignored, ""),
            flag("enable-pprof", Switch, Ignored, ""),
            flag("enable-grpc-gateway", Switch, Ignored, ""),
            flag("logger", Value, Ignored, ""),
            flag(
                "log-outputs",
                Value,
                Used,
                "\"stderr\", \"stdout\" or files, with commas between them [stderr].",
            ),
            flag(
                "log-level",
                Value,
                Used,
                "debug, info, warn or error [info].",
            ),
            flag("log-format", Value, Used, "\"json\" or \"console\" [json]."),
            flag("log-package-levels", Value, Ignored, ""),
            flag("enable-log-rotation", Switch, Ignored, ""),
            flag("log-rotation-config-json", Value, Ignored, ""),
            flag("enable-distributed-tracing", Switch, TRACING, ""),
            flag("distributed-tracing-address", Value, TRACING, ""),
            flag("distributed-tracing-service-name", Value, TRACING, ""),
            flag("distributed-tracing-instance-id", Value, TRACING, ""),
            flag("distributed-tracing-sampling-rate", Value, TRACING, ""),
            flag(
                "config-file",
                Value,
                Used,
                "Settings in YAML; other flags and the environment are not looked at then.",
            ),
            flag("version", Switch, Used, "Print the version."),
            flag("help", Switch, Used, "Print this text."),
            flag("h", Switch, Used, ""),
        ],
    ),
];

/// The flag of this name. What was experimental in older versions has lost that prefix.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    let all = || SECTIONS.iter().flat_map(|(_, flags)| flags.iter());
    let exact = |name: &str| all().find(|flag| flag.name == name);
    exact(name).or_else(|| exact(name.strip_prefix("experimental-")?))
}

/// Values of flags, by name.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Given(BTreeMap<&'static str, String>);

impl Given {
    pub(super) fn set(&mut self, flag: &'static Flag, value: String) {
        self.0.insert(flag.name, value);
    }

    /// The value, if the flag was given. Asking for a flag that is not in the table is a bug that
    /// the tests of the settings find.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        debug_assert!(find(name).is_some(), "no such flag: {name}");
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether a switch is on.
    pub(super) fn on(&self, name: &str, default: bool) -> bool {
        self.get(name).and_then(boolean).unwrap_or(default)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static Flag, &str)> {
        self.0
            .iter()
            .filter_map(|(name, value)| Some((find(name)?, value.as_str())))
    }
}

/// Go's idea of a boolean.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Checks what can be checked without knowing the other flags.
pub(super) fn check(flag: &Flag, value: &str) -> Result<(), String> {
    match flag.kind {
        Switch if boolean(value).is_none() => Err(format!(
            "invalid boolean value {value:?} for -{}: parse error",
            flag.name
        )),
        _ => Ok(()),
    }
}

/// Reads a command line, without the name of the program.
pub(super) fn parse(words: &[String]) -> Result<Given, String> {
    let mut given = Given::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let bare = word.strip_prefix('-').filter(|rest| !rest.is_empty());
        let Some(bare) = bare.map(|rest| rest.strip_prefix('-').unwrap_or(rest)) else {
            return Err(format!("{word:?} is not a valid flag"));
        };
        let (name, value) = match bare.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (bare, None),
        };
        let flag = find(name).ok_or_else(|| format!("flag provided but not defined: -{name}"))?;
        let value = match (value, flag.kind) {
            (Some(value), _) => value,
            (None, Switch) => "true".to_owned(),
            (None, Value) => words
                .next()
                .cloned()
                .ok_or_else(|| format!("flag needs an argument: -{name}"))?,
        };
        check(flag, &value)?;
        given.set(flag, value);
    }
    Ok(given)
}

/// What the environment says about flags, and what it says that nobody understands.
pub(super) fn from_environment(
    given: &mut Given,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Vec<String>, String> {
    let mut notes = Vec::new();
    for (variable, value) in variables {
        let Some(name) = variable.strip_prefix("ETCD_") else {
            continue;
        };
        if value.is_empty() {
            continue;
        }
        let name = name.to_lowercase().replace('_', "-");
        match find(&name) {
            Some(flag) if given.has(flag.name) => notes.push(format!(
                "{variable} is not used: the flag --{} was given",
                flag.name
            )),
            Some(flag) => {
                check(flag, &value).map_err(|problem| format!("{variable}: {problem}"))?;
                given.set(flag, value);
            }
            // Something else of the same name is around, the tests' for example.
            None => notes.push(format!("{variable} is no variable of this program")),
        }
    }
    Ok(notes)
}

/// The text of `--help`.
pub(super) fn usage() -> String {
    use std::fmt::Write as _;
    let mut text = String::from(
        "Usage:\n\n  etcd [flags]\n    Start an etcd-compatible server.\n\n  etcd --version\n    Show the version.\n\n  etcd -h | --help\n    Show this text.\n\n  etcd --config-file PATH\n    Read the settings from a file instead of flags and environment.\n",
    );
    for (heading, flags) in SECTIONS {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{heading}:");
        let shown = flags.iter().filter(|flag| !flag.help.is_empty());
        for flag in shown {
            let _ = writeln!(text, "  --{}\n    {}", flag.name, flag.help);
        }
    }
    text.push_str("\nEvery flag may be given as an environment variable: --data-dir as ETCD_DATA_DIR.\nMore flags of etcd are accepted for compatibility and have no effect.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn flags_are_read_as_go_reads_them() {
        let given = parse(&words(
            "-name a --data-dir=d --force-new-cluster -strict-reconfig-check=false --experimental-watch-progress-notify-interval 5s",
        ))
        .unwrap();
        assert_eq!(given.get("name"), Some("a"));
        assert_eq!(given.get("data-dir"), Some("d"));
        assert!(given.on("force-new-cluster", false));
        assert!(!given.on("strict-reconfig-check", true));
        assert_eq!(given.get("watch-progress-notify-interval"), Some("5s"));
        assert_eq!(given.get("log-level"), None);
        // The last one wins.
        assert_eq!(
            parse(&words("-name a -name b")).unwrap().get("name"),
            Some("b")
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_gos_words() {
        for (line, message) in [
            ("--bogus", "flag provided but not defined: -bogus"),
            ("--bogus=1", "flag provided but not defined: -bogus"),
            ("--name", "flag needs an argument: -name"),
            ("server", "\"server\" is not a valid flag"),
            ("-", "\"-\" is not a valid flag"),
            (
                "--force-new-cluster=maybe",
                "invalid boolean value \"maybe\" for -force-new-cluster: parse error",
            ),
        ] {
            assert_eq!(parse(&words(line)), Err(message.to_owned()), "{line}");
        }
    }

    #[test]
    fn the_environment_fills_in_what_no_flag_says() {
        let mut given = parse(&words("--name flag")).unwrap();
        let variables = [
            ("ETCD_NAME", "env"),
            ("ETCD_DATA_DIR", "there"),
            ("ETCD_LOG_LEVEL", ""),
            ("ETCD_UNHEARD_OF", "x"),
            ("ETCDCTL_API", "3"),
            ("PATH", "/bin"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let notes = from_environment(&mut given, variables.into_iter()).unwrap();
        assert_eq!(given.get("name"), Some("flag"));
        assert_eq!(given.get("data-dir"), Some("there"));
        assert!(!given.has("log-level"));
        assert_eq!(notes.len(), 2, "{notes:?}");
        let bad = ("ETCD_AUTO_TLS".to_owned(), "yes?".to_owned());
        assert!(from_environment(&mut given, std::iter::once(bad)).is_err());
    }

    #[test]
    fn names_are_unique_and_shown() {
        let mut names: Vec<_> = SECTIONS
            .iter()
            .flat_map(|(_, flags)| flags.iter().map(|flag| flag.name))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(usage().contains("--initial-cluster-state"));
    }

    proptest::proptest! {
        #[test]
        fn any_words_are_an_answer(words in proptest::collection::vec("-{0,3}[a-z=-]{0,12}", 0..5)) {
            let _ = parse(&words);
        }
    }
}
