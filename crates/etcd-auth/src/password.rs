//! Passwords as bcrypt hashes. Slow on purpose: call from a thread that may block.

use std::fmt;
use std::sync::OnceLock;

use bcrypt::{HashParts, Version};

/// Longest password: bcrypt does not look at more.
pub const MAX_PASSWORD_BYTES: usize = 72;

const MIN_COST: u32 = 4;
const MAX_COST: u32 = 31;

/// What is kept of a password. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// A hash in bcrypt's own form, from a file or another store; one that is not in that form
    /// matches no password.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// One that matches no password.
    #[must_use]
    pub fn unusable() -> Self {
        Self(String::new())
    }

    /// The hash in bcrypt's own form, for writing it down.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

/// Why there is no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Longer than [`MAX_PASSWORD_BYTES`]; hashing only a part of it would let other passwords
    /// in.
    #[error("bcrypt: password length exceeds 72 bytes")]
    TooLong,
    /// Not between 4 and 31.
    #[error("bcrypt: cost {0} is outside allowed inclusive range 4..31")]
    Cost(u32),
    /// The system gives no random numbers.
    #[error("no randomness for a password hash")]
    Randomness,
}

/// Makes and checks hashes.
#[derive(Debug)]
pub struct Hasher {
    cost: u32,
    /// What the passwords of unknown users are compared with.
    decoy: OnceLock<Option<PasswordHash>>,
}

impl Hasher {
    /// Each step of the cost doubles the time; etcd's default is 10.
    pub fn new(cost: u32) -> Result<Self, PasswordError> {
        if !(MIN_COST..=MAX_COST).contains(&cost) {
            return Err(PasswordError::Cost(cost));
        }
        Ok(Self {
            cost,
            decoy: OnceLock::new(),
        })
    }

    /// Hashes a password. Blocks.
    pub fn hash(&self, password: &str) -> Result<PasswordHash, PasswordError> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(PasswordError::TooLong);
        }
        let parts =
            bcrypt::hash_with_result(password, self.cost).map_err(|_| PasswordError::Randomness)?;
        // The prefix that Go's library writes; all versions mean the same here.
        Ok(PasswordHash(parts.format_for_version(Version::TwoA)))
    }

    /// Whether a password belongs to a hash; `None` for a user that does not exist, which takes
    /// as long, as does a hash that nothing fits. Blocks.
    pub fn verify(&self, hash: Option<&PasswordHash>, password: &str) -> bool {
        let usable = hash.filter(|hash| hash.0.parse::<HashParts>().is_ok());
        let decoy = || {
            self.decoy
                .get_or_init(|| self.hash("a password nobody has").ok())
                .as_ref()
        };
        // The comparison within takes the same time wherever the hashes differ.
        usable.or_else(decoy).is_some_and(|kept| {
            let same = bcrypt::verify(password, &kept.0).unwrap_or(false);
            same & usable.is_some()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_fits_its_password_only() {
        let hasher = Hasher::new(4).unwrap();
        let hash = hasher.hash("secret").unwrap();
        assert!(hash.expose().starts_with("$2a$04$"), "{}", hash.expose());
        assert!(hasher.verify(Some(&hash), "secret"));
        assert!(!hasher.verify(Some(&hash), "Secret"));
        assert!(!hasher.verify(Some(&PasswordHash::unusable()), ""));
        assert!(!hasher.verify(None, "a password nobody has"));
        assert_ne!(hash, hasher.hash("secret").unwrap(), "salted");
        let empty = hasher.hash("").unwrap();
        assert!(hasher.verify(Some(&empty), "") && !hasher.verify(Some(&empty), "x"));
    }

    #[test]
    fn hashes_made_elsewhere_are_understood() {
        let hasher = Hasher::new(4).unwrap();
        // Made by crypt(3).
        for (password, hash) in [
            (
                "",
                "$2a$06$If6bvum7DFjUnE9p2uDeDu1/XpgfvI8PbV8YFdl.4.xEjHbPYIm/u",
            ),
            (
                "correct horse battery staple",
                "$2a$06$If6bvum7DFjUnE9p2uDeDuM2Ja3l8H5DpojoO7/VgERnALaPd8cxy",
            ),
        ] {
            assert!(
                hasher.verify(Some(&PasswordHash::from_text(hash)), password),
                "{password}"
            );
        }
    }

    #[test]
    fn long_passwords_and_odd_costs_are_refused() {
        let hasher = Hasher::new(4).unwrap();
        assert!(hasher.hash(&"x".repeat(72)).is_ok());
        assert_eq!(hasher.hash(&"x".repeat(73)), Err(PasswordError::TooLong));
        for cost in [0, 3, 32] {
            assert_eq!(Hasher::new(cost).unwrap_err(), PasswordError::Cost(cost));
        }
        let hash = hasher.hash(&"x".repeat(72)).unwrap();
        // bcrypt looks at 72 bytes; a longer one was never set.
        assert!(hasher.verify(Some(&hash), &"x".repeat(72)));
    }

    #[test]
    fn debug_does_not_tell_the_hash() {
        let hash = Hasher::new(4).unwrap().hash("secret").unwrap();
        assert_eq!(format!("{hash:?}"), "PasswordHash(..)");
    }
}
