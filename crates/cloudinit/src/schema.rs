//! Every key the configuration knows, and every spelling that is accepted for it.

use crate::spelling::nearest;

/// A key.
#[derive(Debug)]
pub(crate) struct Field {
    /// The canonical name, in `snake_case`.
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
}

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    Text(Rule),
    List(Rule),
    /// String to string.
    Map(MapRule),
    Flag,
    Records(&'static [Field]),
    Block(&'static [Field]),
}

/// What one string is checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Free,
    Hostname,
    SshKey,
    /// Run by a shell: nothing in it is ours to judge.
    Command,
    Content,
    Encoding,
    Permissions,
    DataSource,
    Ip,
    NtpServer,
    Password,
    ServerUrl,
    FetchUrl,
    Token,
    Taint,
    K3sArg,
}

/// What the entries of a map are checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapRule {
    Labels,
    Sysctls,
    Environment,
}

const fn field(name: &'static str, shape: Shape) -> Field {
    Field { name, shape }
}

/// Top level.
pub(crate) static ROOT: &[Field] = &[
    field("hostname", Shape::Text(Rule::Hostname)),
    field("ssh_authorized_keys", Shape::List(Rule::SshKey)),
    field("write_files", Shape::Records(WRITE_FILE)),
    field("init_cmd", Shape::List(Rule::Command)),
    field("boot_cmd", Shape::List(Rule::Command)),
    field("run_cmd", Shape::List(Rule::Command)),
    field("k3os", Shape::Block(K3OS)),
];

/// Under `k3os`.
pub(crate) static K3OS: &[Field] = &[
    field("data_sources", Shape::List(Rule::DataSource)),
    field("modules", Shape::List(Rule::Free)),
    field("sysctls", Shape::Map(MapRule::Sysctls)),
    field("dns_nameservers", Shape::List(Rule::Ip)),
    field("ntp_servers", Shape::List(Rule::NtpServer)),
    field("wifi", Shape::Records(WIFI)),
    field("password", Shape::Text(Rule::Password)),
    field("server_url", Shape::Text(Rule::ServerUrl)),
    field("token", Shape::Text(Rule::Token)),
    field("labels", Shape::Map(MapRule::Labels)),
    field("taints", Shape::List(Rule::Taint)),
    field("k3s_args", Shape::List(Rule::K3sArg)),
    field("environment", Shape::Map(MapRule::Environment)),
    field("install", Shape::Block(INSTALL)),
];

/// Under `k3os.install`.
pub(crate) static INSTALL: &[Field] = &[
    field("force_efi", Shape::Flag),
    field("device", Shape::Text(Rule::Free)),
    field("config_url", Shape::Text(Rule::FetchUrl)),
    field("silent", Shape::Flag),
    field("iso_url", Shape::Text(Rule::FetchUrl)),
    field("power_off", Shape::Flag),
    field("no_format", Shape::Flag),
    field("debug", Shape::Flag),
    field("tty", Shape::Text(Rule::Free)),
];

static WRITE_FILE: &[Field] = &[
    field("path", Shape::Text(Rule::Free)),
    field("content", Shape::Text(Rule::Content)),
    field("encoding", Shape::Text(Rule::Encoding)),
    field("owner", Shape::Text(Rule::Free)),
    field("permissions", Shape::Text(Rule::Permissions)),
];

static WIFI: &[Field] = &[
    field("name", Shape::Text(Rule::Free)),
    field("passphrase", Shape::Text(Rule::Password)),
];

/// How a key is spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// Accepted on purpose.
    Good,
    /// Run together: accepted, but its value gets no help with types.
    Strict,
    /// Cut "es": accepted by accident.
    Odd,
    /// Accepted only because the last step ignores case; no help with types either.
    OddStrict,
}

impl Spelling {
    pub(crate) fn is_odd(self) -> bool {
        matches!(self, Self::Odd | Self::OddStrict)
    }

    pub(crate) fn is_strict(self) -> bool {
        matches!(self, Self::Strict | Self::OddStrict)
    }
}

impl Field {
    /// How `key` spells this field, if it does.
    fn spelt(&self, key: &str) -> Option<Spelling> {
        if key == self.name {
            return Some(Spelling::Good);
        }
        let joined = self.name.replace('_', "");
        // No spelling is longer than the canonical one, and none loses more than "es".
        if key.len() > self.name.len() || key.len() + 2 < joined.len().min(6) {
            return None;
        }
        if key == camel(self.name) {
            return Some(Spelling::Good);
        }
        if key == joined {
            return Some(Spelling::Strict);
        }
        for (cut, spelling) in [("s", Spelling::Good), ("es", Spelling::Odd)] {
            if let (Some(snake), Some(run_together)) =
                (self.name.strip_suffix(cut), joined.strip_suffix(cut))
                && (key == snake || key == run_together)
            {
                return Some(if self.name == "k3os" {
                    Spelling::Odd
                } else {
                    spelling
                });
            }
        }
        if self.name == "passphrase" && matches!(key, "pass" | "password") {
            return Some(Spelling::Good);
        }
        key.eq_ignore_ascii_case(&joined)
            .then_some(Spelling::OddStrict)
    }
}

fn camel(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    let mut upper = false;
    for character in name.chars() {
        if character == '_' {
            upper = true;
        } else if std::mem::take(&mut upper) {
            text.extend(character.to_uppercase());
        } else {
            text.push(character);
        }
    }
    text
}

