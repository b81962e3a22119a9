//! Members on a simulated network, with files small enough for everything to happen soon.
//!
//! Part of the library and not behind a feature, for the reasons given in
//! [`trivet_raft_node::testing`].

use std::sync::Arc;

use trivet_datastore::{LeaseId, Result};
use trivet_mvcc::{Txn, TxnResult};

use crate::config::StoreConfig;
use crate::open::open_on;
use crate::state::Limits;
use crate::store::EtcdStore;

pub use trivet_raft_node::testing::{Network, Retention};

/// What the members of a test share.
#[derive(Clone)]
pub struct Bench {
    /// Connects them.
    pub network: Network,
    /// Sizes of the state's files.
    pub limits: Limits,
    /// Sizes of the log's files, and when they go.
    pub retention: Retention,
}

impl Bench {
    /// The address on [`Bench::network`] of the member of that name.
    #[must_use]
    pub fn url(&self, member_name: &str) -> String {
        format!("https://{member_name}:2380")
    }
}

/// [`crate::open`] on a bench: [`StoreConfig::peers`] is ignored.
///
/// # Errors
/// As [`crate::open`].
pub async fn open(config: StoreConfig, bench: &Bench) -> Result<Arc<EtcdStore>> {
    Box::pin(open_on(config, Some(bench))).await
}

/// Replicates a transaction of several steps, which the datastore's side does not offer.
///
/// # Errors
/// As [`trivet_datastore::Datastore::put`].
pub async fn transact(store: &EtcdStore, txn: Txn) -> Result<TxnResult> {
    Ok(store.engine.transact(txn).await?)
}

/// Whether the lease exists here.
#[must_use]
pub fn has_lease(store: &EtcdStore, id: LeaseId) -> bool {
    store.engine.shared.lease(id).is_some()
}

/// How many leases exist here.
#[must_use]
pub fn leases(store: &EtcdStore) -> usize {
    store.engine.shared.leases().len()
}

/// The seconds that a lease is noted to have left; 0 without a note.
#[must_use]
pub fn noted_time_left(store: &EtcdStore, id: LeaseId) -> Option<u64> {
    store.engine.shared.lease(id).map(|lease| lease.remaining_s)
}

/// The checksum that members compare, of the newest revision.
///
/// # Errors
/// When a value does not read back.
pub async fn hash(store: &EtcdStore) -> Result<crate::state::StateHash> {
    let hash = store.engine.shared.hash(None).await;
    Ok(hash.map_err(crate::failure::Failure::from)?)
}

/// Makes one value of this member another one, as a bug or a bit in memory would.
///
/// # Errors
/// When the disk fails.
pub fn diverge(store: &EtcdStore) -> std::io::Result<()> {
    store.engine.shared.diverge()
}

/// The alarms that are raised, as this member has them.
#[must_use]
pub fn alarms(store: &EtcdStore) -> Vec<crate::state::AlarmMember> {
    store.engine.alarms().iter().collect()
}

/// Compares the members once; to be asked of the leader.
pub async fn compare(store: &EtcdStore) {
    crate::checks::compare(&store.engine, std::time::Duration::from_secs(2)).await;
}

/// What was found damaged since the member was opened or healed.
#[must_use]
pub fn damage(store: &EtcdStore) -> Vec<String> {
    store.engine.shared.damage()
}

/// The term in which this member leads and is confirmed by a quorum, if it does.
#[must_use]
pub fn leading_term(store: &EtcdStore) -> Option<u64> {
    let now = *store.engine.node.leadership().borrow();
    now.local.then_some(now.term)
}

/// Stops a member as a crash of its machine does: nothing is
/// handed over or written any more.
pub async fn abort(store: &EtcdStore) {
    store.engine.stop.cancel();
    trivet_raft_node::testing::abort(&store.engine.node).await;
}
