//! Simple tokens: 16 random letters, a dot, and the log index at which they were given out.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};

/// Letters in front of the dot.
const PREFIX_LETTERS: usize = 16;
const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// More tokens than these are not kept; the one that ends first makes room.
const MAX_TOKENS: usize = 100_000;

/// Tokens that have ended are looked for this often at most.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// The random part of a new token; `None` when the system gives no random numbers.
#[must_use]
pub fn random_prefix() -> Option<String> {
    let random = SystemRandom::new();
    let mut prefix = String::with_capacity(PREFIX_LETTERS);
    while prefix.len() < PREFIX_LETTERS {
        let mut bytes = [0; 2 * PREFIX_LETTERS];
        random.fill(&mut bytes).ok()?;
        // Only as many of the 256 values as give every letter the same share.
        let fair = bytes.iter().filter(|byte| **byte < 52 * 4);
        let missing = PREFIX_LETTERS - prefix.len();
        prefix.extend(
            fair.take(missing)
                .map(|byte| char::from(LETTERS[usize::from(byte % 52)])),
        );
    }
    Some(prefix)
}

/// The tokens one member knows. What identifies a token is its digest: how long a look-up takes
/// says nothing about how much of a guess was right.
pub struct SimpleTokens {
    ttl: Duration,
    tokens: HashMap<[u8; 32], Entry>,
    /// Tokens up to this index are of an earlier life of this member.
    forgotten_through: u64,
    swept_at: Duration,
}

struct Entry {
    user: String,
    index: u64,
    ends_at: Duration,
}

impl fmt::Debug for SimpleTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimpleTokens")
            .field("tokens", &self.tokens.len())
            .finish_non_exhaustive()
    }
}

impl SimpleTokens {
    /// No tokens. Each ends `ttl` after it was last used.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            tokens: HashMap::new(),
            forgotten_through: 0,
            swept_at: Duration::ZERO,
        }
    }

    /// From here on tokens live that long.
    pub fn set_ttl(&mut self, ttl: Duration) {
        self.ttl = ttl;
    }

    /// The token that belongs to a random part and a log index.
    #[must_use]
    pub fn text(prefix: &str, index: u64) -> String {
        format!("{prefix}.{index}")
    }

    /// The log index that a token names: who has applied it knows the token, or it is void.
    #[must_use]
    pub fn index(token: &str) -> Option<u64> {
        let (prefix, index) = token.split_once('.')?;
        let plain = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
        if prefix.is_empty() || !plain {
            return None;
        }
        index.parse().ok()
    }

    /// Remembers a token.
    pub fn assign(&mut self, user: String, prefix: &str, index: u64, now: Duration) {
        if index <= self.forgotten_through {
            return;
        }
        self.sweep(now);
        if self.tokens.len() >= MAX_TOKENS {
            let first = self
                .tokens
                .iter()
                .min_by_key(|(_, entry)| entry.ends_at)
                .map(|(key, _)| *key);
            if let Some(first) = first {
                self.tokens.remove(&first);
            }
        }
        let entry = Entry {
            user,
            index,
            ends_at: now + self.ttl,
        };
        self.tokens.insert(key(&Self::text(prefix, index)), entry);
    }

    /// Whose token it is; lets it live on.
    pub fn user(&mut self, token: &str, now: Duration) -> Option<String> {
        let key = key(token);
        let entry = self.tokens.get_mut(&key)?;
        if entry.ends_at <= now {
            self.tokens.remove(&key);
            return None;
        }
        entry.ends_at = now + self.ttl;
        Some(entry.user.clone())
    }

    /// Voids the tokens of a user.
    pub fn forget_user(&mut self, user: &str) {
        self.tokens.retain(|_, entry| entry.user != user);
    }

    /// Voids all tokens.
    pub fn forget_all(&mut self) {
        self.tokens.clear();
    }

    /// Voids tokens of this log index and below, those too that are yet to be applied: after a
    /// restart the end of the log is applied once more.
    pub fn forget_through(&mut self, index: u64) {
        self.forgotten_through = self.forgotten_through.max(index);
        self.tokens.retain(|_, entry| entry.index > index);
    }

    fn sweep(&mut self, now: Duration) {
        if now >= self.swept_at + SWEEP_PAUSE {
            self.swept_at = now;
            self.tokens.retain(|_, entry| entry.ends_at > now);
        }
    }
}

