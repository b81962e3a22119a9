//! Request and response bodies: JSON, YAML and protobuf to and from [`Value`].

mod decode_proto;
mod encode_proto;
mod tree;
pub(crate) mod wire;

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};
use serde_json::Value;

use crate::Status;

/// Largest body read: upstream's limit.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;
/// Deepest nesting read.
pub const MAX_DEPTH: usize = 100;
/// Most duplicate fields reported.
const MAX_DUPLICATES: usize = 100;

/// Encodings of request and response bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl MediaType {
    /// The encoding a `Content-Type` names; parameters are ignored. An empty type is JSON.
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "" | "application/json" => Some(MediaType::Json),
            "application/yaml" => Some(MediaType::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(MediaType::Protobuf),
            _ => None,
        }
    }

    /// The media type's name.
    pub const fn content_type(self) -> &'static str {
        match self {
            MediaType::Json => "application/json",
            MediaType::Yaml => "application/yaml",
            MediaType::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    /// Every name, for 406 and 415 answers.
    pub const ALL: [&'static str; 3] = [
        Self::Json.content_type(),
        Self::Yaml.content_type(),
        Self::Protobuf.content_type(),
    ];
}

/// A decoded body.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// `apiVersion`, empty when the body has none.
    pub api_version: String,
    /// `kind`, empty when the body has none.
    pub kind: String,
    /// The object.
    pub value: Value,
    /// Paths of fields that occurred more than once; the last one counts.
    pub duplicates: Vec<String>,
}

/// Why a body could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More than [`MAX_BODY_BYTES`].
    #[error("body is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// The bytes are not what the content type says.
    #[error("{0}")]
    Malformed(String),
    /// Protobuf of a kind without a field table.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// From the envelope.
        api_version: String,
        /// From the envelope.
        kind: String,
    },
}

impl DecodeError {
    /// The answer to the client.
    pub fn status(&self) -> Status {
        match self {
            DecodeError::TooLarge => Status::too_large_body(MAX_BODY_BYTES),
            other => Status::bad_request(other.to_string()),
        }
    }
}

/// A value that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot encode: {0}")]
pub struct EncodeError(pub String);

/// Decodes a body. Text must be one document holding one object.
pub fn decode(body: &[u8], media: MediaType) -> Result<Decoded, DecodeError> {
    decode_as(body, media, "", "")
}

/// [`decode`] for a body that may leave out its type, as those of a known path may.
/// The type is filled in where it is missing.
pub fn decode_as(
    body: &[u8],
    media: MediaType,
    api_version: &str,
    kind: &str,
) -> Result<Decoded, DecodeError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(DecodeError::TooLarge);
    }
    let mut decoded = match media {
        MediaType::Json | MediaType::Yaml => {
            let (value, duplicates) = tree::parse(body, media)?;
            if !value.is_object() {
                return Err(DecodeError::Malformed("the body must be one object".into()));
            }
            let text = |name| {
                value
                    .get(name)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            Decoded {
                api_version: text("apiVersion"),
                kind: text("kind"),
                value,
                duplicates,
            }
        }
        MediaType::Protobuf => decode_proto::decode(body, api_version, kind)?,
    };
    if decoded.api_version.is_empty() && decoded.kind.is_empty() && !kind.is_empty() {
        decoded.api_version = api_version.to_owned();
        decoded.kind = kind.to_owned();
    }
    if !decoded.kind.is_empty() {
        crate::meta::set_type(&mut decoded.value, &decoded.api_version, &decoded.kind);
    }
    Ok(decoded)
}

/// Any YAML or JSON text as a value, without looking at its type: patches.
pub fn parse_text(body: &[u8], media: MediaType) -> Result<Value, DecodeError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(DecodeError::TooLarge);
    }
    tree::parse(body, media).map(|(value, _)| value)
}

/// JSON bytes.
pub fn to_json(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// YAML text.
pub fn to_yaml(value: &Value) -> Result<String, EncodeError> {
    serde_saphyr::to_string(value).map_err(|e| EncodeError(e.to_string()))
}

/// Protobuf with envelope. Kinds without a table cannot be written; answer those in JSON.
pub fn to_protobuf(value: &Value) -> Result<Vec<u8>, EncodeError> {
    encode_proto::encode(value)
}

/// Standard alphabet; padding is written, and not insisted on when reading.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Bytes of a base64 text. Line breaks are skipped, as Go does.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    match text.contains(['\n', '\r']) {
        false => BASE64.decode(text).ok(),
        true => BASE64.decode(text.replace(['\n', '\r'], "")).ok(),
    }
}

/// Base64 text of bytes.
pub fn to_base64(bytes: &[u8]) -> String {
    general_purpose::STANDARD.encode(bytes)
}

pub(crate) fn is_base64(text: &str) -> bool {
    from_base64(text).is_some()
}
