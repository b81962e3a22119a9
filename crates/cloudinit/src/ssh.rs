//! Entries of `ssh_authorized_keys`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What an entry means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorizedKey {
    /// A line for `authorized_keys`.
    Literal(String),
    /// Fetched from here.
    Fetch(String),
    /// A scheme that nobody serves.
    UnknownScheme(String),
}

impl AuthorizedKey {
    /// Reads an entry: what begins with a URL scheme is fetched, the rest is a line.
    pub fn parse(entry: &str) -> Self {
        let Some((scheme, rest)) = scheme(entry) else {
            return Self::Literal(entry.to_owned());
        };
        match scheme.to_ascii_lowercase().as_str() {
            "github" => Self::Fetch(format!("https://github.com/{rest}.keys")),
            "gitlab" => Self::Fetch(format!("https://gitlab.com/{rest}.keys")),
            "http" | "https" => Self::Fetch(entry.to_owned()),
            other => Self::UnknownScheme(other.to_owned()),
        }
    }
}

fn scheme(entry: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = entry.split_once(':')?;
    let mut characters = scheme.chars();
    let valid = characters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    valid.then_some((scheme, rest))
}

const TYPES: &[&str] = &[
    "ssh-ed25519",
    "ssh-rsa",
    "ssh-dss",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// What is wrong with a literal line, if anything.
pub(crate) fn problem(line: &str) -> Option<String> {
    let words = words(line);
    // Options may stand before the type; they never equal one.
    let Some(index) = words.iter().take(2).position(|word| TYPES.contains(word)) else {
        return Some(format!(
            "no public key: expected TYPE DATA, with a type such as {}",
            TYPES[0]
        ));
    };
    let kind = words[index];
    let Some(data) = words.get(index + 1) else {
        return Some(format!("{kind} without the key itself behind it"));
    };
    let Ok(bytes) = STANDARD.decode(data) else {
        return Some(
            "the key data is not base64 (shortened with dots?); sshd skips this line".to_owned(),
        );
    };
    let named = bytes
        .get(..4)
        .map(|length| u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize)
        .and_then(|length| bytes.get(4..4usize.checked_add(length)?));
    (named != Some(kind.as_bytes())).then(|| {
        format!("the key data is not that of a {kind} key (cut off?); sshd skips this line")
    })
}

/// Words of a line; blanks inside double quotes do not separate.
fn words(line: &str) -> Vec<&str> {
    let mut quoted = false;
    line.split(move |c: char| {
        if c == '"' {
            quoted = !quoted;
        }
        c.is_whitespace() && !quoted
    })
    .filter(|word| !word.is_empty())
    .collect()
}
