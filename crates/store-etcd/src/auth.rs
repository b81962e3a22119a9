//! Who calls, and whether that one may: what every service asks before it acts.
//!
//! Reads are judged here by the state this member has applied. Writes carry their caller through
//! the log and are judged when they are applied, by the same state on every member. While
//! authentication is off all of it costs one look at a flag.

use std::future::Future;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::Semaphore;
use tonic::Request;
use trivet_datastore::{Error, Result};
use trivet_etcd_auth::token::{Jwt, MAX_TOKEN_BYTES, SimpleTokens, TokenSpec, random_prefix};
use trivet_etcd_auth::{AuthError, Caller, Hasher, Need, PasswordHash};
use trivet_mvcc::Txn;

use crate::engine::Engine;
use crate::failure::Failure;
use crate::state::permits_txn;

/// etcd's default for `--bcrypt-cost`.
const DEFAULT_BCRYPT_COST: u32 = 10;

/// etcd's default for `--auth-token-ttl`.
const DEFAULT_TOKEN_TTL: Duration = Duration::from_secs(300);

/// Passwords that wait for a processor; more callers are sent away.
const MAX_PASSWORDS_WAITING: usize = 1000;

/// A key file is no longer.
const MAX_KEY_FILE_BYTES: u64 = 64 * 1024;

/// How users prove who they are, once authentication is enabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSettings {
    /// Which tokens are given out; the same for all members.
    pub token: TokenSpec,
    /// How long a simple token lives after its last use.
    pub token_ttl: Duration,
    /// What a password hash costs, 4 to 31; each step doubles it.
    pub bcrypt_cost: u32,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            token: TokenSpec::Simple,
            token_ttl: DEFAULT_TOKEN_TTL,
            bcrypt_cost: DEFAULT_BCRYPT_COST,
        }
    }
}

/// The common name in the certificate that a client has shown, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientName(pub(crate) Arc<str>);

/// What a request brings to prove who sent it.
#[derive(Clone)]
pub(crate) struct Credentials {
    token: Option<String>,
    name: Option<ClientName>,
}

impl Credentials {
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        let headers = request.metadata().as_ref();
        Self::read(headers, request.extensions().get())
    }

    fn read(headers: &HeaderMap, name: Option<&ClientName>) -> Self {
        let token = headers
            .get("token")
            .or_else(|| headers.get("authorization"))
            .map(|value| {
                // What is no text is no token of ours; an empty one is as good.
                let text = value.to_str().unwrap_or_default();
                text.strip_prefix("Bearer ").unwrap_or(text).to_owned()
            });
        Self {
            token,
            name: name.cloned(),
        }
    }
}

/// Passwords and tokens of this member.
pub(crate) struct Proofs {
    hasher: Arc<Hasher>,
    /// Hashing keeps a processor busy for long.
    hashing: Arc<Semaphore>,
    waiting: Semaphore,
    jwt: Option<Jwt>,
}

impl Proofs {
    /// Reads the keys of tokens, if there are any. Blocks.
    pub(crate) fn open(settings: &AuthSettings) -> Result<Self> {
        let invalid = |error: String| Error::Invalid(error);
        let hasher =
            Hasher::new(settings.bcrypt_cost).map_err(|error| invalid(error.to_string()))?;
        let jwt = match &settings.token {
            TokenSpec::Simple => None,
            TokenSpec::Jwt(spec) => {
                Some(Jwt::load(spec, read_key).map_err(|error| invalid(error.to_string()))?)
            }
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            hasher: Arc::new(hasher),
            hashing: Arc::new(Semaphore::new(processors)),
            waiting: Semaphore::new(MAX_PASSWORDS_WAITING),
            jwt,
        })
    }

    /// Runs something slow about a password, a few at a time.
    async fn slowly<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Hasher) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(Failure::Raft(trivet_raft_node::Error::Overloaded));
        };
        let slot = self.hashing.clone().acquire_owned().await;
        let hasher = self.hasher.clone();
        let work = move || {
            // Held until the work is done, also when nobody waits for it any more.
            let _slot = slot;
            work(&hasher)
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Failure::Damaged(format!("hashing a password stopped: {error}")))
    }

    /// Hashes a password.
    pub(crate) async fn hash(&self, password: String) -> Result<PasswordHash, Failure> {
        let hashed = self.slowly(move |hasher| hasher.hash(&password)).await?;
        hashed.map_err(Failure::Password)
    }

    /// Whether a password is right; takes as long for a user that does not exist.
    async fn verify(&self, kept: Option<PasswordHash>, password: String) -> Result<bool, Failure> {
        self.slowly(move |hasher| hasher.verify(kept.as_ref(), &password))
            .await
    }

    /// The random part of the next token; empty where tokens prove themselves.
    pub(crate) fn token_prefix(&self) -> Result<String, Failure> {
        match self.jwt {
            Some(_) => Ok(String::new()),
            None => random_prefix()
                .ok_or_else(|| Failure::Damaged("no randomness for a token".to_owned())),
        }
    }
}

