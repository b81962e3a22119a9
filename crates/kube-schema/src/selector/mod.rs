//! Label and field selectors.

mod field;
mod label;

pub use field::FieldSelector;
pub use label::{LabelSelector, Operator, Requirement};

/// A selector that cannot be understood; the text goes into a 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// Longest selector text read.
pub const MAX_SELECTOR_BYTES: usize = 256 * 1024;

fn check_length(text: &str) -> Result<(), SelectorError> {
    match text.len() <= MAX_SELECTOR_BYTES {
        true => Ok(()),
        false => Err(SelectorError(format!(
            "selector is longer than {MAX_SELECTOR_BYTES} bytes"
        ))),
    }
}
