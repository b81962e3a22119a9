//! Errors of the client.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

/// Result of a client call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request got no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL of the server cannot be used.
    #[error("{url:?} is not a usable server URL: {reason}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// No TCP connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("TLS with {address} failed: {source}")]
    Tls {
        /// Host and port.
        address: String,
        /// Why; holds a [`rustls::Error`] where TLS itself refused.
        source: io::Error,
    },
    /// No answer in time. The request may have had its effect.
    #[error("{address} did not answer within {} s", after.as_secs_f32())]
    Timeout {
        /// Host and port.
        address: String,
        /// The limit.
        after: Duration,
    },
    /// The connection broke. The request may have had its effect.
    #[error("the connection to {address} failed: {reason}")]
    Connection {
        /// Host and port.
        address: String,
        /// Why.
        reason: String,
    },
    /// The server answered with another status than 2xx.
    #[error("{address} answered {status} to {path}: {message}")]
    Status {
        /// Host and port.
        address: String,
        /// Path of the request.
        path: String,
        /// The status.
        status: http::StatusCode,
        /// First part of the answer's text.
        message: String,
    },
    /// A body is larger than allowed.
    #[error("a body is larger than {limit_bytes} bytes")]
    BodyTooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The answer is not what was expected.
    #[error("{address} sent an answer to {path} that cannot be understood: {reason}")]
    Malformed {
        /// Host and port.
        address: String,
        /// Path of the request.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The request cannot be put together.
    #[error("the request cannot be sent: {0}")]
    Request(String),
}

impl Error {
    /// The status of an answer that was not 2xx.
    pub fn status(&self) -> Option<http::StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// What TLS had to object to, when the handshake failed for that.
    pub fn tls_cause(&self) -> Option<&rustls::Error> {
        let Self::Tls { source, .. } = self else {
            return None;
        };
        source.get_ref()?.downcast_ref()
    }
}

/// The innermost messages of an error, for one line of text.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut current = error.source();
    while let Some(source) = current {
        let part = source.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        current = source.source();
    }
    text
}
