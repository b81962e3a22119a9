//! What certificates say.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Error, RENEW_BEFORE, Result, sha256_hex};

/// The subject of a certificate as Kubernetes reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName {
    /// The user: the common name.
    pub common_name: String,
    /// The user's groups: every organization.
    pub organizations: Vec<String>,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From here.
    pub not_before: SystemTime,
    /// Up to and including here.
    pub not_after: SystemTime,
}

/// The certificates of a PEM text, in order. At least one.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let list: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::Certificate(error.to_string()))?;
    if list.is_empty() {
        return Err(Error::Certificate(
            "the PEM text contains no certificate".to_owned(),
        ));
    }
    Ok(list)
}

/// Common name and organizations of a certificate.
pub fn peer_name(certificate: &CertificateDer<'_>) -> Result<PeerName> {
    let parsed = parse(certificate)?;
    let common_name = parsed
        .subject()
        .iter_common_name()
        .find_map(|value| value.as_str().ok())
        .unwrap_or_default()
        .to_owned();
    let organizations = parsed
        .subject()
        .iter_organization()
        .filter_map(|value| value.as_str().ok().map(str::to_owned))
        .collect();
    Ok(PeerName {
        common_name,
        organizations,
    })
}

impl Validity {
    /// Validity of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self> {
        let parsed = parse(certificate)?;
        let at =
            |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        Ok(Self {
            not_before: at(parsed.validity().not_before.timestamp()),
            not_after: at(parsed.validity().not_after.timestamp()),
        })
    }
}

/// Fails with a message for people when `now` lies outside the validity of the first CA in
/// `ca_pem`.
pub fn check_clock(ca_pem: &[u8], now: SystemTime) -> Result<()> {
    let list = certificates(ca_pem)?;
    let first = &list[0];
    let validity = Validity::of(first)?;
    let subject = || peer_name(first).map(|name| name.common_name);
    if now < validity.not_before {
        return Err(Error::ClockBeforeCa {
            subject: subject()?,
            now: rfc3339(now),
            starts: rfc3339(validity.not_before),
        });
    }
    if now > validity.not_after {
        return Err(Error::CaExpired {
            subject: subject()?,
            now: rfc3339(now),
            ended: rfc3339(validity.not_after),
        });
    }
    Ok(())
}

/// Whether a leaf should be issued anew: unreadable, not signed by the CA `ca_pem`, expiring
/// within [`RENEW_BEFORE`], or with other names than these.
#[must_use]
pub fn needs_renewal(
    leaf_pem: &[u8],
    ca_pem: &[u8],
    dns: &[String],
    ips: &[IpAddr],
    now: SystemTime,
) -> bool {
    let check = || -> Result<bool> {
        let (leaves, cas) = (certificates(leaf_pem)?, certificates(ca_pem)?);
        let validity = Validity::of(&leaves[0])?;
        if validity.not_after < now + RENEW_BEFORE {
            return Ok(true);
        }
        let (leaf, ca) = (parse(&leaves[0])?, parse(&cas[0])?);
        if leaf.verify_signature(Some(ca.public_key())).is_err() {
            return Ok(true);
        }
        let (mut has_dns, mut has_ips) = names(&leaf);
        let (mut dns, mut ips) = (dns.to_vec(), ips.to_vec());
        for list in [&mut has_dns, &mut dns] {
            list.sort();
            list.dedup();
        }
        for list in [&mut has_ips, &mut ips] {
            list.sort();
            list.dedup();
        }
        Ok(has_dns != dns || has_ips != ips)
    };
    check().unwrap_or(true)
}

/// The CA hash of a token: lower-case hexadecimal SHA-256.
///
/// K3s's rule: one certificate in the bundle: over the PEM bytes as they are. More: over the
/// DER of the root that the first one chains to.
pub fn ca_hash(bundle: &[u8]) -> Result<String> {
    let list = certificates(bundle)?;
    if list.len() == 1 {
        return Ok(sha256_hex(bundle));
    }
    let mut current = 0;
    // Each step goes to another certificate of the bundle, so the chain is not longer than it.
    for _ in 0..list.len() {
        let issued = parse(&list[current])?;
        if issued.issuer().as_raw() == issued.subject().as_raw() {
            return Ok(sha256_hex(&list[current]));
        }
        let next = list.iter().enumerate().position(|(at, candidate)| {
            at != current
                && parse(candidate).is_ok_and(|candidate| {
                    candidate.subject().as_raw() == issued.issuer().as_raw()
                        && issued
                            .verify_signature(Some(candidate.public_key()))
                            .is_ok()
                })
        });
        match next {
            Some(next) => current = next,
            None => break,
        }
    }
    Err(Error::Certificate(
        "the CA bundle has no root that its first certificate chains to".to_owned(),
    ))
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>> {
    X509Certificate::from_der(certificate)
        .map(|(_, parsed)| parsed)
        .map_err(|error| Error::Certificate(error.to_string()))
}

fn names(certificate: &X509Certificate<'_>) -> (Vec<String>, Vec<IpAddr>) {
    let (mut dns, mut ips) = (Vec::new(), Vec::new());
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(list) = extension.parsed_extension() else {
            continue;
        };
        for name in &list.general_names {
            match name {
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    if let Ok(four) = <[u8; 4]>::try_from(*bytes) {
                        ips.push(IpAddr::from(four));
                    } else if let Ok(sixteen) = <[u8; 16]>::try_from(*bytes) {
                        ips.push(IpAddr::from(sixteen));
                    }
                }
                _ => {}
            }
        }
    }
    (dns, ips)
}

fn rfc3339(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at)
        .replace_nanosecond(0)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    at.format(&Rfc3339)
        .unwrap_or_else(|_| "an unprintable time".to_owned())
}
