//! Certificate authorities and the leaves they issue.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::cert::{Validity, certificates};
use crate::{Error, Identity, Result, Secret, key_pair};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a new CA is valid: ten years, as K3s has it.
pub const CA_LIFETIME: Duration = Duration::from_secs(3650 * DAY.as_secs());

/// How long a leaf is valid: 365 days, as K3s has it.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(365 * DAY.as_secs());

/// Leaves are issued anew at start when they expire within this time.
pub const RENEW_BEFORE: Duration = Duration::from_secs(120 * DAY.as_secs());

/// A new CA starts this long before it is made, so that a joining machine whose clock runs
/// a little behind is not turned away.
const CA_BACKDATING: Duration = Duration::from_secs(5 * 60);

/// What a leaf may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
    /// Both: peers of a replicated store.
    ServerAndClient,
}

/// What a leaf is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafRequest {
    /// Common name: the user's name in a client certificate.
    pub common_name: String,
    /// Organization: the user's group in a client certificate.
    pub organization: Option<String>,
    /// What it is for.
    pub usage: Usage,
    /// DNS names it is valid for.
    pub dns: Vec<String>,
    /// Addresses it is valid for.
    pub ips: Vec<IpAddr>,
}

/// An issued certificate with its key.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The certificate, followed by its CA's.
    pub cert_pem: String,
    /// Its private key.
    pub key_pem: Secret,
}

impl Leaf {
    /// The leaf as a TLS identity.
    pub fn identity(&self) -> Result<Identity> {
        Identity::from_pem(self.cert_pem.as_bytes(), self.key_pem.expose())
    }
}

