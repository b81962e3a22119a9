//! From credentials to an identity.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use http::header::AUTHORIZATION;
use http::request::Parts;
use trivet_env::Env;

use super::token::{NamedUid, ServiceAccountClaims};
use super::{Authenticator, Rejected, SigningKey, UserInfo, verify};
use crate::cache::Cache;
use crate::config::ClientCertificate;

/// Everything that can say who a request is from.
pub(crate) struct Authentication {
    pub(crate) key: SigningKey,
    pub(crate) issuer: String,
    pub(crate) others: Vec<Arc<dyn Authenticator>>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) env: Env,
}

impl Authentication {
    /// Certificate first, then other authenticators, then service-account tokens, then
    /// anonymous. A credential that is presented and not valid is a rejection, never anonymous.
    pub(crate) async fn identify(
        &self,
        request: &Parts,
        certificate: Option<&ClientCertificate>,
    ) -> Result<UserInfo, Rejected> {
        if let Some(certificate) = certificate
            && !certificate.common_name.is_empty()
        {
            let groups = certificate.organizations.iter().cloned();
            return Ok(UserInfo::new(certificate.common_name.clone(), groups));
        }
        let mut rejected = None;
        for other in &self.others {
            match other.authenticate(request).await {
                Ok(Some(user)) => return Ok(user),
                Ok(None) => {}
                // Another kind may still know the token.
                Err(error) => rejected = Some(error),
            }
        }
        if let Some(token) = bearer(request) {
            return self.service_account(token).ok_or(Rejected);
        }
        match rejected {
            Some(error) => Err(error),
            None if request.headers.contains_key(AUTHORIZATION) => Err(Rejected),
            None => Ok(UserInfo::anonymous()),
        }
    }

    /// The identity behind a service-account token whose audience is this API.
    pub(crate) fn service_account(&self, token: &str) -> Option<UserInfo> {
        let claims = self.claims(token)?;
        claims
            .aud
            .contains(&self.issuer)
            .then(|| self.user(&claims))
    }

    /// The claims of a valid token of a service account that still exists.
    pub(crate) fn claims(&self, token: &str) -> Option<ServiceAccountClaims> {
        let now = self
            .env
            .clock
            .wall()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs() as i64);
        let claims = verify(&self.key, &self.issuer, token, now)?;
        let bound = &claims.kubernetes;
        let namespace = Some(bound.namespace.as_str());
        let alive = |plural: &str, namespace: Option<&str>, object: &NamedUid| {
            self.cache
                .named("", plural)
                .and_then(|slot| slot.get_named(namespace, &object.name))
                .is_some_and(|entry| *entry.uid == *object.uid)
        };
        let valid = alive("serviceaccounts", namespace, &bound.serviceaccount)
            && bound
                .pod
                .as_ref()
                .is_none_or(|pod| alive("pods", namespace, pod))
            && bound
                .secret
                .as_ref()
                .is_none_or(|secret| alive("secrets", namespace, secret));
        valid.then_some(claims)
    }

    pub(crate) fn user(&self, claims: &ServiceAccountClaims) -> UserInfo {
        let namespace = &claims.kubernetes.namespace;
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
        let mut user = UserInfo::new(claims.sub.clone(), groups);
        user.uid.clone_from(&claims.kubernetes.serviceaccount.uid);
        let mut extra = |name: &str, value: &str| {
            user.extra.push((
                format!("authentication.kubernetes.io/{name}"),
                vec![value.to_owned()],
            ));
        };
        if !claims.jti.is_empty() {
            extra("credential-id", &format!("JTI={}", claims.jti));
        }
        if let Some(pod) = &claims.kubernetes.pod {
            extra("pod-name", &pod.name);
            extra("pod-uid", &pod.uid);
        }
        user
    }
}

/// The bearer token of a request.
pub(crate) fn bearer(request: &Parts) -> Option<&str> {
    let value = request.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