impl Engine {
    /// Who sent a request. Nobody in particular while authentication is off.
    pub(crate) fn caller<T>(
        &self,
        request: &Request<T>,
    ) -> impl Future<Output = Result<Caller, Failure>> + Send + use<'_, T> {
        let credentials = self.shared.auth_enabled().then(|| Credentials::of(request));
        async move {
            match credentials {
                None => Ok(Caller::Anonymous),
                Some(credentials) => self.identify(&credentials).await,
            }
        }
    }

    /// Whether whoever sent a call may make it at all; what it names is looked at later.
    pub(crate) async fn admit(
        &self,
        (service, method): (&str, &str),
        headers: &HeaderMap,
        name: Option<&ClientName>,
    ) -> Result<(), Failure> {
        let need = match (service, method) {
            ("etcdserverpb.Cluster", "MemberList") | ("etcdserverpb.Maintenance", "Status") => {
                Need::User
            }
            // Its handler knows whether it asks or changes something.
            ("etcdserverpb.Maintenance", "Alarm") => return Ok(()),
            ("etcdserverpb.Cluster" | "etcdserverpb.Maintenance", _) => Need::Admin,
            _ => return Ok(()),
        };
        let caller = self.identify(&Credentials::read(headers, name)).await?;
        self.check(&caller, need)
    }

    /// Who can show these credentials now.
    pub(crate) async fn identify(&self, credentials: &Credentials) -> Result<Caller, Failure> {
        if !self.shared.auth_enabled() {
            return Ok(Caller::Anonymous);
        }
        let auth_revision = self.shared.auth().revision();
        if let Some(token) = &credentials.token {
            return match &self.proofs.jwt {
                Some(jwt) => jwt
                    .verify(token, self.env.clock.wall())
                    .map(|(name, auth_revision)| Caller::User {
                        name,
                        auth_revision,
                    })
                    .ok_or(Failure::Auth(AuthError::InvalidToken)),
                None => self.simple_token(token).await,
            };
        }
        Ok(match &credentials.name {
            Some(ClientName(name)) => Caller::User {
                name: name.to_string(),
                auth_revision,
            },
            None => Caller::Anonymous,
        })
    }

    async fn simple_token(&self, token: &str) -> Result<Caller, Failure> {
        let invalid = Failure::Auth(AuthError::InvalidToken);
        if token.len() > MAX_TOKEN_BYTES {
            return Err(invalid);
        }
        // Before the token: it is void with the change that comes with a later revision.
        let user = || {
            let auth_revision = self.shared.auth().revision();
            let name = self.shared.tokens().user(token)?;
            Some(Caller::User {
                name,
                auth_revision,
            })
        };
        if let Some(caller) = user() {
            return Ok(caller);
        }
        // Given out by another member a moment ago, perhaps, and not applied here yet.
        match SimpleTokens::index(token) {
            Some(index) if index > self.shared.applied().index => {
                self.barrier().await?;
                user().ok_or(invalid)
            }
            _ => Err(invalid),
        }
    }

    /// Whether a caller may do something now, as far as this member knows.
    pub(crate) fn check(&self, caller: &Caller, need: Need<'_>) -> Result<(), Failure> {
        if !self.shared.auth_enabled() {
            return Ok(());
        }
        self.shared
            .auth()
            .check(caller, need)
            .map_err(Failure::Auth)
    }

    /// Whether a caller may run a transaction that only reads.
    pub(crate) fn check_read_txn(&self, caller: &Caller, txn: &Txn) -> Result<(), Failure> {
        if !self.shared.auth_enabled() {
            return Ok(());
        }
        permits_txn(&self.shared.auth(), caller, txn, None).map_err(Failure::Auth)
    }

    /// Whether what a caller was allowed to read is still what it was allowed to: users and roles
    /// may have changed while it was read.
    pub(crate) fn check_still(&self, caller: &Caller) -> Result<(), Failure> {
        match caller {
            Caller::User { auth_revision, .. }
                if self.shared.auth_enabled()
                    && *auth_revision != self.shared.auth().revision() =>
            {
                Err(Failure::Auth(AuthError::OldRevision))
            }
            _ => Ok(()),
        }
    }

    /// Checks a password; gives the revision of users and roles by which it is right.
    pub(crate) async fn check_password(
        &self,
        user: &str,
        password: String,
    ) -> Result<u64, Failure> {
        let auth = self.shared.auth();
        if !auth.enabled() {
            return Err(Failure::Auth(AuthError::NotEnabled));
        }
        let kept = match auth.user_password(user) {
            None => None,
            Some(None) => return Err(Failure::Auth(AuthError::NoPassword)),
            Some(Some(kept)) => Some(kept.clone()),
        };
        if self.proofs.verify(kept, password).await? {
            Ok(auth.revision())
        } else {
            Err(Failure::Auth(AuthError::Failed))
        }
    }

    /// The token that comes of a successful [`AuthCommand::Authenticate`] in the log entry
    /// `index`.
    ///
    /// [`AuthCommand::Authenticate`]: trivet_etcd_auth::AuthCommand::Authenticate
    pub(crate) fn token(
        &self,
        user: &str,
        prefix: &str,
        (auth_revision, index): (u64, u64),
    ) -> Result<String, Failure> {
        match &self.proofs.jwt {
            None => Ok(SimpleTokens::text(prefix, index)),
            Some(jwt) => jwt
                .sign(user, auth_revision, self.env.clock.wall())
                .ok_or(Failure::Auth(AuthError::Failed)),
        }
    }
}

fn read_key(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut key = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_KEY_FILE_BYTES)
        .read_to_end(&mut key)?;
    Ok(key)
}
