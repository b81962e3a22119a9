//! The setting `--auth-token`: `simple`, or `jwt,pub-key=…,priv-key=…,sign-method=…,ttl=…`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How long a JWT is valid unless the setting says otherwise.
pub const DEFAULT_JWT_TTL: Duration = Duration::from_secs(300);

/// Which kind of tokens a cluster uses. The same for all members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TokenSpec {
    /// Random ones that every member remembers.
    #[default]
    Simple,
    /// Signed ones.
    Jwt(JwtSpec),
}

/// How tokens are signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtSpec {
    /// With what.
    pub sign_method: SignMethod,
    /// PEM file of the public key or of a certificate with it; not for `HS…`.
    pub public_key: Option<PathBuf>,
    /// PEM file of the private key; the secret itself for `HS…`. A member without it checks
    /// tokens and gives out none.
    pub private_key: Option<PathBuf>,
    /// How long a token is valid.
    pub ttl: Duration,
}

macro_rules! methods {
    ($($name:ident = $text:literal,)*) => {
        /// A signature algorithm, by its name in a token.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)] // the names of RFC 7518
        pub enum SignMethod {
            $($name,)*
        }

        impl SignMethod {
            /// Every algorithm.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

methods! {
    Hs256 = "HS256",
    Hs384 = "HS384",
    Hs512 = "HS512",
    Rs256 = "RS256",
    Rs384 = "RS384",
    Rs512 = "RS512",
    Ps256 = "PS256",
    Ps384 = "PS384",
    Ps512 = "PS512",
    Es256 = "ES256",
    Es384 = "ES384",
    EdDsa = "EdDSA",
}

impl fmt::Display for SignMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is wrong with the setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Neither of the two kinds.
    #[error("unknown kind of auth token {0:?}: use \"simple\" or \"jwt,...\"")]
    UnknownKind(String),
    /// `simple` has no options.
    #[error("auth token \"simple\" takes no options")]
    SimpleHasNoOptions,
    /// Not `name=value`.
    #[error("auth token option {0:?} is not of the form name=value")]
    NotAPair(String),
    /// Given twice.
    #[error("auth token option {0} is given twice")]
    Twice(String),
    /// No such option.
    #[error("unknown auth token option {0:?}: there are pub-key, priv-key, sign-method and ttl")]
    UnknownOption(String),
    /// A JWT needs it.
    #[error("auth token \"jwt\" needs sign-method=METHOD")]
    NoSignMethod,
    /// Not one of [`SignMethod::ALL`].
    #[error(
        "sign-method {0:?} is not supported: use HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA"
    )]
    UnknownSignMethod(String),
    /// Not a time.
    #[error("ttl {0:?} is not a time such as 300s, 10m or 1h30m")]
    Ttl(String),
    /// Nothing to check tokens with.
    #[error("auth token \"jwt\" needs {0}")]
    NoKey(&'static str),
}

impl FromStr for TokenSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut words = text.split(',');
        let kind = words.next().unwrap_or_default();
        match kind {
            "" | "simple" => match words.next() {
                None => Ok(Self::Simple),
                Some(_) => Err(SpecError::SimpleHasNoOptions),
            },
            "jwt" => jwt(words).map(Self::Jwt),
            other => Err(SpecError::UnknownKind(other.to_owned())),
        }
    }
}

