//! `write_files`: what would be written.

use std::fmt;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value as Json, json};

use crate::config::{Document, Record};

/// Largest file that is unpacked, in bytes.
const MAX_UNPACKED: u64 = 16 << 20;

/// Encodings that are understood.
pub(crate) const ENCODINGS: &[&str] = &[
    "b64",
    "base64",
    "gz",
    "gzip",
    "gz+b64",
    "gz+base64",
    "gzip+b64",
    "gzip+base64",
];

/// A file that would be written.
#[derive(Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Absolute path.
    pub path: String,
    /// Octal mode, four digits.
    pub mode: String,
    /// `USER` or `USER:GROUP`, if given.
    pub owner: Option<String>,
    /// The decoded content.
    pub content: Vec<u8>,
}

// The content may be secret.
impl fmt::Debug for PlannedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlannedFile")
            .field("path", &self.path)
            .field("mode", &self.mode)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl PlannedFile {
    /// Every entry of `write_files` that has a path and can be decoded.
    pub fn all(document: &Document) -> Vec<Self> {
        document
            .records("write_files")
            .iter()
            .filter_map(Self::of)
            .collect()
    }

    fn of(record: &Record) -> Option<Self> {
        let text = |name| record.get(name).map(|item| item.text.as_str());
        let content = decode(
            text("encoding").unwrap_or_default(),
            text("content").unwrap_or_default(),
        )
        .ok()?;
        let permissions = text("permissions").unwrap_or("0644");
        let mode = u32::from_str_radix(permissions, 8).ok()?;
        Some(Self {
            path: format!("/{}", text("path")?.trim_start_matches('/')),
            mode: format!("{mode:04o}"),
            owner: text("owner").map(str::to_owned),
            content,
        })
    }

    /// Path, mode, owner, size and SHA-256 of the content.
    pub fn to_json(&self) -> Json {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.content);
        let hex: String = digest
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut object = Map::new();
        object.insert("path".into(), json!(self.path));
        object.insert("mode".into(), json!(self.mode));
        object.insert("size".into(), json!(self.content.len()));
        object.insert("sha256".into(), json!(hex));
        if let Some(owner) = &self.owner {
            object.insert("owner".into(), json!(owner));
        }
        Json::Object(object)
    }
}

/// Decodes content; the error says why not.
pub(crate) fn decode(encoding: &str, content: &str) -> Result<Vec<u8>, &'static str> {
    let from_base64 = || {
        let compact: String = content.split_ascii_whitespace().collect();
        STANDARD
            .decode(compact)
            .map_err(|_| "the content is not base64")
    };
    match encoding {
        "" => Ok(content.as_bytes().to_vec()),
        "b64" | "base64" => from_base64(),
        "gz" | "gzip" => gunzip(content.as_bytes())
            .map_err(|_| "raw gzip does not survive in a text file; use gz+b64"),
        "gz+b64" | "gz+base64" | "gzip+b64" | "gzip+base64" => gunzip(&from_base64()?),
        _ => Err("unknown encoding"),
    }
}

fn gunzip(bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut content = Vec::new();
    MultiGzDecoder::new(bytes)
        .take(MAX_UNPACKED + 1)
        .read_to_end(&mut content)
        .map_err(|_| "the content is not gzip")?;
    if content.len() as u64 > MAX_UNPACKED {
        return Err("the content unpacks to more than 16 MiB");
    }
    Ok(content)
}
