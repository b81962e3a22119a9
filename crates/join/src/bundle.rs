//! The files that servers share.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One shared file.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapFile {
    /// When it was last changed, RFC 3339.
    pub timestamp: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// The CAs, keys and passwords that all servers of a cluster share, by K3s's names
/// (`ServerCA`, `ServerCAKey`, ... `PasswdFile`).
///
/// On the wire a JSON object: name to `{"Timestamp", "Content": base64}`; releases of K3s up to
/// 1.21 have a plain base64 string per name, which is read too.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootstrapBundle {
    /// Files by name.
    pub files: BTreeMap<String, BootstrapFile>,
}

impl fmt::Debug for BootstrapBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.files.keys()).finish()
    }
}

impl fmt::Debug for BootstrapFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootstrapFile({} bytes)", self.content.len())
    }
}

impl Serialize for BootstrapFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Wire::File {
            timestamp: self.timestamp.clone(),
            content: STANDARD.encode(&self.content),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for BootstrapFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (timestamp, content) = match Wire::deserialize(deserializer)? {
            Wire::File { timestamp, content } => (timestamp, content),
            Wire::Plain(content) => (String::new(), content),
        };
        let content = STANDARD
            .decode(content)
            .map_err(|_| serde::de::Error::custom("the content of a shared file is not base64"))?;
        Ok(Self { timestamp, content })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Wire {
    File {
        #[serde(rename = "Timestamp", default)]
        timestamp: String,
        #[serde(rename = "Content")]
        content: String,
    },
    Plain(String),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_the_new_one_is_written() {
        let text = r#"{"A":{"Timestamp":"2026-01-01T00:00:00Z","Content":"aGk="},"B":"aG8="}"#;
        let bundle: BootstrapBundle = serde_json::from_str(text).unwrap();
        assert_eq!(bundle.files["A"].content, b"hi");
        assert_eq!(bundle.files["B"].content, b"ho");
        let again: BootstrapBundle =
            serde_json::from_slice(&serde_json::to_vec(&bundle).unwrap()).unwrap();
        assert_eq!(again, bundle);
        assert!(serde_json::from_str::<BootstrapBundle>(r#"{"A":"%%"}"#).is_err());
    }

    #[test]
    fn debug_shows_names_only() {
        let text = r#"{"ServerCAKey":"aHVudGVyMg=="}"#;
        let bundle: BootstrapBundle = serde_json::from_str(text).unwrap();
        assert_eq!(format!("{bundle:?}"), r#"{"ServerCAKey"}"#);
    }
}
