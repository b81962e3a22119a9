//! Why the log refused or failed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Result of a log operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a log operation did not succeed. Cheap to clone: every waiter gets the same one.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Data that was once durable cannot be read back. Nothing was changed on disk.
    #[error(
        "{} is damaged at byte {offset}: {what}; do not delete anything: remove this member \
         from the cluster and let it join again with an empty directory, or restore the \
         directory from a copy", file.display()
    )]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// Where in the file, in bytes from its start.
        offset: u64,
        /// What was found or missed there.
        what: String,
    },
    /// The file was written by a newer program.
    #[error("{} has format version {version}, this program reads version 1; use the newer program", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A call to the file system failed. From the writer this is final: see [`Error::is_final`].
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// An earlier write or sync failed; what was not durable then never will be. Reopening is
    /// the only way on.
    #[error("the log stopped after an error: {reason}")]
    Poisoned {
        /// The first error.
        reason: Arc<str>,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The asked entries are not (or no longer) in the log.
    #[error("entries {start}..{end} asked for, the log holds {first}..{next}")]
    OutOfRange {
        /// First index asked for.
        start: u64,
        /// End of the range asked for, exclusive.
        end: u64,
        /// First index in the log.
        first: u64,
        /// One past the last index in the log.
        next: u64,
    },
    /// The call would have left a hole or gone behind the purge point. Nothing was written.
    #[error("{0}")]
    Refused(String),
    /// The options contradict each other.
    #[error("log options: {0}")]
    Options(&'static str),
}

impl Error {
    /// Whether this log can never make anything durable again.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Error::Io { .. } | Error::Poisoned { .. } | Error::Damaged { .. }
        )
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_path_buf(),
            source: Arc::new(source),
        }
    }

    pub(crate) fn damaged(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged {
            file: file.to_path_buf(),
            offset,
            what: what.into(),
        }
    }

    /// What later callers are told once this error has stopped the writer.
    pub(crate) fn poison(&self) -> Self {
        match self {
            Self::Poisoned { .. } | Self::Closed => self.clone(),
            other => Self::Poisoned {
                reason: other.to_string().into(),
            },
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Damaged { .. } | Error::Unsupported { .. } => io::ErrorKind::InvalidData,
            Error::Io { source, .. } => source.kind(),
            Error::OutOfRange { .. } => io::ErrorKind::NotFound,
            Error::Refused(_) | Error::Options(_) => io::ErrorKind::InvalidInput,
            Error::Poisoned { .. } | Error::Closed => io::ErrorKind::BrokenPipe,
        };
        io::Error::new(kind, error)
    }
}
