//! Errors of single fields, in the form upstream prints them.

use std::fmt;

use serde_json::Value;

use super::Cause;

/// Kinds of field errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// Refers to something that does not exist.
    NotFound,
    /// Missing.
    Required,
    /// Occurs twice where it may not.
    Duplicate,
    /// Malformed.
    Invalid,
    /// Not one of the allowed values.
    NotSupported,
    /// Not allowed here or now.
    Forbidden,
    /// Longer than allowed.
    TooLong,
}

impl FieldErrorKind {
    fn reason(self) -> &'static str {
        match self {
            FieldErrorKind::NotFound => "FieldValueNotFound",
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::Invalid => "FieldValueInvalid",
            FieldErrorKind::NotSupported => "FieldValueNotSupported",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::TooLong => "FieldValueTooLong",
        }
    }

    fn text(self) -> &'static str {
        match self {
            FieldErrorKind::NotFound => "Not found",
            FieldErrorKind::Required => "Required value",
            FieldErrorKind::Duplicate => "Duplicate value",
            FieldErrorKind::Invalid => "Invalid value",
            FieldErrorKind::NotSupported => "Unsupported value",
            FieldErrorKind::Forbidden => "Forbidden",
            FieldErrorKind::TooLong => "Too long",
        }
    }
}

/// One broken rule.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// Field path, `spec.containers[0].name`.
    pub path: String,
    /// The value complained about.
    pub value: Value,
    /// Explanation, possibly empty.
    pub detail: String,
}

impl FieldError {
    fn new(kind: FieldErrorKind, path: &str, value: Value, detail: &str) -> Self {
        FieldError {
            kind,
            path: path.to_owned(),
            value,
            detail: detail.to_owned(),
        }
    }

    /// A missing field.
    pub fn required(path: &str, detail: &str) -> Self {
        Self::new(FieldErrorKind::Required, path, Value::Null, detail)
    }

    /// A malformed value.
    pub fn invalid(path: &str, value: impl Into<Value>, detail: &str) -> Self {
        Self::new(FieldErrorKind::Invalid, path, value.into(), detail)
    }

    /// A value outside a set.
    pub fn not_supported(path: &str, value: impl Into<Value>, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = match list.is_empty() {
            true => String::new(),
            false => format!("supported values: {}", list.join(", ")),
        };
        Self::new(FieldErrorKind::NotSupported, path, value.into(), &detail)
    }

    /// Something that may not be set or changed.
    pub fn forbidden(path: &str, detail: &str) -> Self {
        Self::new(FieldErrorKind::Forbidden, path, Value::Null, detail)
    }

    /// A repeated value.
    pub fn duplicate(path: &str, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, path, value.into(), "")
    }

    /// A value over its limit.
    pub fn too_long(path: &str, max_bytes: usize) -> Self {
        let detail = format!("may not be more than {max_bytes} bytes");
        Self::new(FieldErrorKind::TooLong, path, Value::Null, &detail)
    }

    /// A reference to something missing.
    pub fn not_found(path: &str, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, path, value.into(), "")
    }

    /// The message without the path.
    pub fn body(&self) -> String {
        let kind = self.kind.text();
        let mut text = match self.kind {
            FieldErrorKind::Required | FieldErrorKind::Forbidden | FieldErrorKind::TooLong => {
                kind.to_owned()
            }
            _ => format!("{kind}: {}", self.value),
        };
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// The same as a cause of a Status.
    pub fn cause(&self) -> Cause {
        Cause {
            reason: self.kind.reason().to_owned(),
            message: self.body(),
            field: self.path.clone(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (error, text) in [
            (FieldError::required("a.b", ""), "a.b: Required value"),
            (FieldError::required("a", "why"), "a: Required value: why"),
            (
                FieldError::invalid("a", "x\"y", "no"),
                "a: Invalid value: \"x\\\"y\": no",
            ),
            (FieldError::invalid("a", 7, ""), "a: Invalid value: 7"),
            (
                FieldError::not_supported("a", "x", &["y", "z"]),
                "a: Unsupported value: \"x\": supported values: \"y\", \"z\"",
            ),
            (
                FieldError::too_long("a", 63),
                "a: Too long: may not be more than 63 bytes",
            ),
            (FieldError::forbidden("a", "set"), "a: Forbidden: set"),
            (FieldError::duplicate("a", "x"), "a: Duplicate value: \"x\""),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
