//! Whether a value can work.

use std::net::IpAddr;

use super::{Checker, Scope};
use crate::config::{Item, Record};
use crate::files::{self, ENCODINGS};
use crate::finding::{Finding, Kind};
use crate::schema::{MapRule, Rule};
use crate::ssh::{self, AuthorizedKey};
use crate::tree::{Entry, Node};

/// Where a node can get its configuration from.
const SOURCES: &[&str] = &[
    "aws",
    "gcp",
    "hetzner",
    "openstack",
    "scaleway",
    "vultr",
    "digitalocean",
    "packet",
    "cdrom",
];

/// Names that others give these.
const SOURCE_NAMES: &[(&str, &str)] = &[
    ("nocloud", "cdrom"),
    ("cidata", "cdrom"),
    ("iso", "cdrom"),
    ("ec2", "aws"),
    ("amazon", "aws"),
    ("gce", "gcp"),
    ("google", "gcp"),
    ("equinix", "packet"),
    ("do", "digitalocean"),
];

impl Checker<'_> {
    /// Checks a string by its rule.
    pub(super) fn rule(&mut self, rule: Rule, text: &str, node: &Node, path: &str) {
        let finding = match rule {
            Rule::Free | Rule::Command | Rule::Content | Rule::Password | Rule::K3sArg => None,
            // Empty text clears a setting.
            _ if text.is_empty() => None,
            Rule::Hostname => (!is_hostname(text)).then(|| {
                error(Kind::BadHostname, node, path, "not a host name").help(
                    "letters, digits and dashes, at most 63 between dots, no dash at an edge",
                )
            }),
            Rule::NtpServer => (text.parse::<IpAddr>().is_err() && !is_hostname(text)).then(|| {
                error(Kind::BadHostname, node, path, "neither a host name nor an address")
            }),
            Rule::Ip => text.parse::<IpAddr>().is_err().then(|| {
                error(Kind::BadIp, node, path, "not an IP address")
                    .help("an address such as 10.0.0.2 or 2001:db8::1; names cannot be resolved before there is a name server")
            }),
            Rule::SshKey => ssh_key(text, node, path),
            Rule::Encoding => (!ENCODINGS.contains(&text)).then(|| {
                let near = super::walk::near_word(text, ENCODINGS);
                let finding = error(
                    Kind::BadEncoding,
                    node,
                    path,
                    "unknown encoding; the file would not be written",
                )
                .help(format!("one of {}, or none for plain text", ENCODINGS.join(", ")));
                match near {
                    Some(near) => finding.detail("suggest", near),
                    None => finding,
                }
            }),
            Rule::Permissions => (!is_mode(text)).then(|| {
                error(Kind::BadPermissions, node, path, "not an octal mode; the file would not be written")
                    .help("three or four octal digits in quotes: \"0644\"")
            }),
            Rule::DataSource => data_source(text, node, path),
            Rule::ServerUrl => server_url(text, node, path),
            Rule::FetchUrl => fetch_url(text, node, path),
            Rule::Token => token(text, node, path),
            Rule::Taint => (!is_taint(text)).then(|| {
                error(Kind::BadTaint, node, path, "not a taint")
                    .help("KEY=VALUE:EFFECT or KEY:EFFECT, with NoSchedule, PreferNoSchedule or NoExecute")
            }),
        };
        if let Some(finding) = finding {
            self.faulty.insert(node.at);
            self.report(finding);
        }
    }

    pub(super) fn map_key(&mut self, rule: MapRule, key: &str, node: &Node, path: &str) {
        let finding = match rule {
            MapRule::Labels => (!is_label_key(key)).then(|| {
                error(Kind::BadLabel, node, path, "not a label name")
                    .help("[PREFIX/]NAME: letters, digits, '-', '_' and '.', at most 63")
            }),
            MapRule::Sysctls => (!is_sysctl(key)).then(|| {
                error(
                    Kind::BadSysctl,
                    node,
                    path,
                    "not the name of a kernel setting",
                )
                .help("names with dots, such as net.ipv4.ip_forward")
            }),
            MapRule::Environment => (!is_variable(key)).then(|| {
                error(
                    Kind::BadEnvName,
                    node,
                    path,
                    "not the name of an environment variable",
                )
                .help("letters, digits and '_', no digit first")
            }),
        };
        if let Some(finding) = finding {
            self.report(finding);
        }
    }

    /// Checks a text value of a map.
    pub(super) fn map_value(&mut self, rule: MapRule, node: &Node, path: &str) -> Option<Item> {
        let scalar = node.scalar()?;
        match rule {
            MapRule::Environment => {
                self.hide(path, node.at, node.end);
                if scalar.is_plain() {
                    self.quotes(node, scalar, path);
                }
            }
            MapRule::Sysctls => self.judge(node, scalar, Rule::Free, path),
            MapRule::Labels => {
                let before = self.findings.len();
                self.judge(node, scalar, Rule::Free, path);
                if self.findings.len() == before && !is_label_value(&scalar.text) {
                    self.report(
                        error(Kind::BadLabel, node, path, "not a label value")
                            .help("letters, digits, '-', '_' and '.', at most 63, a letter or digit at the edges"),
                    );
                }
            }
        }
        Some(Item {
            text: scalar.text.clone(),
            at: node.at,
        })
    }

    /// An entry of `write_files` or `wifi`, after its fields.
    pub(super) fn record(
        &mut self,
        record: &Record,
        needed: &'static str,
        entries: &[Entry],
        path: &str,
    ) {
        let given = record.fields.iter().any(|(name, _)| *name == needed);
        let misspelt = self.presumed.contains(&format!("{path}.{needed}"));
        if !given && !misspelt && self.exact && self.scope != Scope::CommandLine {
            let width = entries.first().map_or(1, |entry| entry.key.width());
            self.report(
                Finding::error(
                    Kind::MissingKey,
                    record.at,
                    format!("{path}.{needed}"),
                    format!("this entry has no {needed}"),
                )
                .wide(width)
                .help(format!("add: {needed}: …")),
            );
        }
        let text = |name| record.get(name).map_or("", |item| item.text.as_str());
        if let Some(content) = record.get("content")
            && (text("encoding").is_empty() || ENCODINGS.contains(&text("encoding")))
            && let Err(why) = files::decode(text("encoding"), text("content"))
        {
            self.report(Finding::error(
                Kind::BadEncoding,
                content.at,
                format!("{path}.content"),
                why,
            ));
        }
    }
}