/// A CA with its key.
pub struct Authority {
    cert_pem: String,
    key_pem: Secret,
    key_id: Option<Vec<u8>>,
    validity: Validity,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a self-signed CA with a new ECDSA P-256 key.
    pub fn generate(common_name: &str, now: SystemTime) -> Result<Self> {
        let key = KeyPair::generate().map_err(|_| Error::Key("the key could not be generated"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(common_name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyCertSign,
        ];
        params.not_before = whole_seconds(now.checked_sub(CA_BACKDATING).unwrap_or(now));
        params.not_after = whole_seconds(now + CA_LIFETIME);
        let certificate = params
            .self_signed(&key)
            .map_err(|error| Error::Certificate(error.to_string()))?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem())
    }

    /// Takes up an existing CA. Its key must belong to its certificate.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self> {
        let list = certificates(cert_pem.as_bytes())?;
        let first: &CertificateDer<'static> = &list[0];
        let key = key_pair(key_pem)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(first)
            .map_err(|error| Error::Certificate(error.to_string()))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(Error::Key("it does not belong to the CA's certificate"));
        }
        if !parsed.is_ca() {
            return Err(Error::Certificate("it is not a CA".to_owned()));
        }
        let key_id =
            parsed
                .iter_extensions()
                .find_map(|extension| match extension.parsed_extension() {
                    x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => {
                        Some(id.0.to_vec())
                    }
                    _ => None,
                });
        let issuer = Issuer::from_ca_cert_der(first, key)
            .map_err(|error| Error::Certificate(error.to_string()))?;
        Ok(Self {
            cert_pem: cert_pem.to_owned(),
            key_pem: Secret::new(key_pem),
            key_id,
            validity: Validity::of(first)?,
            issuer,
        })
    }

    /// The CA's certificate (or bundle), byte for byte as it was given.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The CA's key.
    pub fn key_pem(&self) -> &Secret {
        &self.key_pem
    }

    /// When the CA is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Issues a leaf with a new key.
    pub fn issue(&self, request: &LeafRequest, now: SystemTime) -> Result<Leaf> {
        let key = KeyPair::generate().map_err(|_| Error::Key("the key could not be generated"))?;
        let cert_pem = self.sign(&self.params(request, now)?, &key)?;
        Ok(Leaf {
            cert_pem,
            key_pem: Secret::new(key.serialize_pem()),
        })
    }

    /// Issues a leaf for an existing key (PEM).
    pub fn issue_for_key(
        &self,
        request: &LeafRequest,
        key_pem: &str,
        now: SystemTime,
    ) -> Result<Leaf> {
        let key = key_pair(key_pem)?;
        let cert_pem = self.sign(&self.params(request, now)?, &key)?;
        Ok(Leaf {
            cert_pem,
            key_pem: Secret::new(key_pem),
        })
    }

    /// Signs the key of a DER certificate request. Only the key is taken from the request; what
    /// the certificate says is decided by the caller. Returns PEM: the leaf, then the CA.
    pub fn sign_request(
        &self,
        csr_der: &[u8],
        request: &LeafRequest,
        now: SystemTime,
    ) -> Result<String> {
        let unreadable = |error: &dyn fmt::Display| Error::Request(error.to_string());
        let (_, csr) =
            X509CertificationRequest::from_der(csr_der).map_err(|error| unreadable(&error))?;
        csr.verify_signature().map_err(|error| unreadable(&error))?;
        let key = SubjectPublicKeyInfo::from_der(csr.certification_request_info.subject_pki.raw)
            .map_err(|error| unreadable(&error))?;
        self.sign(&self.params(request, now)?, &key)
    }

    fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Result<String> {
        let certificate = params
            .signed_by(key, &self.issuer)
            .map_err(|error| Error::Certificate(error.to_string()))?;
        Ok(format!("{}{}", certificate.pem(), self.cert_pem))
    }

    fn params(&self, request: &LeafRequest, now: SystemTime) -> Result<CertificateParams> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&request.common_name, request.organization.as_deref());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = match request.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::ServerAndClient => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        };
        // Like K3s: valid as early as the CA, so that small differences between clocks do not
        // matter, and never longer than it.
        params.not_before = whole_seconds(self.validity.not_before);
        params.not_after = whole_seconds((now + LEAF_LIFETIME).min(self.validity.not_after));
        params.use_authority_key_identifier_extension = self.key_id.is_some();
        let mut dns = request.dns.clone();
        dns.sort();
        dns.dedup();
        for name in dns {
            let value = name
                .as_str()
                .try_into()
                .map_err(|_| Error::Name(name.clone()))?;
            params.subject_alt_names.push(SanType::DnsName(value));
        }
        let mut ips = request.ips.clone();
        ips.sort();
        ips.dedup();
        params
            .subject_alt_names
            .extend(ips.into_iter().map(SanType::IpAddress));
        Ok(params)
    }
}

