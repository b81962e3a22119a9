//! RFC 6902, with bounds on what a small patch may blow up: `copy` can double an object with every operation,
//! and `move` can bury it ever deeper.

use json_patch::PatchOperation;
use serde_json::Value;

use super::{MAX_OPERATIONS, PatchError};
use crate::codec::{MAX_BODY_BYTES, MAX_DEPTH};

/// Most bytes that all copies of one patch may add: upstream's limit.
const MAX_COPIED_BYTES: usize = MAX_BODY_BYTES;
/// How often the true depth is measured when the estimate has grown past the limit.
const MAX_MEASUREMENTS: u32 = 16;

pub(super) fn apply(object: &mut Value, patch: Value) -> Result<(), PatchError> {
    let operations = patch.as_array().map_or(0, Vec::len);
    if operations > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations));
    }
    let patch: json_patch::Patch = serde_json::from_value(patch)
        .map_err(|e| PatchError::Malformed(format!("error decoding patch: {e}")))?;
    let mut guard = Guard {
        copied: 0,
        depth: depth(object),
        measurements: 0,
    };
    for operation in &patch.0 {
        guard.before(object, operation)?;
        json_patch::patch(object, std::slice::from_ref(operation))
            .map_err(|e| PatchError::DoesNotApply(e.to_string()))?;
    }
    Ok(())
}

struct Guard {
    /// Bytes copied so far.
    copied: usize,
    /// No object is deeper than this.
    depth: usize,
    measurements: u32,
}

impl Guard {
    fn before(&mut self, object: &Value, operation: &PatchOperation) -> Result<(), PatchError> {
        let tokens = |path: &str| path.bytes().filter(|byte| *byte == b'/').count();
        let (target, brought) = match operation {
            PatchOperation::Add(add) => (tokens(add.path.as_str()), depth(&add.value)),
            PatchOperation::Replace(replace) => {
                (tokens(replace.path.as_str()), depth(&replace.value))
            }
            PatchOperation::Move(moved) => {
                let from = tokens(moved.from.as_str());
                (tokens(moved.path.as_str()), self.depth.saturating_sub(from))
            }
            PatchOperation::Copy(copy) => {
                let source = object.pointer(copy.from.as_str());
                self.copied += source.map_or(0, |source| size(source, MAX_COPIED_BYTES));
                if self.copied > MAX_COPIED_BYTES {
                    return Err(PatchError::TooLarge);
                }
                (tokens(copy.path.as_str()), source.map_or(0, depth))
            }
            PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
        };
        let mut estimate = self.depth.max(target + brought);
        if estimate > MAX_DEPTH && self.measurements < MAX_MEASUREMENTS {
            self.measurements += 1;
            self.depth = depth(object);
            let brought = match operation {
                PatchOperation::Move(moved) => object.pointer(moved.from.as_str()).map_or(0, depth),
                _ => brought,
            };
            estimate = self.depth.max(target + brought);
        }
        self.depth = estimate;
        match estimate > MAX_DEPTH {
            true => Err(PatchError::TooLarge),
            false => Ok(()),
        }
    }
}

/// Levels of nesting. Recursion is bounded by the limit that every object here has passed.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// About the bytes of a value's text, counted up to `limit`.
fn size(value: &Value, limit: usize) -> usize {
    let mut total = 2usize;
    match value {
        Value::String(text) => total += text.len(),
        Value::Array(list) => {
            for item in list {
                total += 1 + size(item, limit);
                if total > limit {
                    break;
                }
            }
        }
        Value::Object(fields) => {
            for (name, item) in fields {
                total += name.len() + 4 + size(item, limit);
                if total > limit {
                    break;
                }
            }
        }
        _ => total += 4,
    }
    total
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn copies_cannot_grow_without_bound() {
        let mut object = json!({"a": ["0123456789"]});
        let copy = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        let error = apply(&mut object, vec![copy; 100].into());
        assert_eq!(error, Err(PatchError::TooLarge));
    }

    #[test]
    fn moves_cannot_bury_without_bound() {
        let mut object = json!({"a": {}});
        let cycle = [
            json!({"op": "add", "path": "/t", "value": {}}),
            json!({"op": "move", "from": "/a", "path": "/t/a"}),
            json!({"op": "move", "from": "/t", "path": "/a"}),
        ];
        let patch: Vec<Value> = std::iter::repeat_n(cycle, 3000).flatten().collect();
        assert_eq!(apply(&mut object, patch.into()), Err(PatchError::TooLarge));
    }

    #[test]
    fn many_harmless_moves_pass() {
        let mut object = json!({"a": 1, "b": {}});
        let cycle = [
            json!({"op": "move", "from": "/a", "path": "/b/c"}),
            json!({"op": "move", "from": "/b/c", "path": "/a"}),
        ];
        let patch: Vec<Value> = std::iter::repeat_n(cycle, 500).flatten().collect();
        assert_eq!(apply(&mut object, patch.into()), Ok(()));
        assert_eq!(object, json!({"a": 1, "b": {}}));
    }
}
