//! Tokens.
//!
//! K3s's grammar: a full token is `K10<64 hex CA hash>::<credentials>`, credentials being
//! `user:password` or a bootstrap token `[a-z0-9]{6}.[a-z0-9]{16}`. Anything that does not
//! start with `K10` is a bare password or a bare bootstrap token.

use std::fmt;

use trivet_pki::{Secret, hex_encode};

const PREFIX: &str = "K10";
const CA_HASH_CHARS: usize = 64;

/// Longest token that is looked at.
const TOKEN_CHARS_MAX: usize = 4096;

/// Why a text is not a token. Never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is no text.
    #[error("the token is empty")]
    Empty,
    /// The part between `K10` and `::` is not a SHA-256.
    #[error("the token is damaged: its CA hash must have 64 hexadecimal digits")]
    CaHash,
    /// The credentials are missing or incomplete.
    #[error(
        "the token is damaged: after K10<hash>:: it must have user:password or a bootstrap token"
    )]
    Format,
    /// It cannot be sent in a header.
    #[error("the token is too long or contains control characters")]
    Characters,
}

/// A kubeadm-style bootstrap token. Joins agents only.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    /// Public part.
    pub id: String,
    /// Secret part.
    pub secret: Secret,
}

impl BootstrapToken {
    /// Parses `[a-z0-9]{6}.[a-z0-9]{16}`.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('.')?;
        let fits = |part: &str, length: usize| {
            part.len() == length
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        (fits(id, 6) && fits(secret, 16)).then(|| Self {
            id: id.to_owned(),
            secret: Secret::new(secret),
        })
    }

    fn text(&self) -> String {
        format!("{}.{}", self.id, self.secret.expose())
    }
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootstrapToken({}.********)", self.id)
    }
}

/// What a token authenticates with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// User and password; the user is empty in a short token.
    Password {
        /// `server`, `node` or empty.
        user: String,
        /// The secret.
        password: Secret,
    },
    /// A bootstrap token.
    Bootstrap(BootstrapToken),
}

/// A parsed token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Hash that the cluster's CA must have; `None` in a short token, which trusts on first use.
    pub ca_hash: Option<String>,
    /// The rest.
    pub credentials: Credentials,
}

impl Token {
    /// Parses either form. White space around it is ignored (files end with a newline).
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        if text.len() > TOKEN_CHARS_MAX || text.chars().any(char::is_control) {
            return Err(TokenError::Characters);
        }
        let Some(rest) = text.strip_prefix(PREFIX) else {
            return Ok(Self {
                ca_hash: None,
                credentials: short(text),
            });
        };
        let (ca_hash, rest) = match rest.split_once("::") {
            Some(("", rest)) => (None, rest),
            Some((hash, rest)) => {
                if hash.len() != CA_HASH_CHARS || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(TokenError::CaHash);
                }
                (Some(hash.to_ascii_lowercase()), rest)
            }
            None => (None, rest),
        };
        if let Some(token) = BootstrapToken::parse(rest) {
            return Ok(Self {
                ca_hash,
                credentials: Credentials::Bootstrap(token),
            });
        }
        match rest.split_once(':') {
            Some((user, password)) if !password.is_empty() => Ok(Self {
                ca_hash,
                credentials: Credentials::Password {
                    user: user.to_owned(),
                    password: Secret::new(password),
                },
            }),
            _ => Err(TokenError::Format),
        }
    }

    /// A full token for a cluster with this CA hash (see [`trivet_pki::ca_hash`]).
    pub fn full(ca_hash: &str, user: &str, password: &Secret) -> Self {
        Self {
            ca_hash: Some(ca_hash.to_owned()),
            credentials: Credentials::Password {
                user: user.to_owned(),
                password: password.clone(),
            },
        }
    }

    /// The normalised token: the password alone, or the whole bootstrap token. It is the
    /// password of basic authentication and the key to the stored bootstrap data.
    pub fn password(&self) -> Secret {
        match &self.credentials {
            Credentials::Password { password, .. } => password.clone(),
            Credentials::Bootstrap(token) => Secret::new(token.text()),
        }
    }

    /// The token as people pass it on.
    pub fn to_secret(&self) -> Secret {
        let credentials = match &self.credentials {
            Credentials::Password { user, password }
                if self.ca_hash.is_none() && user.is_empty() =>
            {
                // A bare password that looks like a full token needs the long form.
                let password = password.expose();
                if !password.starts_with(PREFIX) && BootstrapToken::parse(password).is_none() {
                    return Secret::new(password);
                }
                format!(":{password}")
            }
            Credentials::Password { user, password } => format!("{user}:{}", password.expose()),
            Credentials::Bootstrap(token) => token.text(),
        };
        Secret::new(format!(
            "{PREFIX}{}::{credentials}",
            self.ca_hash.as_deref().unwrap_or_default()
        ))
    }
}

