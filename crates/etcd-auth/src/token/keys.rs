//! Keys for signing and checking, from PEM files.

use std::fmt;

use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    self as sign, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding,
    RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};

use super::spec::SignMethod;

/// What signs tokens. Not shown by `Debug`.
pub(super) enum Signer {
    Hmac(hmac::Key),
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// What checks them.
pub(super) enum Verifier {
    Hmac(hmac::Key),
    Public(UnparsedPublicKey<Vec<u8>>),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(..)")
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(..)")
    }
}

/// Which family of keys a method takes.
pub(super) enum Family {
    Hmac(hmac::Algorithm),
    Rsa(&'static dyn RsaEncoding, &'static dyn VerificationAlgorithm),
    Ecdsa(
        &'static EcdsaSigningAlgorithm,
        &'static dyn VerificationAlgorithm,
    ),
    Ed25519,
}

pub(super) fn family(method: SignMethod) -> Family {
    match method {
        SignMethod::Hs256 => Family::Hmac(hmac::HMAC_SHA256),
        SignMethod::Hs384 => Family::Hmac(hmac::HMAC_SHA384),
        SignMethod::Hs512 => Family::Hmac(hmac::HMAC_SHA512),
        SignMethod::Rs256 => {
            Family::Rsa(&sign::RSA_PKCS1_SHA256, &sign::RSA_PKCS1_2048_8192_SHA256)
        }
        SignMethod::Rs384 => {
            Family::Rsa(&sign::RSA_PKCS1_SHA384, &sign::RSA_PKCS1_2048_8192_SHA384)
        }
        SignMethod::Rs512 => {
            Family::Rsa(&sign::RSA_PKCS1_SHA512, &sign::RSA_PKCS1_2048_8192_SHA512)
        }
        SignMethod::Ps256 => Family::Rsa(&sign::RSA_PSS_SHA256, &sign::RSA_PSS_2048_8192_SHA256),
        SignMethod::Ps384 => Family::Rsa(&sign::RSA_PSS_SHA384, &sign::RSA_PSS_2048_8192_SHA384),
        SignMethod::Ps512 => Family::Rsa(&sign::RSA_PSS_SHA512, &sign::RSA_PSS_2048_8192_SHA512),
        SignMethod::Es256 => Family::Ecdsa(
            &sign::ECDSA_P256_SHA256_FIXED_SIGNING,
            &sign::ECDSA_P256_SHA256_FIXED,
        ),
        SignMethod::Es384 => Family::Ecdsa(
            &sign::ECDSA_P384_SHA384_FIXED_SIGNING,
            &sign::ECDSA_P384_SHA384_FIXED,
        ),
        SignMethod::EdDsa => Family::Ed25519,
    }
}

