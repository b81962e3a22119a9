//! Patches: RFC 6902, RFC 7386 and strategic merge by the field tables.

mod json;
mod strategic;

use serde_json::Value;

use crate::codec::{self, DecodeError, MediaType};
use crate::{ResourceInfo, Status};

/// Most operations of one JSON patch.
pub const MAX_OPERATIONS: usize = 10_000;

/// Kinds of patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// `application/json-patch+json`.
    Json,
    /// `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
}

impl PatchKind {
    /// The kind a `Content-Type` names.
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "application/json-patch+json" => Some(PatchKind::Json),
            "application/merge-patch+json" => Some(PatchKind::Merge),
            "application/strategic-merge-patch+json" => Some(PatchKind::Strategic),
            _ => None,
        }
    }

    /// Names for a 415 answer.
    pub const ALL: [&'static str; 3] = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    ];
}

/// Why a patch was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The body is not a patch.
    #[error(transparent)]
    Body(#[from] DecodeError),
    /// The body is JSON, but no patch of its kind.
    #[error("{0}")]
    Malformed(String),
    /// More than [`MAX_OPERATIONS`].
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// The result would be larger or deeper than objects may be.
    #[error("the patch makes the object too large or nests it too deep")]
    TooLarge,
    /// An operation does not apply to the object, or a test failed.
    #[error("the server rejected our request due to an error in our request")]
    DoesNotApply(String),
}

impl PatchError {
    /// The answer to the client.
    pub fn status(&self, info: &ResourceInfo, name: &str) -> Status {
        match self {
            PatchError::Body(error) => error.status(),
            PatchError::Malformed(text) => Status::bad_request(text.clone()),
            PatchError::TooManyOperations(_) | PatchError::TooLarge => {
                Status::request_too_large(self.to_string())
            }
            PatchError::DoesNotApply(detail) => {
                Status::unprocessable(info, name, format!("{self}: {detail}"))
            }
        }
    }
}

/// Applies a patch body to an object. `schema` is the type's name in the field tables
/// ([`ResourceInfo::schema`]); only strategic patches look at it.
pub fn apply(
    kind: PatchKind,
    schema: &str,
    current: &Value,
    body: &[u8],
) -> Result<Value, PatchError> {
    let patch = codec::parse_text(body, MediaType::Json)?;
    let mut patched = current.clone();
    match kind {
        PatchKind::Json => json::apply(&mut patched, patch)?,
        PatchKind::Merge => {
            require_object(&patch)?;
            json_patch::merge(&mut patched, &patch);
        }
        PatchKind::Strategic => {
            require_object(&patch)?;
            strategic::apply(crate::schema::find(schema), &mut patched, patch)?;
        }
    }
    Ok(patched)
}

fn require_object(patch: &Value) -> Result<(), PatchError> {
    match patch.is_object() {
        true => Ok(()),
        false => Err(PatchError::Malformed("the patch must be an object".into())),
    }
}
