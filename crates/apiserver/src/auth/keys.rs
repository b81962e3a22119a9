//! The key that signs service-account tokens: PEM in, signatures and JWKs out.

use std::fmt;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use serde_json::{Value, json};

/// Why a key cannot be used. Says nothing about its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No private key block was found.
    #[error("the service-account signing key is not a PEM private key")]
    NotPem,
    /// The block is neither an EC P-256 nor an RSA key of at least 2048 bits.
    #[error("the service-account signing key must be EC P-256 or RSA with at least 2048 bits")]
    Unsupported,
}

/// A private key and what identifies it.
pub(crate) struct SigningKey {
    pair: Pair,
    id: String,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    pub(crate) fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let (label, der) = private_key_block(pem).ok_or(KeyError::NotPem)?;
        let pair = match label.as_str() {
            "PRIVATE KEY" => ec(&der).or_else(|| RsaKeyPair::from_pkcs8(&der).ok().map(Pair::Rsa)),
            "EC PRIVATE KEY" => ec(&wrap_sec1(&der)),
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(&der).ok().map(Pair::Rsa),
            _ => None,
        }
        .ok_or(KeyError::Unsupported)?;
        // Any stable function of the public key does: servers share the key.
        let id = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, pair.public()));
        Ok(Self { pair, id })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The `alg` header of tokens it signs.
    pub(crate) fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Ec(_) => "ES256",
            Pair::Rsa(_) => "RS256",
        }
    }

    /// `None` when the system has no randomness to sign with.
    pub(crate) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ec(pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .ok()?;
                Some(signature)
            }
        }
    }

    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let public = self.pair.public();
        let result = match self.pair {
            Pair::Ec(_) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public).verify(message, signature)
            }
            Pair::Rsa(_) => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public)
                .verify(message, signature),
        };
        result.is_ok()
    }

    /// The public half as a JSON Web Key set.
    pub(crate) fn jwks(&self) -> Value {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let mut key = match &self.pair {
            Pair::Ec(pair) => {
                // Uncompressed point: 4, x, y.
                let point = pair.public_key().as_ref();
                let (x, y) = point.get(1..).unwrap_or_default().split_at(point.len() / 2);
                json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)})
            }
            Pair::Rsa(pair) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "n": encode(&public.n), "e": encode(&public.e)})
            }
        };
        key["use"] = json!("sig");
        key["alg"] = json!(self.algorithm());
        key["kid"] = json!(self.id);
        json!({"keys": [key]})
    }
}

impl Pair {
    fn public(&self) -> &[u8] {
        match self {
            Self::Ec(pair) => pair.public_key().as_ref(),
            Self::Rsa(pair) => pair.public_key().as_ref(),
        }
    }
}

fn ec(pkcs8: &[u8]) -> Option<Pair> {
    EcdsaKeyPair::from_pkcs8(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        pkcs8,
        &SystemRandom::new(),
    )
    .ok()
    .map(Pair::Ec)
}

fn private_key_block(pem: &str) -> Option<(String, Vec<u8>)> {
    let mut rest = pem;
    while let Some(at) = rest.find("-----BEGIN ") {
        let block = &rest[at + "-----BEGIN ".len()..];
        let (label, body) = block.split_once("-----")?;
        let (body, after) = body.split_once("-----END ")?;
        if label.ends_with("PRIVATE KEY") {
            let text: String = body.chars().filter(|c| !c.is_whitespace()).collect();
            return Some((label.to_owned(), BASE64_STANDARD.decode(text).ok()?));
        }
        rest = after;
    }
    None
}

/// Puts a SEC 1 ECPrivateKey (RFC 5915) on P-256 into PKCS#8 (RFC 5958), the one form that
/// `ring` reads.
fn wrap_sec1(sec1: &[u8]) -> Vec<u8> {
    // INTEGER 0; SEQUENCE { OID ecPublicKey, OID prime256v1 }
    const HEAD: &[u8] = &[
        0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
        0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ];
    let mut body = HEAD.to_vec();
    body.extend(der_block(0x04, sec1));
    der_block(0x30, &body)
}

fn der_block(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        length @ 0..0x80 => out.push(length as u8),
        length @ 0x80..0x100 => out.extend([0x81, length as u8]),
        length => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        let text = BASE64_STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }

    #[test]
    fn both_forms_of_an_ec_key_are_the_same_key() {
        let random = SystemRandom::new();
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        // Behind the outer header, the algorithm and the header of the octet string.
        let sec1 = &pkcs8.as_ref()[29..];
        assert_eq!(wrap_sec1(sec1), pkcs8.as_ref());
        let one = SigningKey::from_pem(&pem("PRIVATE KEY", pkcs8.as_ref())).unwrap();
        let parameters = pem("EC PARAMETERS", &[6, 0]);
        let two =
            SigningKey::from_pem(&format!("{parameters}{}", pem("EC PRIVATE KEY", sec1))).unwrap();
        assert_eq!(one.id(), two.id());
        let signature = one.sign(b"text").unwrap();
        assert!(two.verify(b"text", &signature));
        assert!(!two.verify(b"test", &signature));
        assert_eq!(one.jwks()["keys"][0]["kty"], "EC");
    }

    #[test]
    fn other_things_are_refused() {
        assert_eq!(SigningKey::from_pem("").unwrap_err(), KeyError::NotPem);
        assert_eq!(
            SigningKey::from_pem(&pem("CERTIFICATE", b"x")).unwrap_err(),
            KeyError::NotPem
        );
        assert_eq!(
            SigningKey::from_pem(&pem("RSA PRIVATE KEY", b"x")).unwrap_err(),
            KeyError::Unsupported
        );
        assert_eq!(
            SigningKey::from_pem(&pem("PRIVATE KEY", b"x")).unwrap_err(),
            KeyError::Unsupported
        );
    }
}