impl Signer {
    /// Reads a private key. `None`: it is not one for this method.
    pub(super) fn load(method: SignMethod, file: &[u8]) -> Option<Self> {
        let family = family(method);
        if let Family::Hmac(algorithm) = family {
            return (!file.is_empty()).then(|| Self::Hmac(hmac::Key::new(algorithm, file)));
        }
        let key = PrivateKeyDer::from_pem_slice(file).ok()?;
        match (family, key) {
            (Family::Rsa(encoding, _), PrivateKeyDer::Pkcs8(key)) => {
                let pair = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).ok()?;
                Some(Self::Rsa(Box::new(pair), encoding))
            }
            (Family::Rsa(encoding, _), PrivateKeyDer::Pkcs1(key)) => {
                let pair = RsaKeyPair::from_der(key.secret_pkcs1_der()).ok()?;
                Some(Self::Rsa(Box::new(pair), encoding))
            }
            (Family::Ecdsa(algorithm, _), PrivateKeyDer::Pkcs8(key)) => {
                let random = SystemRandom::new();
                EcdsaKeyPair::from_pkcs8(algorithm, key.secret_pkcs8_der(), &random)
                    .ok()
                    .map(Self::Ecdsa)
            }
            (Family::Ecdsa(algorithm, _), PrivateKeyDer::Sec1(key)) => {
                let (private, public) = sec1_parts(key.secret_sec1_der())?;
                let random = SystemRandom::new();
                EcdsaKeyPair::from_private_key_and_public_key(algorithm, private, public, &random)
                    .ok()
                    .map(Self::Ecdsa)
            }
            (Family::Ed25519, PrivateKeyDer::Pkcs8(key)) => {
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der())
                    .ok()
                    .map(Self::Ed25519)
            }
            _ => None,
        }
    }

    /// Signs; `None` when the system gives no random numbers.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Hmac(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
            Self::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random(), message, &mut signature)
                    .ok()?;
                Some(signature)
            }
            Self::Ecdsa(pair) => Some(pair.sign(&random(), message).ok()?.as_ref().to_vec()),
            Self::Ed25519(pair) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }

    /// What checks the signatures of this key.
    pub(super) fn verifier(&self, method: SignMethod) -> Verifier {
        let public = match self {
            Self::Hmac(key) => return Verifier::Hmac(key.clone()),
            Self::Rsa(pair, _) => pair.public().as_ref().to_vec(),
            Self::Ecdsa(pair) => pair.public_key().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
        };
        match family(method) {
            Family::Rsa(_, algorithm) | Family::Ecdsa(_, algorithm) => {
                Verifier::Public(UnparsedPublicKey::new(algorithm, public))
            }
            Family::Ed25519 | Family::Hmac(_) => {
                Verifier::Public(UnparsedPublicKey::new(&sign::ED25519, public))
            }
        }
    }
}

fn random() -> SystemRandom {
    SystemRandom::new()
}

impl Verifier {
    /// Reads a public key, or the one in a certificate. `None`: it is not one for this method.
    pub(super) fn load(method: SignMethod, file: &[u8]) -> Option<Self> {
        let (algorithm, oid): (&'static dyn VerificationAlgorithm, &str) = match family(method) {
            Family::Hmac(_) => return None,
            Family::Rsa(_, algorithm) => (algorithm, "1.2.840.113549.1.1.1"),
            Family::Ecdsa(_, algorithm) => (algorithm, "1.2.840.10045.2.1"),
            Family::Ed25519 => (&sign::ED25519, "1.3.101.112"),
        };
        let key = |info: &SubjectPublicKeyInfo<'_>| {
            (info.algorithm.algorithm.to_id_string() == oid)
                .then(|| info.subject_public_key.data.to_vec())
        };
        let public = if let Ok(info) = SubjectPublicKeyInfoDer::from_pem_slice(file) {
            let (_, info) = SubjectPublicKeyInfo::from_der(&info).ok()?;
            key(&info)?
        } else {
            let certificate = CertificateDer::from_pem_slice(file).ok()?;
            let (_, certificate) = X509Certificate::from_der(&certificate).ok()?;
            key(certificate.public_key())?
        };
        Some(Self::Public(UnparsedPublicKey::new(algorithm, public)))
    }

    pub(super) fn accepts(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
            Self::Public(key) => key.verify(message, signature).is_ok(),
        }
    }
}

/// Private and public part of an `EC PRIVATE KEY` (RFC 5915), which ring wants apart: a sequence
/// of version, octet string, and in `[0]` the curve and in `[1]` the public key as a bit string.
fn sec1_parts(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (tag, body, _) = element(der)?;
    let (0x02, _, rest) = element((tag == 0x30).then_some(body)?)? else {
        return None;
    };
    let (0x04, private, mut rest) = element(rest)? else {
        return None;
    };
    while !rest.is_empty() {
        let (tag, content, after) = element(rest)?;
        if tag == 0xa1 {
            let (0x03, bits, _) = element(content)? else {
                return None;
            };
            // The first byte counts unused bits; a key has none.
            return bits.strip_prefix(&[0]).map(|public| (private, public));
        }
        rest = after;
    }
    None
}

/// One DER element: tag, content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (&length, rest) = rest.split_first()?;
            (usize::from(length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}
