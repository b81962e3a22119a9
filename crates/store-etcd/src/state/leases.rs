//! Changes of leases, for the leader's clock.

use std::collections::VecDeque;

use trivet_mvcc::{LeaseId, LeaseInfo};

/// Changes kept for readers that are a little behind.
const MAX_CHANGES: usize = 8192;

/// A lease came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseChange {
    /// A lease was created.
    Granted(LeaseInfo),
    /// A lease is gone, with its keys.
    Revoked(LeaseId),
}

/// The reader is too far behind, or a snapshot replaced the state: read all leases again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many leases have changed since")]
pub struct Lagged;

/// Changes of leases from a cursor on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseChanges {
    /// The cursor to ask with next time.
    pub next: u64,
    /// The changes, in order.
    pub changes: Result<Vec<LeaseChange>, Lagged>,
}

/// The latest changes of leases.
#[derive(Debug, Default)]
pub(super) struct LeaseLog {
    ring: VecDeque<LeaseChange>,
    next: u64,
}

impl LeaseLog {
    pub(super) fn push(&mut self, change: LeaseChange) {
        if self.ring.len() == MAX_CHANGES {
            self.ring.pop_front();
        }
        self.ring.push_back(change);
        self.next += 1;
    }

    /// Everything may have changed.
    pub(super) fn reset(&mut self) {
        self.ring.clear();
        self.next += 1;
    }

    pub(super) fn cursor(&self) -> u64 {
        self.next
    }

    pub(super) fn read(&self, after: u64) -> LeaseChanges {
        let first = self.next - self.ring.len() as u64;
        let changes = after.checked_sub(first).ok_or(Lagged).map(|skip| {
            self.ring
                .iter()
                .skip(usize::try_from(skip).unwrap_or(usize::MAX))
                .copied()
                .collect()
        });
        LeaseChanges {
            next: self.next,
            changes,
        }
    }
}
