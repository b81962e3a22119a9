//! What a server may insist on beyond a valid certificate: versions and cipher suites of TLS,
//! revocation lists, names.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::tls::provider;
use crate::{Error, Result};

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// A name that a client's certificate must carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientName {
    /// The common name of its subject is exactly this.
    Common(String),
    /// It is valid for this host name or address.
    Host(String),
}

/// Rules beyond the defaults.
#[derive(Debug, Clone, Default)]
pub struct TlsRules {
    /// No older version.
    pub min: Option<TlsVersion>,
    /// No newer version.
    pub max: Option<TlsVersion>,
    /// The only cipher suites of TLS 1.2, by their IANA names; all safe ones when empty. Those of
    /// TLS 1.3 are not up for choice.
    pub cipher_suites: Vec<String>,
    /// Certificates of clients that are revoked: lists in PEM or one in DER.
    pub revoked: Option<Vec<u8>>,
    /// Names of which a client's certificate must carry one; any will do when empty.
    pub names: Vec<ClientName>,
}

impl TlsRules {
    /// The crypto provider, with no other cipher suites than allowed.
    pub(crate) fn provider(&self) -> Result<Arc<CryptoProvider>> {
        if self.cipher_suites.is_empty() {
            return Ok(provider());
        }
        let mut chosen = (*provider()).clone();
        for name in &self.cipher_suites {
            let known = |suite: &rustls::SupportedCipherSuite| is_named(suite, name);
            if !chosen.cipher_suites.iter().any(known) {
                return Err(Error::Tls(format!("unexpected TLS cipher suite {name:?}")));
            }
        }
        chosen.cipher_suites.retain(|suite| {
            suite.tls13().is_some() || self.cipher_suites.iter().any(|name| is_named(suite, name))
        });
        Ok(Arc::new(chosen))
    }

    pub(crate) fn versions(&self) -> Result<Vec<&'static SupportedProtocolVersion>> {
        let all = [
            (TlsVersion::Tls12, &rustls::version::TLS12),
            (TlsVersion::Tls13, &rustls::version::TLS13),
        ];
        let allowed: Vec<_> = all
            .into_iter()
            .filter(|(version, _)| {
                self.min.is_none_or(|min| *version >= min)
                    && self.max.is_none_or(|max| *version <= max)
            })
            .map(|(_, version)| version)
            .collect();
        if allowed.is_empty() {
            return Err(Error::Tls(
                "the newest TLS version that is allowed is older than the oldest".to_owned(),
            ));
        }
        Ok(allowed)
    }

    /// Verifies clients; without a certificate they get in only if `optional`.
    pub(crate) fn verifier(
        &self,
        roots: RootCertStore,
        optional: bool,
    ) -> Result<Arc<dyn ClientCertVerifier>> {
        let mut builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), self.provider()?);
        if optional {
            builder = builder.allow_unauthenticated();
        }
        if let Some(lists) = &self.revoked {
            builder = builder
                .with_crls(revocation_lists(lists)?)
                .allow_unknown_revocation_status();
        }
        let inner = builder
            .build()
            .map_err(|error| Error::Tls(error.to_string()))?;
        if self.names.is_empty() {
            return Ok(inner);
        }
        Ok(Arc::new(Named {
            inner,
            names: self.names.clone(),
        }))
    }
}

/// IANA writes `TLS_AES_…` where the library writes `TLS13_AES_…`.
fn is_named(suite: &rustls::SupportedCipherSuite, name: &str) -> bool {
    let known = format!("{:?}", suite.suite());
    // Go leaves the hash out of the names of two suites.
    let bare = name.strip_suffix("_SHA256").unwrap_or(name);
    known == name
        || known.replacen("TLS13_", "TLS_", 1) == name
        || known
            .strip_suffix("_SHA256")
            .is_some_and(|known| known.ends_with("POLY1305") && known == bare)
}

fn revocation_lists(bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(bytes)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::Certificate(format!("revocation list: {error}")))?;
    if lists.is_empty() {
        return Ok(vec![bytes.to_vec().into()]);
    }
    Ok(lists)
}

