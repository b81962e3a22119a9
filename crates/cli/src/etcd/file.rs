//! `--config-file`: etcd's settings in YAML. Keys are the names of the flags; what concerns TLS
//! stands in two maps of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::flags::{Given, check, find};

/// A settings file larger than this is a mistake.
const SIZE_LIMIT_BYTES: u64 = 1024 * 1024;

/// Keys of the two maps, and the flags that they stand for.
const TRANSPORT: &[(&str, &[(&str, &str)])] = &[
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("crl-file", "client-crl-file"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
            ("auto-tls", "auto-tls"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("crl-file", "peer-crl-file"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            ("auto-tls", "peer-auto-tls"),
        ],
    ),
];

/// Reads a file. The second part names keys that nobody understands.
pub(super) fn read(path: &Path) -> Result<(Given, Vec<String>), String> {
    let problem = |error: &dyn std::fmt::Display| {
        format!("cannot read settings file {}: {error}", path.display())
    };
    let size_bytes = fs::metadata(path).map_err(|error| problem(&error))?.len();
    if size_bytes > SIZE_LIMIT_BYTES {
        return Err(problem(&format!(
            "it has {size_bytes} bytes, the limit is {SIZE_LIMIT_BYTES}"
        )));
    }
    let text = fs::read_to_string(path).map_err(|error| problem(&error))?;
    parse(&text).map_err(|message| format!("settings file {}: {message}", path.display()))
}

fn parse(text: &str) -> Result<(Given, Vec<String>), String> {
    let mut given = Given::default();
    let mut unknown = Vec::new();
    let empty = text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    });
    if empty {
        return Ok((given, unknown));
    }
    let document: BTreeMap<String, Value> =
        serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    for (key, value) in &document {
        if let Some((_, names)) = TRANSPORT.iter().find(|(section, _)| section == key) {
            section(&mut given, &mut unknown, key, value, names)?;
        } else {
            put(&mut given, &mut unknown, key, key, value)?;
        }
    }
    Ok((given, unknown))
}

fn section(
    given: &mut Given,
    unknown: &mut Vec<String>,
    section: &str,
    value: &Value,
    names: &[(&str, &str)],
) -> Result<(), String> {
    let map = match value {
        Value::Null => return Ok(()),
        Value::Object(map) => map,
        _ => return Err(format!("{section}: expected a map")),
    };
    for (key, value) in map {
        let shown = format!("{section}.{key}");
        match names.iter().find(|(name, _)| name == key) {
            Some((_, flag)) => put(given, unknown, &shown, flag, value)?,
            None => unknown.push(shown),
        }
    }
    Ok(())
}

fn put(
    given: &mut Given,
    unknown: &mut Vec<String>,
    key: &str,
    name: &str,
    value: &Value,
) -> Result<(), String> {
    let Some(flag) = find(name) else {
        unknown.push(key.to_owned());
        return Ok(());
    };
    let Some(text) = text(value).map_err(|problem| format!("{key}: {problem}"))? else {
        return Ok(());
    };
    check(flag, &text).map_err(|problem| format!("{key}: {problem}"))?;
    given.set(flag, text);
    Ok(())
}

/// A value as a flag would have it; lists become words with commas between them.
fn text(value: &Value) -> Result<Option<String>, &'static str> {
    Ok(Some(match value {
        Value::Null => return Ok(None),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.is_empty() => return Ok(None),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let mut words = Vec::new();
            for item in items {
                match item {
                    Value::Array(_) | Value::Object(_) => return Err("expected plain values"),
                    item => words.extend(text(item)?),
                }
            }
            words.join(",")
        }
        Value::Object(map) => {
            // Feature gates are written as a map.
            let mut words = Vec::new();
            for (key, value) in map {
                let value = match value {
                    Value::Bool(flag) => flag.to_string(),
                    _ => return Err("expected a plain value"),
                };
                words.push(format!("{key}={value}"));
            }
            words.join(",")
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_as_etcd_documents_it() {
        let (given, unknown) = parse(
            "# a comment\nname: infra1\ndata-dir: /tmp/x\nheartbeat-interval: 50\nstrict-reconfig-check: false\n\
             wal-dir:\nlog-outputs: [stderr, /tmp/l]\ninitial-cluster: a=http://h:1,b=http://h:2\n\
             client-transport-security:\n  cert-file: c\n  client-cert-auth: true\n  strange: 1\n\
             peer-transport-security:\n  auto-tls: true\nno-such-key: 7\n",
        )
        .unwrap();
        assert_eq!(given.get("name"), Some("infra1"));
        assert_eq!(given.get("heartbeat-interval"), Some("50"));
        assert!(!given.on("strict-reconfig-check", true));
        assert!(!given.has("wal-dir"));
        assert_eq!(given.get("log-outputs"), Some("stderr,/tmp/l"));
        assert_eq!(given.get("cert-file"), Some("c"));
        assert!(given.on("client-cert-auth", false));
        assert!(given.on("peer-auto-tls", false));
        assert_eq!(
            unknown,
            ["client-transport-security.strange", "no-such-key"]
        );
    }

    #[test]
    fn files_that_make_no_sense_are_refused() {
        assert!(parse("- a\n- b\n").is_err());
        assert!(parse("name: {a: b}\n").is_err());
        assert!(parse("force-new-cluster: perhaps\n").is_err());
        assert!(parse("client-transport-security: 7\n").is_err());
        assert_eq!(parse("---\n# nothing\n").unwrap().0, Given::default());
        assert!(read(Path::new("/nowhere/etcd.yml")).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_answer(text in "(?s).{0,200}") {
            let _ = parse(&text);
        }
    }
}
