//! The whole state as of one moment, for copies in other formats.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use trivet_etcd_auth::AuthState;
use trivet_mvcc::{LeaseInfo, Location, ReadValues, View};
use trivet_raft_node::LogPosition;

use super::alarm::Alarms;
use super::segments::Table;
use super::shared::{ReadError, Shared};

/// Holds no lock: neither later changes nor a compaction disturb it. Files that the state has
/// given up meanwhile stay readable through it, and take their space until it is dropped.
pub struct StateImage {
    /// Every version, the newest revision, the compaction.
    pub view: View,
    /// Every lease.
    pub leases: Vec<LeaseInfo>,
    /// The last log entry whose effects are in it.
    pub applied: LogPosition,
    /// The alarms that are raised.
    pub alarms: Arc<Alarms>,
    /// Users and roles.
    pub auth: AuthState,
    table: Arc<Table>,
}

impl std::fmt::Debug for StateImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateImage")
            .field("revision", &self.view.revision)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

impl StateImage {
    /// Values by their places in the view, in order. Blocks on the disk.
    pub fn values(&self, locations: &[Location]) -> io::Result<Vec<Bytes>> {
        self.table.read_many(locations)
    }
}

impl Shared {
    /// Everything as it is now.
    pub fn image(&self) -> Result<StateImage, ReadError> {
        let inner = self.read();
        inner.usable()?;
        // Never in silence without what protects the rest.
        let auth = AuthState::decode(&inner.side.auth.encode())
            .map_err(|error| ReadError::Damaged(error.to_string()))?;
        Ok(StateImage {
            view: inner.store.view().clone(),
            leases: inner.store.leases().iter().collect(),
            applied: inner.applied,
            alarms: Arc::clone(&inner.side.alarms),
            auth,
            table: inner.segments.table(),
        })
    }
}
