//! TLS settings for servers and clients.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::cert::certificates;
use crate::{Error, Identity, Result, SwappableIdentity, TlsRules};

/// ALPN protocols of an HTTPS port, best first.
pub const ALPN_HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

/// The crypto provider. The one place that names it.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What a server asks of its clients.
#[derive(Debug, Clone, Copy)]
pub enum ClientAuth<'a> {
    /// No certificate is asked for.
    None,
    /// A certificate is verified against these CAs (PEM) if the client shows one; a wrong one
    /// fails the handshake.
    Optional(&'a [u8]),
    /// Every client must show a certificate of one of these CAs (PEM).
    Required(&'a [u8]),
}

/// What a client accepts from a server.
#[derive(Debug, Clone, Copy)]
pub enum ServerTrust<'a> {
    /// Only certificates that chain to these CAs (PEM) and carry the server's name.
    Pinned(&'a [u8]),
    /// Anything. Only for fetching the CA that is then pinned, and where an administrator asked
    /// for nothing better than encryption; never send a credential over it.
    Unverified,
}

/// TLS 1.2 and 1.3 for a server.
pub fn server_config(
    identity: Arc<SwappableIdentity>,
    clients: ClientAuth<'_>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>> {
    server_config_with(identity, clients, &TlsRules::default(), alpn)
}

/// TLS for a server that has rules of its own.
pub fn server_config_with(
    identity: Arc<SwappableIdentity>,
    clients: ClientAuth<'_>,
    rules: &TlsRules,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(rules.provider()?)
        .with_protocol_versions(&rules.versions()?)?;
    let builder = match clients {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional(pem) => {
            builder.with_client_cert_verifier(rules.verifier(roots(pem)?, true)?)
        }
        ClientAuth::Required(pem) => {
            builder.with_client_cert_verifier(rules.verifier(roots(pem)?, false)?)
        }
    };
    let mut config = builder.with_cert_resolver(identity);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// TLS 1.2 and 1.3 for a client, with a certificate of its own or without.
pub fn client_config(
    trust: ServerTrust<'_>,
    identity: Option<&Identity>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>> {
    client_config_with(trust, identity, &TlsRules::default(), alpn)
}

/// TLS for a client that has rules of its own, as far as they concern clients.
pub fn client_config_with(
    trust: ServerTrust<'_>,
    identity: Option<&Identity>,
    rules: &TlsRules,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(rules.provider()?)
        .with_protocol_versions(&rules.versions()?)?;
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        ServerTrust::Pinned(pem) => {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots(pem)?), provider())
                .build()
                .map_err(|error| Error::Tls(error.to_string()))?
        }
        ServerTrust::Unverified => Arc::new(AcceptAnyServer(provider())),
    };
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => {
            let key = (*identity.certified_key()).clone();
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

fn roots(pem: &[u8]) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store
            .add(certificate)
            .map_err(|error| Error::Certificate(error.to_string()))?;
    }
    Ok(store)
}

/// Accepts any certificate, but still checks that the server holds its key.
struct AcceptAnyServer(Arc<CryptoProvider>);

impl fmt::Debug for AcceptAnyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AcceptAnyServer")
    }
}

impl ServerCertVerifier for AcceptAnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
