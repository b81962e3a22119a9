//! The replicated part of leases: who they are and what hangs on them. When they end is for the
//! leader's [`LeaseClock`](crate::LeaseClock).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use trivet_datastore::LeaseId;

use crate::Error;

/// A lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Identity.
    pub id: LeaseId,
    /// Time to live as granted, in seconds.
    pub ttl_s: u64,
    /// What was left of it when that was last noted, in seconds; 0 if it never was.
    pub remaining_s: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Lease {
    ttl_s: u64,
    remaining_s: u64,
    keys: BTreeSet<Bytes>,
}

/// All leases with the keys attached to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseTable {
    leases: BTreeMap<LeaseId, Lease>,
}

impl LeaseTable {
    /// Creates a lease.
    pub fn grant(&mut self, id: LeaseId, ttl_s: u64) -> Result<(), Error> {
        if self.leases.contains_key(&id) {
            return Err(Error::LeaseExists);
        }
        self.leases.insert(
            id,
            Lease {
                ttl_s,
                remaining_s: 0,
                keys: BTreeSet::new(),
            },
        );
        Ok(())
    }

    /// Notes how much time a lease has left, 0 for all of it. `false` if there is no such lease.
    pub fn set_remaining(&mut self, id: LeaseId, remaining_s: u64) -> bool {
        match self.leases.get_mut(&id) {
            Some(lease) => {
                lease.remaining_s = remaining_s.min(lease.ttl_s);
                true
            }
            None => false,
        }
    }

    /// Removes a lease; its keys, in order.
    pub(crate) fn remove(&mut self, id: LeaseId) -> Option<BTreeSet<Bytes>> {
        self.leases.remove(&id).map(|lease| lease.keys)
    }

    /// Attaches a key. Nothing happens without the lease.
    pub fn attach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&LeaseId(id)) {
            lease.keys.insert(Bytes::copy_from_slice(key));
        }
    }

    pub(crate) fn detach(&mut self, id: i64, key: &[u8]) {
        if id != 0
            && let Some(lease) = self.leases.get_mut(&LeaseId(id))
        {
            lease.keys.remove(key);
        }
    }

    /// Whether there is such a lease.
    #[must_use]
    pub fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// One lease.
    #[must_use]
    pub fn get(&self, id: LeaseId) -> Option<LeaseInfo> {
        self.leases.get(&id).map(|lease| LeaseInfo {
            id,
            ttl_s: lease.ttl_s,
            remaining_s: lease.remaining_s,
        })
    }

    /// The keys attached to a lease, in order.
    #[must_use]
    pub fn keys(&self, id: LeaseId) -> Option<Vec<Bytes>> {
        self.leases
            .get(&id)
            .map(|lease| lease.keys.iter().cloned().collect())
    }

    /// Every lease, in order of identity.
    pub fn iter(&self) -> impl Iterator<Item = LeaseInfo> {
        self.leases.iter().map(|(&id, lease)| LeaseInfo {
            id,
            ttl_s: lease.ttl_s,
            remaining_s: lease.remaining_s,
        })
    }
}
