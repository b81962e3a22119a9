//! Signed tokens. The keys in `fixtures` were made with OpenSSL for these tests alone.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use trivet_etcd_auth::token::{Jwt, JwtError, TokenSpec};

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if path == Path::new("secret") {
        return Ok(b"a secret of some length".to_vec());
    }
    std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/it/fixtures")
            .join(path),
    )
}

fn load(setting: &str) -> Result<Jwt, JwtError> {
    match setting.parse().unwrap() {
        TokenSpec::Jwt(spec) => Jwt::load(&spec, read),
        TokenSpec::Simple => panic!("not a JWT: {setting}"),
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

#[test]
fn every_method_signs_what_it_accepts_again() {
    let mut settings = vec![
        "jwt,sign-method=ES256,priv-key=p256.sec1.pem".to_owned(),
        "jwt,sign-method=ES256,priv-key=p256.pkcs8.pem,pub-key=p256.pub.pem".to_owned(),
        "jwt,sign-method=ES384,priv-key=p384.sec1.pem".to_owned(),
        "jwt,sign-method=EdDSA,priv-key=ed25519.pem,pub-key=ed25519.pub.pem".to_owned(),
        "jwt,sign-method=RS256,priv-key=rsa.pkcs1.pem,pub-key=rsa.cert.pem".to_owned(),
    ];
    for bits in ["256", "384", "512"] {
        settings.push(format!("jwt,sign-method=HS{bits},priv-key=secret"));
        for family in ["RS", "PS"] {
            settings.push(format!(
                "jwt,sign-method={family}{bits},priv-key=rsa.pkcs8.pem,pub-key=rsa.pub.pem"
            ));
        }
    }
    for setting in settings {
        let jwt = load(&setting).unwrap_or_else(|error| panic!("{setting}: {error}"));
        let token = jwt.sign("alice", 7, now()).unwrap();
        assert_eq!(
            jwt.verify(&token, now()),
            Some(("alice".to_owned(), 7)),
            "{setting}"
        );
        let later = now() + Duration::from_secs(300);
        assert_eq!(jwt.verify(&token, later), None, "{setting}: it has ended");
        for place in [0, token.len() / 2, token.len() - 1] {
            let mut forged = token.clone().into_bytes();
            forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            // The last letter of base64 may carry bits that mean nothing; the decoder is strict
            // about those.
            assert_eq!(jwt.verify(&forged, now()), None, "{setting}: {place}");
        }
    }
}

/// Made by etcd 3.5.1 itself with the same key: `--auth-token
/// jwt,pub-key=rsa.pub.pem,priv-key=rsa.pkcs1.pem,sign-method=RS256,ttl=87600h`.
#[test]
fn a_token_of_etcd_is_understood() {
    let jwt = load("jwt,sign-method=RS256,pub-key=rsa.pub.pem").unwrap();
    let token = include_str!("fixtures/etcd.jwt").trim();
    assert_eq!(jwt.verify(token, now()), Some(("root".to_owned(), 3)));
}

#[test]
fn a_member_without_the_private_key_only_checks() {
    let signs = load("jwt,sign-method=RS256,priv-key=rsa.pkcs8.pem").unwrap();
    let checks = load("jwt,sign-method=RS256,pub-key=rsa.pub.pem").unwrap();
    let token = signs.sign("alice", 7, now()).unwrap();
    assert_eq!(checks.verify(&token, now()), Some(("alice".to_owned(), 7)));
    assert_eq!(checks.sign("alice", 7, now()), None);
}

/// The classic: the public key is taken for a shared secret, or there is no signature at all.
#[test]
fn the_token_does_not_choose_the_method() {
    let checks = load("jwt,sign-method=RS256,pub-key=rsa.pub.pem").unwrap();
    let hmac = load("jwt,sign-method=HS256,priv-key=rsa.pub.pem").unwrap();
    let confused = hmac.sign("root", 7, now()).unwrap();
    assert_eq!(checks.verify(&confused, now()), None);
    let signed = load("jwt,sign-method=RS256,priv-key=rsa.pkcs8.pem")
        .unwrap()
        .sign("root", 7, now())
        .unwrap();
    let claims = signed.split('.').nth(1).unwrap();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    assert_eq!(checks.verify(&format!("{none}.{claims}."), now()), None);
    for garbage in ["", ".", "..", "a.b.c", &"x".repeat(100_000)] {
        assert_eq!(checks.verify(garbage, now()), None);
    }
}

#[test]
fn keys_that_do_not_fit_are_named() {
    let wrong = |setting: &str, file: &str| match load(setting) {
        Err(JwtError::WrongKey { path, .. }) => assert_eq!(path, Path::new(file)),
        other => panic!("{setting}: {other:?}"),
    };
    wrong(
        "jwt,sign-method=RS256,priv-key=p256.sec1.pem",
        "p256.sec1.pem",
    );
    wrong(
        "jwt,sign-method=ES384,priv-key=p256.sec1.pem",
        "p256.sec1.pem",
    );
    wrong(
        "jwt,sign-method=ES256,priv-key=rsa.pkcs8.pem",
        "rsa.pkcs8.pem",
    );
    wrong("jwt,sign-method=RS256,pub-key=p256.pub.pem", "p256.pub.pem");
    wrong("jwt,sign-method=RS256,pub-key=secret", "secret");
    assert!(matches!(
        load("jwt,sign-method=RS256,pub-key=nowhere.pem"),
        Err(JwtError::Unreadable { .. })
    ));
    assert_eq!(
        load("jwt,sign-method=ES256,priv-key=p256.sec1.pem,pub-key=other.p256.pub.pem")
            .unwrap_err(),
        JwtError::Mismatch
    );
}

#[test]
fn debug_shows_no_key() {
    let jwt = load("jwt,sign-method=HS256,priv-key=secret").unwrap();
    let text = format!("{jwt:?}");
    assert!(
        text.contains("Signer(..)") && text.contains("Verifier(..)"),
        "{text}"
    );
}
