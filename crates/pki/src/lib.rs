//! Keys, certificates and TLS configurations.
//!
//! - [`Authority`]: a CA that issues leaf certificates and signs requests.
//! - [`Identity`]: a certificate chain with its key; [`SwappableIdentity`] exchanges a server's
//!   while it runs.
//! - [`server_config`] and [`client_config`]: TLS settings with the crypto provider passed
//!   explicitly; [`TlsRules`] narrow them down. Nothing here touches a process-wide default.
//! - [`PeerName`], [`Validity`], [`ca_hash`]: what certificates say.
//! - [`Secret`], [`constant_time_eq`]: handling of what nobody should see.
//!
//! Time comes in as a value; files are read only by [`Identity::load`] and [`load_pem`].
//!
//! **Invariant:** this is the only crate that names a crypto provider for TLS.

mod authority;
mod cert;
mod error;
mod identity;
mod key;
mod rules;
mod secret;
mod tls;

pub use authority::{
    Authority, CA_LIFETIME, LEAF_LIFETIME, Leaf, LeafRequest, RENEW_BEFORE, Usage, request,
};
pub use cert::{PeerName, Validity, ca_hash, certificates, check_clock, needs_renewal, peer_name};
pub use error::{Error, Result};
pub use identity::{Identity, SwappableIdentity, load_pem};
pub use key::{generate_key_pem, key_pair};
pub use rules::{ClientName, TlsRules, TlsVersion};
pub use secret::{Secret, constant_time_eq, hex_decode, hex_encode, sha256_hex};
pub use tls::{
    ALPN_HTTP, ClientAuth, ServerTrust, client_config, client_config_with, provider, server_config,
    server_config_with,
};
