//! Certificates together with their keys.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::cert::certificates;
use crate::tls::provider;
use crate::{Error, Result};

/// A certificate chain with its private key, ready for TLS.
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// From PEM texts: the chain (leaf first) and the key. The two must belong together.
    pub fn from_pem(chain: &[u8], key: &str) -> Result<Self> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| Error::Key("it is not PEM with a private key"))?;
        let signer = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|_| Error::Key("it is damaged or of an unsupported kind"))?;
        let key = CertifiedKey::new(chain, signer);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(Error::Key("it does not belong to the certificate")),
        }
        Ok(Self { key: Arc::new(key) })
    }

    /// From PEM files. Blocks.
    pub fn load(chain: &Path, key: &Path) -> Result<Self> {
        let key =
            String::from_utf8(load_pem(key)?).map_err(|_| Error::Key("the file is not text"))?;
        Self::from_pem(&load_pem(chain)?, &key)
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.key)
    }
}

/// Reads a PEM file (at most 1 MiB). Blocks.
pub fn load_pem(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    const LIMIT: u64 = 1 << 20;
    let read = || {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path)?;
        if file.take(LIMIT + 1).read_to_end(&mut bytes)? as u64 > LIMIT {
            return Err(std::io::Error::other(
                "the file is too large for a certificate or key",
            ));
        }
        Ok(bytes)
    };
    read().map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

/// A server's identity that can be exchanged while the server runs; new connections see the
/// new one.
pub struct SwappableIdentity(RwLock<Identity>);

impl SwappableIdentity {
    /// Starts with this identity.
    pub fn new(identity: Identity) -> Arc<Self> {
        Arc::new(Self(RwLock::new(identity)))
    }

    /// Uses another identity from the next handshake on.
    pub fn swap(&self, identity: Identity) {
        // The lock only guards an assignment, which cannot be left half done.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// The current identity.
    pub fn current(&self) -> Identity {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl fmt::Debug for SwappableIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwappableIdentity").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for SwappableIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().certified_key())
    }
}
