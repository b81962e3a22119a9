//! Signed tokens (RFC 7519) with the claims that etcd writes: `username`, `revision`, `exp`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::MAX_TOKEN_BYTES;
use super::keys::{Signer, Verifier};
use super::spec::{JwtSpec, SignMethod};

/// Gives out and checks signed tokens.
#[derive(Debug)]
pub struct Jwt {
    method: SignMethod,
    /// `None` on a member that only checks.
    signer: Option<Signer>,
    verifier: Verifier,
    ttl: Duration,
}

/// Why there are no signed tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// A file cannot be read.
    #[error("cannot read the token key {}: {reason}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file has no key for the chosen method.
    #[error("{} holds no key for sign-method {method}", path.display())]
    WrongKey {
        /// Which.
        path: PathBuf,
        /// Which method.
        method: SignMethod,
    },
    /// What one key signs the other does not accept.
    #[error("pub-key and priv-key of the auth token do not belong together")]
    Mismatch,
}

impl Jwt {
    /// Reads the keys.
    pub fn load(
        spec: &JwtSpec,
        read: impl Fn(&Path) -> io::Result<Vec<u8>>,
    ) -> Result<Self, JwtError> {
        let method = spec.sign_method;
        let file = |path: &PathBuf| {
            read(path).map_err(|error| JwtError::Unreadable {
                path: path.clone(),
                reason: error.to_string(),
            })
        };
        let wrong = |path: &PathBuf| JwtError::WrongKey {
            path: path.clone(),
            method,
        };
        let signer = match &spec.private_key {
            Some(path) => Some(Signer::load(method, &file(path)?).ok_or_else(|| wrong(path))?),
            None => None,
        };
        // A shared secret has no public side; etcd ignores the setting then.
        let symmetric = matches!(signer, Some(Signer::Hmac(_)));
        let public = spec.public_key.as_ref().filter(|_| !symmetric);
        let verifier = match (public, &signer) {
            (Some(path), _) => Verifier::load(method, &file(path)?).ok_or_else(|| wrong(path))?,
            (None, Some(signer)) => signer.verifier(method),
            (None, None) => return Err(JwtError::Mismatch),
        };
        let jwt = Self {
            method,
            signer,
            verifier,
            ttl: spec.ttl,
        };
        if let Some(signer) = &jwt.signer {
            let signature = signer.sign(b"probe").ok_or(JwtError::Mismatch)?;
            if !jwt.verifier.accepts(b"probe", &signature) {
                return Err(JwtError::Mismatch);
            }
        }
        Ok(jwt)
    }

    /// A token for a user; `None` on a member that has no private key.
    #[must_use]
    pub fn sign(&self, user: &str, auth_revision: u64, now: SystemTime) -> Option<String> {
        let signer = self.signer.as_ref()?;
        let ends = seconds(now)?.checked_add(self.ttl.as_secs())?;
        let header = json!({"alg": self.method.name(), "typ": "JWT"});
        let claims = json!({"exp": ends, "revision": auth_revision, "username": user});
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let signature = signer.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Some(token)
    }

    /// The user and the revision that a token speaks of, if it is genuine and still valid.
    #[must_use]
    pub fn verify(&self, token: &str, now: SystemTime) -> Option<(String, u64)> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let header: Value = part(header)?;
        if header.get("alg")?.as_str()? != self.method.name() {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        if !self.verifier.accepts(message.as_bytes(), &signature) {
            return None;
        }
        let claims: Value = part(claims)?;
        let ends = claims.get("exp")?.as_u64()?;
        if seconds(now)? >= ends {
            return None;
        }
        let user = claims.get("username")?.as_str()?;
        let auth_revision = claims.get("revision")?.as_u64()?;
        Some((user.to_owned(), auth_revision))
    }
}

fn part(text: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

fn seconds(time: SystemTime) -> Option<u64> {
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}
