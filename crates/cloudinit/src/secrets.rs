//! Secrets leave only when asked for.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::flags;

/// What stands in place of a secret.
pub const MASK: &str = "********";

/// Whether a setting is a secret.
pub(crate) fn is_secret_path(path: &str) -> bool {
    let last = path.rsplit('.').next().unwrap_or(path);
    matches!(last, "token" | "password" | "passphrase" | "pass") || is_secret_variable(path)
}

/// Whether an entry of `k3os.environment`, by path, or a variable by name, is a secret.
fn is_secret_variable(path: &str) -> bool {
    let name = path.strip_prefix("k3os.environment").unwrap_or_default();
    is_secret_name(name)
}

/// Whether a line, readable or not, seems to hold a secret.
pub(crate) fn speaks_of_secret(line: &str) -> bool {
    let upper = line.to_ascii_uppercase();
    is_secret_name(line) || upper.contains("PASSPHRASE") || upper.contains("PASS:")
}

fn is_secret_name(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    [
        "TOKEN",
        "SECRET",
        "PASSWORD",
        "PASSWD",
        "PRIVATE",
        "ACCESS_KEY",
        "DATASTORE_ENDPOINT",
        "VPN_AUTH",
    ]
    .iter()
    .any(|part| upper.contains(part))
        && !upper.contains("_FILE")
}

/// A command line without its secrets.
pub(crate) fn mask_words(words: &[String]) -> Vec<String> {
    let mut hide_next = false;
    words
        .iter()
        .map(|word| {
            if std::mem::take(&mut hide_next) {
                return MASK.to_owned();
            }
            match flags::split(word) {
                Some((name, inline)) if flags::is_secret(name) => match inline {
                    Some(value) => format!("{}{MASK}", &word[..word.len() - value.len()]),
                    None => {
                        hide_next = true;
                        word.clone()
                    }
                },
                _ => word.clone(),
            }
        })
        .collect()
}

/// An environment without its secrets. Passwords in URLs are hidden too.
pub(crate) fn mask_environment(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    env.iter()
        .map(|(name, value)| {
            let shown = if is_secret_name(name) && !value.is_empty() {
                MASK.to_owned()
            } else {
                mask_url(value)
            };
            (name.clone(), shown)
        })
        .collect()
}

/// `scheme://user:password@host` without the password.
fn mask_url(value: &str) -> String {
    if let Some((scheme, rest)) = value.split_once("://")
        && let Some((credentials, host)) = rest.rsplit_once('@')
        && let Some((user, _)) = credentials.split_once(':')
    {
        return format!("{scheme}://{user}:{MASK}@{host}");
    }
    value.to_owned()
}

/// A canonical configuration without its secrets.
pub(crate) fn mask_config(config: &mut Json) {
    let Some(k3os) = config.get_mut("k3os") else {
        return;
    };
    for key in ["token", "password"] {
        if let Some(value) = k3os.get_mut(key) {
            *value = Json::from(MASK);
        }
    }
    for network in k3os
        .get_mut("wifi")
        .and_then(Json::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(value) = network.get_mut("passphrase") {
            *value = Json::from(MASK);
        }
    }
    if let Some(words) = k3os.get_mut("k3s_args").and_then(Json::as_array_mut) {
        let plain: Vec<String> = words
            .iter()
            .map(|word| word.as_str().unwrap_or_default().to_owned())
            .collect();
        *words = mask_words(&plain).into_iter().map(Json::from).collect();
    }
    for (name, value) in k3os
        .get_mut("environment")
        .and_then(Json::as_object_mut)
        .into_iter()
        .flatten()
    {
        let shown = match value.as_str() {
            Some(text) if !is_secret_name(name) => mask_url(text),
            _ => MASK.to_owned(),
        };
        *value = Json::from(shown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_lose_their_secrets() {
        let words = [
            "server",
            "--token",
            "abc",
            "--agent-token=def",
            "-t=g",
            "--node-name",
            "n",
        ]
        .map(String::from);
        assert_eq!(
            mask_words(&words),
            [
                "server",
                "--token",
                MASK,
                "--agent-token=********",
                "-t=********",
                "--node-name",
                "n"
            ]
        );
        assert_eq!(mask_url("http://u:p@h:1"), "http://u:********@h:1");
    }
}