fn error(kind: Kind, node: &Node, path: &str, message: &str) -> Finding {
    Finding::error(kind, node.at, path, message).wide(node.width())
}

fn is_hostname(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

fn is_mode(text: &str) -> bool {
    (3..=5).contains(&text.len())
        && text.chars().all(|c| c.is_digit(8))
        && (text.len() < 5 || text.starts_with('0'))
}

fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name(text)
}

/// A Kubernetes qualified name's last part.
fn is_name(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().next_back())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => {
            is_hostname(prefix) && !prefix.chars().any(|c| c.is_ascii_uppercase()) && is_name(name)
        }
        None => is_name(text),
    }
}

fn is_taint(text: &str) -> bool {
    let Some((left, effect)) = text.rsplit_once(':') else {
        return false;
    };
    let (key, value) = left.split_once('=').unwrap_or((left, ""));
    matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute")
        && is_label_key(key)
        && is_label_value(value)
}

fn is_sysctl(text: &str) -> bool {
    let parts: Vec<&str> = text.split(['.', '/']).collect();
    parts.len() >= 2
        && parts.iter().all(|part| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '@'))
        })
}

fn is_variable(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn ssh_key(text: &str, node: &Node, path: &str) -> Option<Finding> {
    let warn = |message: String| {
        Finding::warning(Kind::BadSshKey, node.at, path, message).wide(node.width())
    };
    match AuthorizedKey::parse(text) {
        AuthorizedKey::Literal(line) => ssh::problem(&line).map(warn),
        AuthorizedKey::UnknownScheme(scheme) => Some(
            warn(format!("keys cannot be fetched from {scheme}:"))
                .help("github:USER, gitlab:USER, an https URL, or the key itself"),
        ),
        AuthorizedKey::Fetch(url) => url
            .chars()
            .any(char::is_whitespace)
            .then(|| warn("a blank inside a URL".to_owned())),
    }
}

fn data_source(text: &str, node: &Node, path: &str) -> Option<Finding> {
    if SOURCES.contains(&text) || text.starts_with("file=/") {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let near = SOURCES
        .iter()
        .find(|source| **source == lower)
        .or_else(|| {
            SOURCE_NAMES
                .iter()
                .find(|(name, _)| *name == lower)
                .map(|(_, source)| source)
        })
        .copied()
        .or_else(|| super::walk::near_word(text, SOURCES));
    let finding = error(
        Kind::UnknownDataSource,
        node,
        path,
        "unknown data source; with it in the list no source is tried at all",
    );
    Some(match near {
        Some(near) => finding
            .help(format!("did you mean {near}?"))
            .detail("suggest", near),
        None => finding.help(format!("one of {}, or file=/PATH", SOURCES.join(", "))),
    })
}

pub(super) fn server_url(text: &str, node: &Node, path: &str) -> Option<Finding> {
    let wrong =
        |message: &str| error(Kind::BadUrl, node, path, message).help("write: https://HOST:6443");
    let Some(rest) = text.strip_prefix("https://") else {
        return Some(if text.starts_with("http://") {
            wrong("must begin with https://, not http://")
        } else {
            wrong("must begin with https://")
        });
    };
    let cut = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, more) = rest.split_at(cut);
    let Some((host, port)) = split_authority(authority) else {
        return Some(wrong("no host that can be reached"));
    };
    let host_ok = host.parse::<IpAddr>().is_ok() || is_hostname(host);
    if !host_ok || port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
        return Some(wrong("no host and port that can be reached"));
    }
    (!matches!(more, "" | "/")).then(|| {
        Finding::warning(
            Kind::BadUrl,
            node.at,
            path,
            "a path, query or fragment has no meaning here",
        )
        .wide(node.width())
        .help("only https://HOST:PORT")
    })
}

