//! etcd's flags: one table, read the way Go reads flags.
//!
//! One dash or two, the value behind `=` or as the next word, switches alone or with a value.
//! Every flag is also an environment variable (`--data-dir`, `ETCD_DATA_DIR`); the flag wins.

use std::collections::BTreeMap;

use Kind::{Switch, Value};

use super::table::SECTIONS;

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

pub(super) const fn flag(
    name: &'static str,
    kind: Kind,
    effect: Effect,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        kind,
        effect,
        help,
    }
}

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
