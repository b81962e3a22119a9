//! Why joining did not work.

use http::StatusCode;
use trivet_pki::Error as PkiError;

use crate::TokenError;

/// Result of a call to a server.
pub type Result<T, E = JoinError> = std::result::Result<T, E>;

/// Why a server could not be joined, by what the operator has to do.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No token was given.
    #[error(
        "a token is required to join {url}: pass --token or --token-file; the servers have it in <data-dir>/server/token"
    )]
    NoToken {
        /// The server to join.
        url: String,
    },
    /// The token cannot be read.
    #[error("{0}; copy it again from <data-dir>/server/token of a server")]
    BadToken(#[from] TokenError),
    /// The URL cannot be used.
    #[error("{0}")]
    Url(String),
    /// No connection: wrong address, server down, or a firewall.
    #[error(
        "server {address} is unreachable: {cause}; check the address, and that the server runs and its port is open"
    )]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the operating system said.
        cause: String,
    },
    /// The server's CA is not the token's: another cluster, or somebody in between.
    #[error(
        "the CA of {address} does not match the token (token: {expected}, server: {found}); nothing was sent to it. \
         The token belongs to another cluster, or this is not the server it claims to be"
    )]
    CaHashMismatch {
        /// Host and port.
        address: String,
        /// Hash in the token.
        expected: String,
        /// Hash of the CA that the server shows.
        found: String,
    },
    /// The TLS connection was refused.
    #[error("the TLS connection to {address} failed: {cause}")]
    Tls {
        /// Host and port.
        address: String,
        /// Why.
        cause: String,
    },
    /// The clock is outside the CA's validity.
    #[error(transparent)]
    Clock(PkiError),
    /// 401: the server does not know the password.
    #[error("{address} refused the token: it is not the token of this cluster")]
    WrongToken {
        /// Host and port.
        address: String,
    },
    /// The token is right for agents only.
    #[error(
        "{address} refused the token for a server: it is the agent token; servers join with the server token (<data-dir>/server/token)"
    )]
    AgentTokenForServer {
        /// Host and port.
        address: String,
    },
    /// Bootstrap tokens cannot join servers.
    #[error(
        "a bootstrap token can only join agents; servers join with the server token (<data-dir>/server/token)"
    )]
    BootstrapTokenForServer,
    /// 403: known, but not allowed.
    #[error("{address} does not allow this: {message}")]
    Forbidden {
        /// Host and port.
        address: String,
        /// What the server said.
        message: String,
    },
    /// 403 to a node certificate: the name is taken by another machine.
    #[error(
        "node password rejected by {address}: another machine already has the node name {node:?}; choose another \
         with --node-name or --with-node-id, or delete that node if it is gone"
    )]
    NodePasswordRejected {
        /// Host and port.
        address: String,
        /// The node name.
        node: String,
    },
    /// 503: the server is starting or has no quorum.
    #[error("{address} is not ready: {message}")]
    NotReady {
        /// Host and port.
        address: String,
        /// What the server said.
        message: String,
    },
    /// Anything else.
    #[error("{0}")]
    Protocol(String),
}

impl JoinError {
    /// Whether the same attempt may succeed later without anybody changing a setting.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NotReady { .. })
    }

    /// Sorts an error of the HTTPS client.
    pub(crate) fn from_https(error: trivet_https::Error) -> Self {
        use trivet_https::Error as E;
        match error {
            E::Url { .. } => Self::Url(error.to_string()),
            E::Connect { address, source } => Self::Unreachable {
                address,
                cause: source.to_string(),
            },
            E::Timeout { address, after } => Self::Unreachable {
                address,
                cause: format!("no answer within {} s", after.as_secs_f32()),
            },
            E::Connection { address, reason } => Self::Unreachable {
                address,
                cause: reason,
            },
            E::Tls {
                ref address,
                ref source,
            } => {
                let address = address.clone();
                // A listener that is not TLS, or one that closes at once, is starting or foreign;
                // only a verdict of TLS itself is definite.
                match error.tls_cause() {
                    Some(cause) => Self::Tls {
                        address,
                        cause: cause.to_string(),
                    },
                    None => Self::Unreachable {
                        address,
                        cause: source.to_string(),
                    },
                }
            }
            E::Status {
                address,
                status,
                message,
                path,
            } => match status {
                StatusCode::UNAUTHORIZED => Self::WrongToken { address },
                StatusCode::FORBIDDEN => Self::Forbidden { address, message },
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                    Self::NotReady { address, message }
                }
                _ => Self::Protocol(format!("{address} answered {status} to {path}: {message}")),
            },
            other => Self::Protocol(other.to_string()),
        }
    }
}
