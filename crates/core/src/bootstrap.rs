//! Shared CAs and keys, encrypted in the datastore: K3s's key and format.
//!
//! Key: `/bootstrap/` and the first 12 hexadecimal digits of SHA-256(token). Value:
//! `<salt>:<base64(nonce, ciphertext, tag)>` with a salt of 16 hexadecimal characters (used as
//! text), PBKDF2-HMAC-SHA1 of the token with 4096 rounds as key and AES-256-GCM.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use trivet_datastore::{Datastore, Expect, KeyRange, PutRequest, RangeRequest};
use trivet_env::Rng;
use trivet_join::BootstrapBundle;
use trivet_pki::{Secret, hex_encode, sha256_hex};

use crate::StartError;

const PREFIX: &str = "/bootstrap";
const ROUNDS: NonZeroU32 = NonZeroU32::new(4096).expect("4096 is not 0");

/// Where the data of a token is stored.
pub(crate) fn key(token: &Secret) -> String {
    format!("{PREFIX}/{}", &sha256_hex(token.expose().as_bytes())[..12])
}

/// Encrypts.
pub(crate) fn encrypt(token: &Secret, plain: &[u8], rng: &dyn Rng) -> String {
    let (mut salt, mut nonce) = ([0; 8], [0; NONCE_LEN]);
    rng.fill(&mut salt);
    rng.fill(&mut nonce);
    let salt = hex_encode(&salt);
    let mut sealed = plain.to_vec();
    aead(token, &salt)
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::empty(),
            &mut sealed,
        )
        .expect("the data is far below the limit of AES-GCM");
    let mut body = nonce.to_vec();
    body.extend(sealed);
    format!("{salt}:{}", STANDARD.encode(body))
}

/// Decrypts; `None` when the token is another one or the value is damaged.
pub(crate) fn decrypt(token: &Secret, value: &[u8]) -> Option<Vec<u8>> {
    let (salt, body) = std::str::from_utf8(value).ok()?.split_once(':')?;
    let mut body = STANDARD.decode(body.trim_end()).ok()?;
    let nonce = Nonce::try_assume_unique_for_key(body.get(..NONCE_LEN)?).ok()?;
    let mut sealed = body.split_off(NONCE_LEN);
    let plain = aead(token, salt)
        .open_in_place(nonce, Aad::empty(), &mut sealed)
        .ok()?;
    Some(plain.to_vec())
}

fn aead(token: &Secret, salt: &str) -> LessSafeKey {
    let mut key = [0; 32];
    ring::pbkdf2::derive(
        ring::pbkdf2::PBKDF2_HMAC_SHA1,
        ROUNDS,
        salt.as_bytes(),
        token.expose().as_bytes(),
        &mut key,
    );
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("the key has the cipher's length"))
}

/// What the store has for this token. An error when it only has data of other tokens.
pub(crate) async fn load(
    store: &dyn Datastore,
    token: &Secret,
) -> Result<Option<BootstrapBundle>, StartError> {
    let page = store
        .range(RangeRequest {
            range: KeyRange::Prefix(Bytes::from_static(PREFIX.as_bytes())),
            after: None,
            limit: 100,
            at: None,
            serializable: false,
            count_only: false,
        })
        .await
        .map_err(StartError::Store)?;
    let key = key(token);
    let Some(found) = page.items.iter().find(|pair| pair.key == key.as_bytes()) else {
        if page.items.iter().any(|pair| !pair.value.is_empty()) {
            return Err(StartError::Bootstrap(
                "the datastore belongs to a cluster with another token; pass that cluster's token"
                    .to_owned(),
            ));
        }
        return Ok(None);
    };
    if found.value.is_empty() {
        return Ok(None);
    }
    let damaged =
        || StartError::Bootstrap("the bootstrap data in the datastore cannot be read".to_owned());
    let plain = decrypt(token, &found.value).ok_or_else(damaged)?;
    serde_json::from_slice(&plain)
        .map(Some)
        .map_err(|_| damaged())
}

/// Stores the bundle unless there already is one.
pub(crate) async fn save(
    store: &dyn Datastore,
    token: &Secret,
    bundle: &BootstrapBundle,
    rng: &dyn Rng,
) -> trivet_datastore::Result<()> {
    let plain = serde_json::to_vec(bundle).map_err(|_| {
        trivet_datastore::Error::Invalid("the bootstrap data cannot be encoded".to_owned())
    })?;
    let request = PutRequest {
        key: key(token).into(),
        value: encrypt(token, &plain, rng).into(),
        expect: Expect::Absent,
        lease: None,
    };
    store.put(request).await.map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use trivet_env::RealRng;

    use super::*;

    #[test]
    fn what_is_encrypted_is_decrypted() {
        let token = Secret::new("token");
        let value = encrypt(&token, b"hello", &RealRng);
        assert_eq!(decrypt(&token, value.as_bytes()).unwrap(), b"hello");
        assert_eq!(decrypt(&Secret::new("other"), value.as_bytes()), None);
        let (salt, body) = value.split_once(':').unwrap();
        assert_eq!(salt.len(), 16);
        assert_eq!(STANDARD.decode(body).unwrap().len(), 12 + 5 + 16);
        for damaged in [
            "",
            ":",
            "abc",
            "0123456789abcdef:AAAA",
            &value[..value.len() - 4],
        ] {
            assert_eq!(decrypt(&token, damaged.as_bytes()), None, "{damaged}");
        }
    }

    /// Computed outside this program from the published description of the format.
    #[test]
    fn a_value_made_elsewhere_is_read() {
        let value = "00112233aabbccdd:AAECAwQFBgcICQoLoTy8vDVNhuxu58YQ3psqWRbMaHZhfwo=";
        assert_eq!(
            decrypt(&Secret::new("secret-token"), value.as_bytes()).unwrap(),
            b"{\"A\":1}"
        );
        assert_eq!(key(&Secret::new("secret-token")), "/bootstrap/930bbdc51b6a");
    }

    proptest::proptest! {
        #[test]
        fn any_value_is_decrypted_or_refused(value in "[0-9a-f]{0,16}:?[A-Za-z0-9+/=]{0,80}") {
            proptest::prop_assert_eq!(decrypt(&Secret::new("t"), value.as_bytes()), None);
        }
    }
}
