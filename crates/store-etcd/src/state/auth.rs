//! Users, roles and permissions in the replicated state, and whether a command may run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use trivet_env::Clock;
use trivet_etcd_auth::token::SimpleTokens;
use trivet_etcd_auth::{
    AuthAnswer, AuthCommand, AuthError, AuthState, Caller, DecodeError as AuthDecodeError, KeySpan,
    Need, SpanEnd, TokenChange,
};
use trivet_mvcc::{KeyRange, LeaseId, LeaseTable, Op, PutOp, Txn};

use super::codec::DecodeError;
use super::command::Command;

/// How long a simple token lives after its last use, unless a setting says otherwise.
const TOKEN_TTL: Duration = Duration::from_secs(300);

/// The tokens this member has seen given out. Not part of the state: gone with the process.
#[derive(Clone)]
pub struct Tokens {
    table: Arc<Mutex<SimpleTokens>>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let table = Arc::new(Mutex::new(SimpleTokens::new(TOKEN_TTL)));
        Self { table, clock }
    }

    // A table that a panic left behind half changed knows too few tokens, at worst.
    fn table(&self) -> MutexGuard<'_, SimpleTokens> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on tokens live that long after their last use.
    pub fn set_ttl(&self, ttl: Duration) {
        self.table().set_ttl(ttl);
    }

    /// Whose token it is; lets it live on.
    pub fn user(&self, token: &str) -> Option<String> {
        self.table().user(token, self.clock.monotonic())
    }

    /// Voids what was given out up to this log index, also if it is yet to be applied.
    pub fn forget_through(&self, index: u64) {
        self.table().forget_through(index);
    }

    /// Voids everything.
    pub(super) fn forget_all(&self) {
        self.table().forget_all();
    }

    pub(super) fn change(&self, change: TokenChange, index: u64) {
        match change {
            TokenChange::None => {}
            TokenChange::Assign { user, prefix } => {
                let now = self.clock.monotonic();
                self.table().assign(user, &prefix, index, now);
            }
            TokenChange::ForgetUser(user) => self.table().forget_user(&user),
            TokenChange::ForgetAll => self.table().forget_all(),
        }
    }
}

/// Applies a command's payload.
pub(super) fn apply(
    auth: &mut Arc<AuthState>,
    payload: &[u8],
) -> Result<(AuthAnswer, TokenChange), AuthError> {
    let command = AuthCommand::decode(payload).map_err(|_| AuthError::Malformed)?;
    if let AuthCommand::Authenticate { .. } = command {
        // Frequent, and changes nothing: no need for a state of its own.
        return auth.authenticate(command);
    }
    Arc::make_mut(auth).apply(command)
}

/// Reads a stored state.
pub(super) fn decode(image: &[u8]) -> Result<AuthState, DecodeError> {
    AuthState::decode(image).map_err(|error| match error {
        AuthDecodeError::Malformed => DecodeError::Malformed,
        AuthDecodeError::Unknown { version } => DecodeError::Unknown { version, kind: 0 },
    })
}

/// Whether a command was written by a later version of this program: then it must not be passed
/// over as malformed.
pub(super) fn from_the_future(command: &Command) -> Option<DecodeError> {
    match command.inner() {
        Command::Auth(payload) => match AuthCommand::decode(payload) {
            Err(AuthDecodeError::Unknown { version }) => {
                Some(DecodeError::Unknown { version, kind: 7 })
            }
            _ => None,
        },
        _ => None,
    }
}

/// Whether a caller may run a command now.
pub(super) fn authorize(
    auth: &AuthState,
    caller: &Caller,
    command: &Command,
    leases: &LeaseTable,
) -> Result<(), AuthError> {
    match command {
        Command::Txn(txn) => permits_txn(auth, caller, txn, Some(leases)),
        Command::LeaseGrant { .. } => auth.check(caller, Need::User),
        Command::LeaseRevoke { id } => {
            auth.check(caller, Need::User)?;
            writes_lease(auth, caller, *id, leases)
        }
        Command::Compact { .. } | Command::Alarm { .. } | Command::LeaseCheckpoint { .. } => {
            auth.check(caller, Need::Admin)
        }
        Command::Auth(payload) => match AuthCommand::decode(payload) {
            // Who shows a password need not be anybody yet.
            Ok(AuthCommand::Authenticate { .. }) => Ok(()),
            _ => auth.check(caller, Need::Admin),
        },
        Command::As { .. } => Err(AuthError::Malformed),
    }
}

/// Whether a caller may run all of a transaction: every comparison and both branches, whichever
/// of them it would take. Without `leases` it must not write.
pub(crate) fn permits_txn(
    auth: &AuthState,
    caller: &Caller,
    txn: &Txn,
    leases: Option<&LeaseTable>,
) -> Result<(), AuthError> {
    for compare in &txn.compare {
        auth.check(caller, Need::Read(span(&compare.range)))?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(range) => auth.check(caller, Need::Read(span(&range.range)))?,
            Op::Put(put) => permits_put(auth, caller, put, leases)?,
            Op::DeleteRange(delete) => {
                let range = span(&delete.range);
                auth.check(caller, Need::Write(range))?;
                if delete.prev_kv {
                    auth.check(caller, Need::Read(range))?;
                }
            }
            Op::Txn(txn) => permits_txn(auth, caller, txn, leases)?,
        }
    }
    Ok(())
}

fn permits_put(
    auth: &AuthState,
    caller: &Caller,
    put: &PutOp,
    leases: Option<&LeaseTable>,
) -> Result<(), AuthError> {
    let key = KeySpan::key(&put.key);
    auth.check(caller, Need::Write(key))?;
    // Who may attach to a lease could have its other keys deleted by ending it.
    if let (Some(id), Some(leases)) = (put.lease, leases) {
        writes_lease(auth, caller, id, leases)?;
    }
    if put.prev_kv {
        auth.check(caller, Need::Read(key))?;
    }
    Ok(())
}

fn writes_lease(
    auth: &AuthState,
    caller: &Caller,
    id: LeaseId,
    leases: &LeaseTable,
) -> Result<(), AuthError> {
    let keys = leases.keys(id).unwrap_or_default();
    keys.iter()
        .try_for_each(|key| auth.check(caller, Need::Write(KeySpan::key(key))))
}

/// A range of keys in the words of permissions.
pub(crate) fn span(range: &KeyRange) -> KeySpan<'_> {
    match range {
        KeyRange::Key(key) => KeySpan::key(key),
        KeyRange::From(start) => KeySpan {
            start,
            end: SpanEnd::Open,
        },
        KeyRange::Between { start, end } => KeySpan {
            start,
            end: SpanEnd::Before(end),
        },
    }
}
