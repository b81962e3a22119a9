//! Errors.

use std::io;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with a key, a certificate or a TLS setting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A PEM or DER certificate cannot be read.
    #[error("not a usable certificate: {0}")]
    Certificate(String),
    /// A private key cannot be read. Never says what is in it.
    #[error("not a usable private key: {0}")]
    Key(&'static str),
    /// A certificate request is malformed or not signed by its key.
    #[error("not a usable certificate request: {0}")]
    Request(String),
    /// A name cannot stand in a certificate.
    #[error("{0:?} cannot be used as a name in a certificate")]
    Name(String),
    /// The clock is before the start of the CA's validity.
    #[error(
        "the clock of this machine shows {now}, but the cluster's CA {subject:?} is only valid from {starts}; \
         set the clock and try again"
    )]
    ClockBeforeCa {
        /// Subject of the CA.
        subject: String,
        /// What the clock shows (UTC).
        now: String,
        /// Start of validity (UTC).
        starts: String,
    },
    /// The CA is no longer valid.
    #[error(
        "the CA {subject:?} was only valid until {ended}, and the clock of this machine shows {now}"
    )]
    CaExpired {
        /// Subject of the CA.
        subject: String,
        /// What the clock shows (UTC).
        now: String,
        /// End of validity (UTC).
        ended: String,
    },
    /// TLS cannot be set up with these parts.
    #[error("TLS settings are not usable: {0}")]
    Tls(String),
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl From<rustls::Error> for Error {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error.to_string())
    }
}
