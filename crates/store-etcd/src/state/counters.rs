//! What is counted where the log is applied and the state is read.

use trivet_mvcc::{OpResult, TxnResult};

use super::command::{Outcome, Response};
use crate::meter::Counter;

/// How often which operation was done on this member's state.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Pairs written.
    pub(crate) puts: Counter,
    /// Deletions, whether they found something or not.
    pub(crate) deletes: Counter,
    /// Ranges read.
    pub(crate) ranges: Counter,
    /// Transactions of more than one step.
    pub(crate) txns: Counter,
    /// Leases granted.
    pub(crate) leases_granted: Counter,
    /// Leases ended, by their owners or in time.
    pub(crate) leases_revoked: Counter,
}

impl Counters {
    pub(super) fn applied(&self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            match &outcome.result {
                Ok(Response::Txn(result)) => self.txn(result),
                Ok(Response::LeaseGranted { .. }) => self.leases_granted.increment(),
                Ok(Response::LeaseRevoked { .. }) => self.leases_revoked.increment(),
                Ok(_) | Err(_) => {}
            }
        }
    }

    pub(super) fn txn(&self, result: &TxnResult) {
        if self.steps(&result.results) > 1 {
            self.txns.increment();
        }
    }

    fn steps(&self, results: &[OpResult]) -> u64 {
        let mut count = 0;
        for result in results {
            count += match result {
                OpResult::Txn(inner) => self.steps(&inner.results),
                OpResult::Range(_) => {
                    self.ranges.increment();
                    1
                }
                OpResult::Put { .. } => {
                    self.puts.increment();
                    1
                }
                OpResult::DeleteRange { .. } => {
                    self.deletes.increment();
                    1
                }
            };
        }
        count
    }
}
