//! Service-account tokens: JSON Web Tokens with Kubernetes' claims.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::SigningKey;

/// Longer than any token this server issues.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Whom a token is issued to.
#[derive(Debug, Clone)]
pub(crate) struct TokenSubject<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    /// Object that the token dies with: kind (`pod`, `secret`, `node`), name and uid.
    pub(crate) bound: Option<(&'a str, &'a str, &'a str)>,
}

/// The claims the server reads back.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct ServiceAccountClaims {
    pub(crate) iss: String,
    pub(crate) sub: String,
    pub(crate) aud: Audiences,
    pub(crate) exp: i64,
    #[serde(default)]
    pub(crate) nbf: i64,
    #[serde(default)]
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) kubernetes: KubernetesClaims,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(untagged)]
pub(crate) enum Audiences {
    Many(Vec<String>),
    One(String),
}

impl Audiences {
    pub(crate) fn contains(&self, audience: &str) -> bool {
        match self {
            Self::Many(all) => all.iter().any(|a| a == audience),
            Self::One(one) => one == audience,
        }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct KubernetesClaims {
    pub(crate) namespace: String,
    pub(crate) serviceaccount: NamedUid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<NamedUid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<NamedUid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<NamedUid>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct NamedUid {
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Signs a token that is valid from `now` to `expires` (Unix seconds).
pub(crate) fn issue(
    key: &SigningKey,
    issuer: &str,
    audiences: &[String],
    subject: &TokenSubject<'_>,
    id: &str,
    now: i64,
    expires: i64,
) -> Option<String> {
    let mut kubernetes = json!({
        "namespace": subject.namespace,
        "serviceaccount": {"name": subject.name, "uid": subject.uid},
    });
    if let Some((kind, name, uid)) = subject.bound {
        kubernetes[kind] = json!({"name": name, "uid": uid});
    }
    let claims = json!({
        "aud": audiences,
        "exp": expires,
        "iat": now,
        "iss": issuer,
        "jti": id,
        "kubernetes.io": kubernetes,
        "nbf": now,
        "sub": format!("system:serviceaccount:{}:{}", subject.namespace, subject.name),
    });
    let header = json!({"alg": key.algorithm(), "kid": key.id()});
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(&header), encode(&claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes())?);
    Some(format!("{message}.{signature}"))
}

/// Whether a bearer token has the shape of a token of `issuer` at all; other issuers are other
/// authenticators' business.
pub(crate) fn verify(
    key: &SigningKey,
    issuer: &str,
    token: &str,
    now: i64,
) -> Option<ServiceAccountClaims> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let (message, signature) = token.rsplit_once('.')?;
    let (header, claims) = message.split_once('.')?;
    let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok();
    let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
    // The key decides the algorithm; a token does not get to choose.
    if header.get("alg")?.as_str()? != key.algorithm() {
        return None;
    }
    if !key.verify(message.as_bytes(), &decode(signature)?) {
        return None;
    }
    let claims: ServiceAccountClaims = serde_json::from_slice(&decode(claims)?).ok()?;
    let expected = format!(
        "system:serviceaccount:{}:{}",
        claims.kubernetes.namespace, claims.kubernetes.serviceaccount.name
    );
    let valid = claims.iss == issuer
        && claims.sub == expected
        && claims.exp > now
        && claims.nbf <= now + 60;
    valid.then_some(claims)
}
