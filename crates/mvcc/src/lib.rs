//! etcd's key-value model as a pure data structure.
//!
//! [`Store`] is the state: an [`Index`] of all versions of all keys, [`LeaseTable`], and the
//! [`WatchLog`] of recent events. [`Txn`] and what it is made of is the algebra of changes,
//! [`View`] an image for readers. Values themselves lie behind [`Values`]; only their
//! [`Location`]s are here. [`LeaseClock`] is the leader's book of when leases end; it is not
//! part of the replicated state.
//!
//! Rules of revisions: an empty store is at 1; what changes something takes the next revision,
//! all its changes share it and are ordered by a number within it; what changes nothing takes
//! none.
//!
//! **Invariant:** nothing here does I/O, reads a clock or depends on anything but its input:
//! the same operations give the same state and the same answers on every member, however far
//! each has got with the removal of what was compacted.

mod algebra;
mod chunk;
mod hash;
mod index;
mod lease;
mod lease_clock;
mod log;
mod order;
mod store;
mod validate;
mod version;
mod view;

pub use algebra::{
    Compare, CompareOp, CompareTarget, DeleteRangeOp, Error, Invalid, KeyRange, Op, OpResult,
    PutOp, RangeOp, RangeResult, SortOrder, SortTarget, Txn, TxnResult,
};
pub use hash::Hasher;
pub use index::{Change, Entry, Index, IndexBuilder};
pub use lease::{LeaseInfo, LeaseTable};
pub use lease_clock::{LeaseClock, Renewal};
pub use log::{Behind, Event, RevisionEvents, WatchLog, WatchLogLimits};
pub use order::History;
pub use store::{Parts, Store};
pub use trivet_datastore::{EventKind, Key, KeyValue, LeaseId, Revision, WatchBatch, WatchEvent};
pub use validate::MAX_TXN_DEPTH;
pub use version::{Location, ReadValues, Values, Version};
pub use view::{Selection, View};