/// A verifier that also looks at names.
struct Named {
    inner: Arc<dyn ClientCertVerifier>,
    names: Vec<ClientName>,
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Named")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Named {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .inner
            .verify_client_cert(certificate, intermediates, now)?;
        if self.names.iter().any(|name| carries(certificate, name)) {
            return Ok(verified);
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn carries(certificate: &[u8], name: &ClientName) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    match name {
        ClientName::Common(wanted) => {
            let mut names = certificate.subject().iter_common_name();
            names.any(|name| name.as_str().is_ok_and(|name| name == wanted))
        }
        ClientName::Host(wanted) => {
            let Ok(Some(extension)) = certificate.subject_alternative_name() else {
                return false;
            };
            let address = wanted.parse::<std::net::IpAddr>().ok();
            extension.value.general_names.iter().any(|name| match name {
                GeneralName::DNSName(pattern) => is_host(pattern, wanted),
                GeneralName::IPAddress(bytes) => address.is_some_and(|address| match address {
                    std::net::IpAddr::V4(address) => address.octets() == **bytes,
                    std::net::IpAddr::V6(address) => address.octets() == **bytes,
                }),
                _ => false,
            })
        }
    }
}

/// Whether a name in a certificate stands for a host; its first label may be a star.
fn is_host(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.to_ascii_lowercase(), host.to_ascii_lowercase());
    match pattern.strip_prefix("*.") {
        Some(domain) => host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest == domain),
        None => pattern == host,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{Authority, LeafRequest, Usage};

    #[test]
    fn names_in_certificates() {
        let now = SystemTime::now();
        let authority = Authority::generate("ca", now).unwrap();
        let request = LeafRequest {
            common_name: "member".to_owned(),
            organization: None,
            usage: Usage::ServerAndClient,
            dns: vec!["node-1.example".to_owned()],
            ips: vec!["10.0.0.1".parse().unwrap()],
        };
        let leaf = authority.issue(&request, now).unwrap().identity().unwrap();
        let carries = |name| carries(&leaf.chain()[0], &name);
        assert!(carries(ClientName::Common("member".to_owned())));
        assert!(!carries(ClientName::Common("membe".to_owned())));
        for (host, expected) in [
            ("node-1.example", true),
            ("NODE-1.example", true),
            ("node-2.example", false),
            ("10.0.0.1", true),
            ("10.0.0.2", false),
            ("::1", false),
        ] {
            assert_eq!(
                carries(ClientName::Host(host.to_owned())),
                expected,
                "{host}"
            );
        }
        assert!(is_host("*.example", "a.example"));
        assert!(!is_host("*.example", "a.b.example"));
        assert!(!is_host("*.example", ".example"));
    }

    #[test]
    fn versions_and_suites() {
        let rules = |min, max, suites: &[&str]| TlsRules {
            min,
            max,
            cipher_suites: suites.iter().map(|name| (*name).to_owned()).collect(),
            ..TlsRules::default()
        };
        use TlsVersion::{Tls12, Tls13};
        assert_eq!(rules(None, None, &[]).versions().unwrap().len(), 2);
        assert_eq!(rules(Some(Tls13), None, &[]).versions().unwrap().len(), 1);
        assert!(rules(Some(Tls13), Some(Tls12), &[]).versions().is_err());
        let all = provider().cipher_suites.len();
        let chosen = rules(
            None,
            None,
            &[
                "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
                "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
            ],
        );
        let chosen = chosen.provider().unwrap().cipher_suites.clone();
        assert!(chosen.len() < all);
        let old = chosen.iter().filter(|suite| suite.tls13().is_none());
        assert_eq!(old.count(), 2);
        for bad in ["TLS_RSA_WITH_RC4_128_SHA", "", "aes"] {
            assert!(rules(None, None, &[bad]).provider().is_err(), "{bad}");
        }
    }

    #[test]
    fn revocation_lists_must_be_some() {
        let rules = TlsRules {
            revoked: Some(b"nonsense".to_vec()),
            ..TlsRules::default()
        };
        let authority = Authority::generate("ca", SystemTime::now()).unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in crate::certificates(authority.cert_pem().as_bytes()).unwrap() {
            roots.add(certificate).unwrap();
        }
        assert!(rules.verifier(roots, false).is_err());
    }
}