/// The field that `key` spells.
pub(crate) fn resolve(fields: &'static [Field], key: &str) -> Option<(&'static Field, Spelling)> {
    fields
        .iter()
        .find_map(|field| field.spelt(key).map(|spelling| (field, spelling)))
}

/// The levels of the file, by path prefix.
static LEVELS: &[(&str, &[Field])] = &[("", ROOT), ("k3os.", K3OS), ("k3os.install.", INSTALL)];

/// The path of a key that is known at another level than `prefix`.
pub(crate) fn elsewhere(prefix: &str, key: &str) -> Option<String> {
    // Inside the entries of lists nothing can be misplaced.
    LEVELS.iter().find(|(level, _)| *level == prefix)?;
    LEVELS
        .iter()
        .filter(|(level, _)| *level != prefix)
        .find_map(|(level, fields)| {
            resolve(fields, key).map(|(field, _)| format!("{level}{}", field.name))
        })
}

/// What an unknown key was probably meant to be: a name at this level or a path at another.
pub(crate) fn suggest(fields: &'static [Field], prefix: &str, key: &str) -> Option<String> {
    let folded = key.replace(['-', ' '], "_");
    let folded = folded.trim_matches('_');
    if let Some((field, _)) = resolve(fields, folded) {
        return Some(field.name.to_owned());
    }
    if let Some(path) = elsewhere(prefix, folded) {
        return Some(path);
    }
    if let Some(name) = near(fields, folded) {
        return Some(name.to_owned());
    }
    LEVELS.iter().find(|(level, _)| *level == prefix)?;
    // Short words at another level are more likely something else.
    if folded.len() < 5 {
        return None;
    }
    LEVELS
        .iter()
        .filter(|(level, _)| *level != prefix)
        .find_map(|(level, fields)| near(fields, folded).map(|name| format!("{level}{name}")))
}

fn near(fields: &'static [Field], key: &str) -> Option<&'static str> {
    let joined = key.replace('_', "");
    let spellings: Vec<(String, &'static str)> = fields
        .iter()
        .flat_map(|field| {
            let joined = field.name.replace('_', "");
            let singular = joined.strip_suffix('s').unwrap_or(&joined).to_owned();
            [(joined, field.name), (singular, field.name)]
        })
        .collect();
    let best = nearest(&joined, spellings.iter().map(|(text, _)| text.as_str()))?;
    spellings
        .iter()
        .find(|(text, _)| text == best)
        .map(|(_, name)| *name)
}

/// Keys of other tools that people write here, and what to do instead.
pub(crate) fn foreign(prefix: &str, key: &str) -> Option<(&'static str, Option<&'static str>)> {
    let hint = match (prefix, key) {
        ("" | "k3os.", "fqdn") => ("use hostname", Some("hostname")),
        ("", "ssh_import_id") => (
            "use ssh_authorized_keys with entries like github:USER",
            Some("ssh_authorized_keys"),
        ),
        ("", "users" | "user" | "groups") => (
            "a key of cloud-init; there is one user (rancher): use ssh_authorized_keys and k3os.password",
            None,
        ),
        ("", "chpasswd") => (
            "a key of cloud-init; use k3os.password",
            Some("k3os.password"),
        ),
        ("", "packages" | "package_update" | "package_upgrade" | "apt" | "yum_repos" | "snap") => (
            "a key of cloud-init; there is no package manager here",
            None,
        ),
        ("", "ntp") => (
            "a key of cloud-init; use k3os.ntp_servers",
            Some("k3os.ntp_servers"),
        ),
        ("" | "k3os.", "mode" | "fallback_mode") => (
            "a word of the kernel command line (k3os.mode=…), not a key of the file",
            None,
        ),
        ("k3os.", "debug") => (
            "a word of the kernel command line; in the file only k3os.install.debug exists",
            Some("k3os.install.debug"),
        ),
        _ => return None,
    };
    Some(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_fold_as_documented() {
        for (key, name, spelling) in [
            ("data_sources", "data_sources", Spelling::Good),
            ("dataSources", "data_sources", Spelling::Good),
            ("data_source", "data_sources", Spelling::Good),
            ("datasource", "data_sources", Spelling::Good),
            ("datasources", "data_sources", Spelling::Strict),
            ("datasourc", "data_sources", Spelling::Odd),
            ("data_sourc", "data_sources", Spelling::Odd),
            ("modul", "modules", Spelling::Odd),
            ("Token", "token", Spelling::OddStrict),
            ("serverurl", "server_url", Spelling::Strict),
            ("sysctl", "sysctls", Spelling::Good),
        ] {
            let (field, found) = resolve(K3OS, key).expect(key);
            assert_eq!((field.name, found), (name, spelling), "{key}");
        }
        for key in ["dnsNameserver", "server-url", "tokens", "k3sArg", ""] {
            assert!(resolve(K3OS, key).is_none(), "{key}");
        }
        let (field, spelling) = resolve(ROOT, "SSHAuthorizedKeys").expect("case-blind");
        assert_eq!(field.name, "ssh_authorized_keys");
        assert!(spelling.is_odd() && spelling.is_strict());
        assert!(resolve(ROOT, "write_fil").is_some());
    }
}