/// A DER certificate request and its new key, for [`Authority::sign_request`] at a server. The
/// subject is only informative.
pub fn request(common_name: &str) -> Result<(Vec<u8>, Secret)> {
    let key = KeyPair::generate().map_err(|_| Error::Key("the key could not be generated"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name, None);
    let csr = params
        .serialize_request(&key)
        .map_err(|error| Error::Request(error.to_string()))?;
    Ok((csr.der().to_vec(), Secret::new(key.serialize_pem())))
}

fn name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn whole_seconds(at: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from(at)
        .replace_nanosecond(0)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{check_clock, needs_renewal, peer_name};

    fn leaf() -> LeafRequest {
        LeafRequest {
            common_name: "system:admin".to_owned(),
            organization: Some("system:masters".to_owned()),
            usage: Usage::Client,
            dns: vec!["localhost".to_owned()],
            ips: vec![[127, 0, 0, 1].into()],
        }
    }

    #[test]
    fn leaves_say_what_was_asked_for() {
        let now = SystemTime::now();
        let ca = Authority::generate("test-ca@1", now).unwrap();
        let issued = ca.issue(&leaf(), now).unwrap();
        let chain = certificates(issued.cert_pem.as_bytes()).unwrap();
        assert_eq!(chain.len(), 2);
        let name = peer_name(&chain[0]).unwrap();
        assert_eq!(name.common_name, "system:admin");
        assert_eq!(name.organizations, ["system:masters"]);
        let validity = Validity::of(&chain[0]).unwrap();
        assert_eq!(validity.not_before, ca.validity().not_before);
        issued.identity().unwrap();
    }

    #[test]
    fn leaves_are_renewed_for_age_names_and_issuer() {
        let now = SystemTime::now();
        let ca = Authority::generate("test-ca@1", now).unwrap();
        let other = Authority::generate("test-ca@2", now).unwrap();
        let request = leaf();
        let pem = ca.issue(&request, now).unwrap().cert_pem;
        let renew = |ca: &Authority, dns: &[String], at| {
            needs_renewal(
                pem.as_bytes(),
                ca.cert_pem().as_bytes(),
                dns,
                &request.ips,
                at,
            )
        };
        assert!(!renew(&ca, &request.dns, now));
        assert!(renew(
            &ca,
            &request.dns,
            now + LEAF_LIFETIME - RENEW_BEFORE + DAY
        ));
        assert!(renew(&ca, &["other".to_owned()], now));
        assert!(renew(&other, &request.dns, now));
        assert!(needs_renewal(b"", ca.cert_pem().as_bytes(), &[], &[], now));
    }

    #[test]
    fn requests_are_signed_with_the_names_of_the_server() {
        let now = SystemTime::now();
        let ca = Authority::generate("test-ca@1", now).unwrap();
        let (csr, key) = request("system:masters-please").unwrap();
        let pem = ca.sign_request(&csr, &leaf(), now).unwrap();
        assert_eq!(
            peer_name(&certificates(pem.as_bytes()).unwrap()[0])
                .unwrap()
                .common_name,
            "system:admin"
        );
        Identity::from_pem(pem.as_bytes(), key.expose()).unwrap();

        let mut forged = csr.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert!(matches!(
            ca.sign_request(&forged, &leaf(), now),
            Err(Error::Request(_))
        ));
        assert!(ca.sign_request(b"", &leaf(), now).is_err());
    }

    #[test]
    fn a_clock_before_the_ca_is_told() {
        let now = SystemTime::now();
        let ca = Authority::generate("test-ca@1", now).unwrap();
        let pem = ca.cert_pem().as_bytes();
        check_clock(pem, now).unwrap();
        assert!(matches!(
            check_clock(pem, now - DAY),
            Err(Error::ClockBeforeCa { .. })
        ));
        assert!(matches!(
            check_clock(pem, now + CA_LIFETIME + DAY),
            Err(Error::CaExpired { .. })
        ));
    }

    #[test]
    fn a_key_of_another_ca_is_refused() {
        let now = SystemTime::now();
        let (a, b) = (
            Authority::generate("a", now).unwrap(),
            Authority::generate("b", now).unwrap(),
        );
        assert!(matches!(
            Authority::from_pem(a.cert_pem(), b.key_pem().expose()),
            Err(Error::Key(_))
        ));
    }

    #[test]
    fn the_hash_of_a_bundle_is_that_of_its_root() {
        let now = SystemTime::now();
        let (a, b) = (
            Authority::generate("a", now).unwrap(),
            Authority::generate("b", now).unwrap(),
        );
        assert_eq!(
            crate::ca_hash(a.cert_pem().as_bytes()).unwrap(),
            crate::sha256_hex(a.cert_pem().as_bytes())
        );
        let bundle = format!("{}{}", a.cert_pem(), b.cert_pem());
        let root = &certificates(a.cert_pem().as_bytes()).unwrap()[0];
        assert_eq!(
            crate::ca_hash(bundle.as_bytes()).unwrap(),
            crate::sha256_hex(root)
        );
        assert!(crate::ca_hash(b"").is_err());
    }
}
