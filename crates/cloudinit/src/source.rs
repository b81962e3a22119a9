//! Places in a text.

use std::fmt;

/// Largest file that is looked at, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// A place in a file: line and column from 1, columns in characters, a byte-order mark not
/// counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Position {
    /// The first character.
    pub const START: Self = Self { line: 1, column: 1 };

    pub(crate) fn new(line: usize, column: usize) -> Self {
        Self { line, column }
    }

    /// The same line, `columns` further right.
    pub(crate) fn right(self, columns: usize) -> Self {
        Self {
            line: self.line,
            column: self.column + columns,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The lines of a text without their ends, as they are counted by the parser.
pub(crate) fn lines(text: &str) -> Vec<String> {
    text.split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned())
        .collect()
}