fn short(text: &str) -> Credentials {
    match BootstrapToken::parse(text) {
        Some(token) => Credentials::Bootstrap(token),
        None => Credentials::Password {
            user: String::new(),
            password: Secret::new(text),
        },
    }
}

/// A new password: 16 random bytes in hexadecimal, as K3s makes them.
pub fn random_password(rng: &dyn trivet_env::Rng) -> Secret {
    let mut bytes = [0; 16];
    rng.fill(&mut bytes);
    Secret::new(hex_encode(&bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn password(text: &str) -> (Option<String>, String, String) {
        match Token::parse(text).unwrap() {
            Token {
                ca_hash,
                credentials: Credentials::Password { user, password },
            } => (ca_hash, user, password.expose().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn forms() {
        assert_eq!(password("secret"), (None, String::new(), "secret".into()));
        assert_eq!(password("a::b:c"), (None, String::new(), "a::b:c".into()));
        assert_eq!(
            password(&format!("K10{HASH}::server:pw\n")),
            (Some(HASH.into()), "server".into(), "pw".into())
        );
        assert_eq!(
            password("K10::node:p:w"),
            (None, "node".into(), "p:w".into())
        );
        assert_eq!(password("K10:::pw"), (None, String::new(), "pw".into()));
        for text in [
            "abcdef.0123456789abcdef".to_owned(),
            format!("K10{HASH}::abcdef.0123456789abcdef"),
        ] {
            assert!(
                matches!(Token::parse(&text).unwrap().credentials, Credentials::Bootstrap(t) if t.id == "abcdef")
            );
        }
    }

    #[test]
    fn errors() {
        assert_eq!(Token::parse(" \n"), Err(TokenError::Empty));
        assert_eq!(Token::parse("K10abc::server:pw"), Err(TokenError::CaHash));
        assert_eq!(
            Token::parse(&format!("K10{}::server:pw", "x".repeat(64))),
            Err(TokenError::CaHash)
        );
        for text in [
            "K10",
            "K10::",
            "K10::server",
            "K10::server:",
            &format!("K10{HASH}"),
        ] {
            assert_eq!(Token::parse(text), Err(TokenError::Format), "{text}");
        }
        assert_eq!(Token::parse("a\0b"), Err(TokenError::Characters));
        assert_eq!(Token::parse(&"a".repeat(5000)), Err(TokenError::Characters));
    }

    #[test]
    fn debug_shows_no_secret() {
        for text in [
            "hunter2hunter2",
            &format!("K10{HASH}::server:hunter2hunter2"),
            "abcdef.hunter2hunter2aa",
        ] {
            assert!(
                !format!("{:?}", Token::parse(text)).contains("hunter2"),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,200}") {
            let _ = Token::parse(&text);
        }

        #[test]
        fn near_tokens_are_parsed_or_refused(text in "K10[0-9a-fx]{0,66}:{0,3}[a-z0-9.:]{0,30}") {
            let _ = Token::parse(&text);
        }

        #[test]
        fn what_is_written_is_read_back(text in "(K10([0-9a-f]{64})?::)?([a-z]{0,6}:)?[a-zA-Z0-9.:]{1,40}") {
            if let Ok(token) = Token::parse(&text) {
                prop_assert_eq!(Token::parse(token.to_secret().expose()).unwrap(), token);
            }
        }
    }
}
