//! What can be wrong with data, and with reading it.

use std::fmt;
use std::io;

/// A place where data is not what its format demands. What lies before it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file, relative to the directory that was read.
    pub file: String,
    /// Where in the file, in bytes. 0 if it concerns the file as a whole.
    pub offset: u64,
    /// What is wrong, and what follows from it.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file, self.offset, self.what)
    }
}

/// Why data could not be read at all. Nothing of it was changed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// SQLite cannot make sense of the database.
    #[error("the database cannot be read: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The data breaks its format where nothing can be read without it.
    #[error("{0}")]
    Damaged(Damage),
    /// The caller's own function gave up.
    #[error("{0}")]
    Stopped(Box<dyn std::error::Error + Send + Sync>),
}

/// Inside the crate: bad bytes, which end a piece of data, or a failure, which ends everything.
#[derive(Debug)]
pub(crate) enum Fault {
    /// Bytes that break the format, at an offset in the file being read.
    Bad { offset: u64, what: String },
    /// Input or output failed.
    Io { what: String, source: io::Error },
}

impl Fault {
    pub(crate) fn bad(offset: u64, what: impl Into<String>) -> Self {
        Self::Bad {
            offset,
            what: what.into(),
        }
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }

    /// Bad bytes become damage of that file.
    pub(crate) fn into_damage(self, file: &str) -> Result<Damage, ReadError> {
        match self {
            Self::Bad { offset, what } => Ok(Damage {
                file: file.to_owned(),
                offset,
                what,
            }),
            Self::Io { what, source } => Err(ReadError::Io { what, source }),
        }
    }
}
