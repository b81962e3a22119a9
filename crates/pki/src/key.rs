//! Private keys.

use rcgen::KeyPair;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use crate::{Error, Result, Secret};

/// A new ECDSA P-256 key as PEM (PKCS #8).
pub fn generate_key_pem() -> Result<Secret> {
    let pair = KeyPair::generate().map_err(|_| Error::Key("the key could not be generated"))?;
    Ok(Secret::new(pair.serialize_pem()))
}

/// Parses a PEM key: PKCS #8 of any supported kind, or the `EC PRIVATE KEY` form that K3s
/// writes.
pub fn key_pair(pem: &str) -> Result<KeyPair> {
    let unreadable = Error::Key("it is not PEM with a private key");
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| unreadable)? {
        PrivateKeyDer::Pkcs8(key) => KeyPair::try_from(key.secret_pkcs8_der()),
        PrivateKeyDer::Sec1(key) => KeyPair::try_from(pkcs8_from_sec1_p256(key.secret_sec1_der())?),
        _ => {
            return Err(Error::Key(
                "this kind of key is not supported here; use PKCS #8",
            ));
        }
    }
    .map_err(|_| Error::Key("it is damaged or of an unsupported kind"))
}

/// Puts a SEC1 P-256 key into a PKCS #8 envelope: SEQUENCE { 0, { ecPublicKey, prime256v1 },
/// OCTET STRING }. Other curves fail later, when the key is parsed.
fn pkcs8_from_sec1_p256(sec1: &[u8]) -> Result<Vec<u8>> {
    const ALGORITHM: &[u8] = &[
        0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ];
    let mut body = vec![0x02, 0x01, 0x00];
    body.extend_from_slice(ALGORITHM);
    body.extend(der_tlv(0x04, sec1)?);
    der_tlv(0x30, &body)
}

fn der_tlv(tag: u8, content: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(content.len()).map_err(|_| Error::Key("it is too large"))?;
    let mut out = vec![tag];
    match length {
        0..=127 => out.push(length as u8),
        128..=255 => out.extend([0x81, length as u8]),
        _ => {
            out.push(0x82);
            out.extend(length.to_be_bytes());
        }
    }
    out.extend_from_slice(content);
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Made with `openssl ecparam -name prime256v1 -genkey -noout` for this test alone.
    const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIEJC7zKPFkOvR8goD55Iq282tNLY/rIYXYLfHrTBjxNPoAoGCCqGSM49
AwEHoUQDQgAEuimYuuQGajFjKtTZVW5VCc7fGPjPRwZRA0M4uLs60L+eUXGT3Jx1
9gbbDRy8fQLZvpegqYmKAMeWwN1rKKmTxA==
-----END EC PRIVATE KEY-----
";

    #[test]
    fn reads_the_sec1_form() {
        let pair = key_pair(SEC1).unwrap();
        assert_eq!(pair.public_key_raw().len(), 65);
    }

    #[test]
    fn refuses_rubbish() {
        assert!(key_pair("").is_err());
        assert!(
            key_pair("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").is_err()
        );
    }
}