/// Host and port of `host:port` or `[v6]:port`.
pub(crate) fn split_authority(authority: &str) -> Option<(&str, Option<&str>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return None,
            }
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    (!host.is_empty()).then_some((host, port))
}

/// `config_url` and `iso_url`: a URL, or a path on the machine.
fn fetch_url(text: &str, node: &Node, path: &str) -> Option<Finding> {
    if text.chars().any(char::is_whitespace) {
        return Some(error(Kind::BadUrl, node, path, "a blank inside a URL"));
    }
    let (_, rest) = text.split_once("://")?;
    let (host, page) = rest.split_once('/').unwrap_or((rest, ""));
    let shows_page = match host.trim_start_matches("www.") {
        "pastebin.com" => !page.starts_with("raw/"),
        "gist.github.com" => !page.contains("/raw"),
        "github.com" => page.contains("/blob/"),
        _ => false,
    };
    shows_page.then(|| {
        Finding::warning(
            Kind::BadUrl,
            node.at,
            path,
            "this address shows a web page around the text",
        )
        .wide(node.width())
        .help("use the address of the raw text, e.g. https://pastebin.com/raw/ID")
    })
}

fn token(text: &str, node: &Node, path: &str) -> Option<Finding> {
    let bad = text
        .chars()
        .enumerate()
        .find(|(_, c)| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '$' | '`'));
    if let Some((index, character)) = bad {
        let what = match character {
            c if c.is_control() => "a control character".to_owned(),
            c if c.is_whitespace() => "a blank".to_owned(),
            c => format!("the character {c}"),
        };
        let message = format!(
            "{what} at place {} of the token breaks it on the way to the node",
            index + 1
        );
        return Some(
            error(Kind::BadToken, node, path, &message)
                .help("letters, digits, '-', '_', '.' and ':'; `trivet token generate` makes one"),
        );
    }
    let (hash, _) = text.strip_prefix("K10")?.split_once("::")?;
    (hash.len() != 64 || !hash.chars().all(|c| c.is_ascii_hexdigit())).then(|| {
        error(
            Kind::BadToken,
            node,
            path,
            "a K10 token whose CA hash is not 64 hexadecimal digits (cut off?)",
        )
        .help("copy the whole line of the server's token file")
    })
}