fn jwt<'a>(words: impl Iterator<Item = &'a str>) -> Result<JwtSpec, SpecError> {
    const NAMES: [&str; 4] = ["pub-key", "priv-key", "sign-method", "ttl"];
    let mut values: [Option<&str>; 4] = [None; 4];
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            return Err(SpecError::NotAPair(word.to_owned()));
        };
        let Some(place) = NAMES.iter().position(|known| *known == name) else {
            return Err(SpecError::UnknownOption(name.to_owned()));
        };
        if values[place].replace(value).is_some() {
            return Err(SpecError::Twice(name.to_owned()));
        }
    }
    let [public_key, private_key, sign_method, ttl] = values;
    let sign_method = sign_method.ok_or(SpecError::NoSignMethod)?;
    let sign_method = SignMethod::ALL
        .iter()
        .copied()
        .find(|method| method.name() == sign_method)
        .ok_or_else(|| SpecError::UnknownSignMethod(sign_method.to_owned()))?;
    let symmetric = matches!(
        sign_method,
        SignMethod::Hs256 | SignMethod::Hs384 | SignMethod::Hs512
    );
    if private_key.is_none() && (symmetric || public_key.is_none()) {
        return Err(SpecError::NoKey(if symmetric {
            "priv-key=FILE with the secret"
        } else {
            "pub-key=FILE or priv-key=FILE"
        }));
    }
    let ttl = match ttl {
        None => DEFAULT_JWT_TTL,
        Some(text) => duration(text)
            .filter(|ttl| !ttl.is_zero())
            .ok_or_else(|| SpecError::Ttl(text.to_owned()))?,
    };
    Ok(JwtSpec {
        sign_method,
        public_key: public_key.map(PathBuf::from),
        private_key: private_key.map(PathBuf::from),
        ttl,
    })
}

/// A time as Go writes it: numbers with units, one after the other.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .filter(|n| *n > 0)?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_len = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = match &rest[..unit_len] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return None,
        };
        rest = &rest[unit_len..];
        let part = unit.checked_mul(u32::try_from(number).ok()?)?;
        total = total.checked_add(part)?;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read() {
        assert_eq!("".parse(), Ok(TokenSpec::Simple));
        assert_eq!("simple".parse(), Ok(TokenSpec::Simple));
        let spec: TokenSpec = "jwt,pub-key=/k/a.pem,priv-key=/k/b.pem,sign-method=RS256,ttl=10m"
            .parse()
            .unwrap();
        assert_eq!(
            spec,
            TokenSpec::Jwt(JwtSpec {
                sign_method: SignMethod::Rs256,
                public_key: Some("/k/a.pem".into()),
                private_key: Some("/k/b.pem".into()),
                ttl: Duration::from_secs(600),
            })
        );
        let TokenSpec::Jwt(spec) = "jwt,sign-method=HS512,priv-key=s".parse().unwrap() else {
            panic!("not a JWT");
        };
        assert_eq!(spec.ttl, DEFAULT_JWT_TTL);
    }

    #[test]
    fn mistakes_are_named() {
        use SpecError as E;
        let owned = str::to_owned;
        for (text, error) in [
            ("JWT", E::UnknownKind(owned("JWT"))),
            ("simple,ttl=5m", E::SimpleHasNoOptions),
            ("jwt", E::NoSignMethod),
            ("jwt,pub-key", E::NotAPair(owned("pub-key"))),
            ("jwt,ttl=1s,ttl=2s", E::Twice(owned("ttl"))),
            ("jwt,key=x", E::UnknownOption(owned("key"))),
            ("jwt,sign-method=none", E::UnknownSignMethod(owned("none"))),
            (
                "jwt,sign-method=ES512",
                E::UnknownSignMethod(owned("ES512")),
            ),
            (
                "jwt,sign-method=RS256",
                E::NoKey("pub-key=FILE or priv-key=FILE"),
            ),
            (
                "jwt,sign-method=HS256,pub-key=x",
                E::NoKey("priv-key=FILE with the secret"),
            ),
            ("jwt,sign-method=ES256,priv-key=x,ttl=5", E::Ttl(owned("5"))),
            (
                "jwt,sign-method=ES256,priv-key=x,ttl=0s",
                E::Ttl(owned("0s")),
            ),
            ("jwt,sign-method=ES256,priv-key=x,ttl=", E::Ttl(owned(""))),
        ] {
            assert_eq!(text.parse::<TokenSpec>(), Err(error), "{text}");
        }
    }

    #[test]
    fn times_are_those_of_go() {
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        for odd in ["", "5", "m", "1x", "-1s", "1.5s", "99999999999999999999s"] {
            assert_eq!(duration(odd), None, "{odd}");
        }
    }
}
