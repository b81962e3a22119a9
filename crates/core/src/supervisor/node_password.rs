//! Node passwords: the first machine to use a node name keeps it.
//!
//! K3s's form: Secret `<node>.node-password.k3s` in `kube-system`, key `hash`,
//! `$1:<salt hex>:15:8:1:<raw base64>` (scrypt, N = 2^15, r = 8, p = 1, 64 bytes; the salt's
//! 8 bytes).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use trivet_env::Rng;
use trivet_pki::{Secret, constant_time_eq, hex_decode, hex_encode, sha256_hex};

use crate::kube::KubeApi;

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

/// 32 MiB of memory each: two at once are enough.
const HASHES_AT_ONCE: usize = 2;

/// Verified passwords that are remembered, so that not every request costs a hash.
const REMEMBERED_MAX: usize = 10_000;

/// Why a node is turned away.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another machine has the name.
    Mismatch,
    /// It cannot be found out now.
    Unavailable(String),
}

/// The passwords.
pub(crate) struct NodePasswords {
    hashing: Semaphore,
    /// SHA-256 of the password that was last verified, by node.
    verified: Mutex<HashMap<String, String>>,
    /// log2 of scrypt's cost.
    cost: u8,
}

impl NodePasswords {
    pub(crate) fn new(cost: u8) -> Self {
        Self {
            hashing: Semaphore::new(HASHES_AT_ONCE),
            verified: Mutex::new(HashMap::new()),
            cost,
        }
    }

    /// Lets the node in if the password is the one it came with first. Asks the API every time
    /// whether the secret still exists: it is deleted with the node, and the name is free then.
    pub(crate) async fn ensure(
        &self,
        api: &dyn KubeApi,
        rng: &dyn Rng,
        node: &str,
        password: &Secret,
    ) -> Result<(), Refusal> {
        let path = format!("{SECRETS}/{node}.node-password.k3s");
        // A second round after a lost race with another server.
        for _ in 0..2 {
            let (status, body) = crate::kube::call(api, Method::GET, &path, None).await;
            match status {
                StatusCode::OK => return self.verify(node, password, &body).await,
                StatusCode::NOT_FOUND => {}
                other => {
                    return Err(Refusal::Unavailable(format!(
                        "the node password cannot be read: {other}"
                    )));
                }
            }
            let mut salt = [0; 8];
            rng.fill(&mut salt);
            let hash = self
                .hash(password.clone(), salt.to_vec(), self.cost, 8, 1)
                .await?;
            let secret = json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": { "name": format!("{node}.node-password.k3s"), "namespace": "kube-system" },
                "immutable": true,
                "type": "Opaque",
                "data": { "hash": STANDARD.encode(hash) },
            });
            let (status, _) = crate::kube::call(api, Method::POST, SECRETS, Some(&secret)).await;
            match status {
                StatusCode::CREATED | StatusCode::OK => return Ok(()),
                StatusCode::CONFLICT => {}
                other => {
                    return Err(Refusal::Unavailable(format!(
                        "the node password cannot be stored: {other}"
                    )));
                }
            }
        }
        Err(Refusal::Unavailable(
            "the node password is being changed".to_owned(),
        ))
    }

    async fn verify(&self, node: &str, password: &Secret, secret: &Value) -> Result<(), Refusal> {
        let stored = secret["data"]["hash"]
            .as_str()
            .and_then(|text| STANDARD.decode(text).ok());
        let stored = stored.and_then(|bytes| String::from_utf8(bytes).ok());
        let Some(stored) = stored else {
            return Err(Refusal::Unavailable(format!(
                "the stored password of node {node} cannot be read"
            )));
        };
        let digest = sha256_hex(format!("{stored}\n{}", password.expose()).as_bytes());
        if self
            .verified
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(node)
            == Some(&digest)
        {
            return Ok(());
        }
        let Some(parsed) = Parsed::parse(&stored) else {
            return Err(Refusal::Unavailable(format!(
                "the stored password of node {node} cannot be read"
            )));
        };
        let hash = self
            .hash(
                password.clone(),
                parsed.salt,
                parsed.cost,
                parsed.r,
                parsed.p,
            )
            .await?;
        if !constant_time_eq(hash.as_bytes(), stored.as_bytes()) {
            return Err(Refusal::Mismatch);
        }
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= REMEMBERED_MAX {
            verified.clear();
        }
        verified.insert(node.to_owned(), digest);
        Ok(())
    }

    async fn hash(
        &self,
        password: Secret,
        salt: Vec<u8>,
        cost: u8,
        r: u32,
        p: u32,
    ) -> Result<String, Refusal> {
        let unavailable = || Refusal::Unavailable("the node password cannot be hashed".to_owned());
        let _slot = self.hashing.acquire().await.map_err(|_| unavailable())?;
        tokio::task::spawn_blocking(move || hash(&password, &salt, cost, r, p))
            .await
            .ok()
            .flatten()
            .ok_or_else(unavailable)
    }
}

fn hash(password: &Secret, salt: &[u8], cost: u8, r: u32, p: u32) -> Option<String> {
    let params = scrypt::Params::new(cost, r, p).ok()?;
    let mut output = [0; 64];
    scrypt::scrypt(password.expose().as_bytes(), salt, &params, &mut output).ok()?;
    Some(format!(
        "$1:{}:{cost}:{r}:{p}:{}",
        hex_encode(salt),
        STANDARD_NO_PAD.encode(output)
    ))
}

/// Parameters of a stored hash, bounded so that a forged secret cannot cost the server more
/// than a real one.
struct Parsed {
    salt: Vec<u8>,
    cost: u8,
    r: u32,
    p: u32,
}

impl Parsed {
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.strip_prefix("$1:")?.split(':');
        let salt = hex_decode(fields.next()?)?;
        let (cost, r, p) = (
            fields.next()?.parse().ok()?,
            fields.next()?.parse().ok()?,
            fields.next()?.parse().ok()?,
        );
        fields.next()?;
        let fits =
            fields.next().is_none() && (1..=16).contains(&cost) && (1..=8).contains(&r) && p == 1;
        (fits && salt.len() <= 64).then_some(Self { salt, cost, r, p })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Computed outside this program from the published description of the format.
    #[test]
    fn the_format_is_k3s() {
        let text = hash(&Secret::new("node-password"), b"saltsalt", 4, 8, 1).unwrap();
        assert_eq!(
            text,
            "$1:73616c7473616c74:4:8:1:tdHLEvjF0pGP6hfoX6vYDfHjREH4W/TrTmAJo9gs3dUfZO6yhx3M8BYhvsJKwZ82nmmKqKj9ZHsawA7bS30WVg"
        );
        let parsed = Parsed::parse(&text).unwrap();
        assert_eq!(
            (parsed.salt, parsed.cost, parsed.r, parsed.p),
            (b"saltsalt".to_vec(), 4, 8, 1)
        );
    }

    #[test]
    fn forged_hashes_are_refused() {
        for text in [
            "",
            "$1:",
            "$2:00:15:8:1:x",
            "$1:00:40:8:1:x",
            "$1:00:15:800:1:x",
            "$1:zz:15:8:1:x",
            "$1:00:15:8:1:x:y",
        ] {
            assert!(Parsed::parse(text).is_none(), "{text}");
        }
    }
}