fn key(token: &str) -> [u8; 32] {
    let digest = digest(&SHA256, token.as_bytes());
    digest
        .as_ref()
        .try_into()
        .expect("a SHA-256 digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_lives_as_long_as_it_is_used() {
        let mut tokens = SimpleTokens::new(TTL);
        tokens.assign("alice".to_owned(), "abc", 7, at(0));
        assert_eq!(tokens.user("abc.7", at(299)).as_deref(), Some("alice"));
        assert_eq!(tokens.user("abc.7", at(598)).as_deref(), Some("alice"));
        assert_eq!(tokens.user("abc.7", at(898)), None);
        assert_eq!(tokens.user("abc.7", at(899)), None, "gone for good");
        assert_eq!(tokens.user("abc.8", at(0)), None);
    }

    #[test]
    fn ended_tokens_make_room() {
        let mut tokens = SimpleTokens::new(TTL);
        tokens.assign("alice".to_owned(), "abc", 7, at(0));
        tokens.assign("bob".to_owned(), "def", 8, at(400));
        assert_eq!(tokens.tokens.len(), 1);
        for index in 0..MAX_TOKENS as u64 {
            tokens.assign("carol".to_owned(), "x", 10 + index, at(401));
        }
        assert_eq!(tokens.tokens.len(), MAX_TOKENS);
        assert_eq!(tokens.user("def.8", at(401)), None, "the oldest went");
        assert!(tokens.user("x.10", at(401)).is_some());
    }

    #[test]
    fn tokens_are_voided() {
        let mut tokens = SimpleTokens::new(TTL);
        for (user, index) in [("alice", 1), ("bob", 2), ("alice", 3), ("bob", 4)] {
            tokens.assign(user.to_owned(), "p", index, at(0));
        }
        tokens.forget_user("alice");
        assert_eq!(tokens.user("p.1", at(1)), None);
        assert_eq!(tokens.user("p.2", at(1)).as_deref(), Some("bob"));
        tokens.forget_through(3);
        assert_eq!(tokens.user("p.2", at(1)), None);
        assert_eq!(tokens.user("p.4", at(1)).as_deref(), Some("bob"));
        tokens.assign("bob".to_owned(), "again", 3, at(1));
        assert_eq!(tokens.user("again.3", at(1)), None, "applied once more");
        tokens.forget_all();
        assert_eq!(tokens.user("p.4", at(1)), None);
    }

    #[test]
    fn a_token_names_its_index() {
        assert_eq!(SimpleTokens::index("abc.12"), Some(12));
        for odd in [
            "", "abc", ".1", "abc.", "abc.-1", "abc.+1", "a.b.1", "a.1.2", "a.x",
        ] {
            assert_eq!(SimpleTokens::index(odd), None, "{odd}");
        }
        assert_eq!(SimpleTokens::index("a.99999999999999999999"), None);
    }

    #[test]
    fn prefixes_are_letters_and_differ() {
        let prefix = random_prefix().unwrap();
        assert_eq!(prefix.len(), 16);
        assert!(prefix.bytes().all(|byte| byte.is_ascii_alphabetic()));
        assert_ne!(prefix, random_prefix().unwrap());
    }

    #[test]
    fn debug_shows_no_token() {
        let mut tokens = SimpleTokens::new(TTL);
        tokens.assign("alice".to_owned(), "abc", 7, at(0));
        let text = format!("{tokens:?}");
        assert!(!text.contains("abc") && !text.contains("alice"), "{text}");
    }
}
