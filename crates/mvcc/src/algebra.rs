//! Requests and results of etcd's key-value algebra.

use bytes::Bytes;
use trivet_datastore::{KeyValue, LeaseId, Revision};

/// Which keys an operation covers; keys compare as unsigned bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRange {
    /// Exactly this key.
    Key(Bytes),
    /// Every key that is not less than this one.
    From(Bytes),
    /// `start <= key < end`; empty when `end <= start`.
    Between {
        /// First key that is covered.
        start: Bytes,
        /// First key that is not covered.
        end: Bytes,
    },
}

impl KeyRange {
    /// Every key.
    #[must_use]
    pub fn all() -> Self {
        Self::From(Bytes::new())
    }

    /// Every key that starts with `prefix`.
    #[must_use]
    pub fn prefix(prefix: Bytes) -> Self {
        match prefix.iter().rposition(|&byte| byte != 0xff) {
            None => Self::From(prefix),
            Some(last) => {
                let mut end = prefix[..=last].to_vec();
                end[last] += 1;
                Self::Between {
                    start: prefix,
                    end: end.into(),
                }
            }
        }
    }

    /// From etcd's pair of `key` and `range_end`: no end is one key, an end of one zero byte is
    /// everything from `key` on.
    #[must_use]
    pub fn from_wire(key: Bytes, range_end: Bytes) -> Self {
        if range_end.is_empty() {
            Self::Key(key)
        } else if range_end[..] == [0] {
            Self::From(key)
        } else {
            Self::Between {
                start: key,
                end: range_end,
            }
        }
    }

    /// The first key that can be covered.
    #[must_use]
    pub fn start(&self) -> &[u8] {
        match self {
            Self::Key(key) => key,
            Self::From(start) | Self::Between { start, .. } => start,
        }
    }

    /// Whether `key` is covered.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(one) => key == one,
            Self::From(start) => key >= &start[..],
            Self::Between { start, end } => key >= &start[..] && key < &end[..],
        }
    }

    /// Whether a scan in key order is over when it meets `key`.
    #[must_use]
    pub fn ends_before(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(one) => key > &one[..],
            Self::From(_) => false,
            Self::Between { end, .. } => key >= &end[..],
        }
    }
}

impl From<&trivet_datastore::KeyRange> for KeyRange {
    fn from(range: &trivet_datastore::KeyRange) -> Self {
        match range {
            trivet_datastore::KeyRange::Key(key) => Self::Key(key.clone()),
            trivet_datastore::KeyRange::Prefix(prefix) => Self::prefix(prefix.clone()),
            trivet_datastore::KeyRange::Between { start, end } => Self::Between {
                start: start.clone(),
                end: end.clone(),
            },
        }
    }
}

/// Direction of a sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortOrder {
    /// As found: key order. With a target other than the key the page is cut in key order
    /// first and then sorted ascending, as etcd does.
    #[default]
    None,
    /// Smallest first; the whole range is sorted before it is cut.
    Ascend,
    /// Largest first; the whole range is sorted before it is cut.
    Descend,
}

/// What a sort compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// The number of writes since creation.
    Version,
    /// The revision of creation.
    Create,
    /// The revision of the last write.
    Mod,
    /// The value.
    Value,
}

/// Reads keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeOp {
    /// The keys.
    pub range: KeyRange,
    /// Read at this revision; `None` is the newest.
    pub revision: Option<Revision>,
    /// At most this many pairs; 0 is no limit.
    pub limit: u64,
    /// Direction of the sort.
    pub sort_order: SortOrder,
    /// What the sort compares.
    pub sort_target: SortTarget,
    /// Leave out pairs last written before this revision; 0 is none.
    pub min_mod: u64,
    /// Leave out pairs last written after this revision; 0 is none.
    pub max_mod: u64,
    /// Leave out pairs created before this revision; 0 is none.
    pub min_create: u64,
    /// Leave out pairs created after this revision; 0 is none.
    pub max_create: u64,
    /// Leave values empty.
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
}

impl RangeOp {
    /// Every pair of `range` at the newest revision, in key order.
    #[must_use]
    pub fn new(range: KeyRange) -> Self {
        Self {
            range,
            revision: None,
            limit: 0,
            sort_order: SortOrder::None,
            sort_target: SortTarget::Key,
            min_mod: 0,
            max_mod: 0,
            min_create: 0,
            max_create: 0,
            keys_only: false,
            count_only: false,
        }
    }

    pub(crate) fn has_filter(&self) -> bool {
        (self.min_mod | self.max_mod | self.min_create | self.max_create) != 0
    }
}

/// Sets one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutOp {
    /// The key; not empty.
    pub key: Bytes,
    /// The value; empty with `ignore_value`.
    pub value: Bytes,
    /// The lease the key is attached to; `None` detaches. `None` with `ignore_lease`.
    pub lease: Option<LeaseId>,
    /// Return the replaced pair.
    pub prev_kv: bool,
    /// Keep the value; the key must exist.
    pub ignore_value: bool,
    /// Keep the lease; the key must exist.
    pub ignore_lease: bool,
}

impl PutOp {
    /// Sets `key` to `value` without a lease.
    #[must_use]
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            lease: None,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        }
    }
}

/// Deletes keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteRangeOp {
    /// The keys.
    pub range: KeyRange,
    /// Return the deleted pairs, in key order.
    pub prev_kv: bool,
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Read.
    Range(RangeOp),
    /// Write.
    Put(PutOp),
    /// Delete.
    DeleteRange(DeleteRangeOp),
    /// A transaction within the transaction.
    Txn(Txn),
}

/// How a [`Compare`] relates the key's value (left) to the given one (right).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareOp {
    /// left = right.
    Equal,
    /// left > right.
    Greater,
    /// left < right.
    Less,
    /// left ≠ right.
    NotEqual,
    /// Holds whatever is compared: what an unknown number on the wire means in etcd. An absent
    /// key still fails a comparison of values.
    Always,
}

/// What a [`Compare`] looks at, with the value to compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompareTarget {
    /// Writes since creation; 0 for an absent key.
    Version(i64),
    /// Revision of creation; 0 for an absent key.
    Create(i64),
    /// Revision of the last write; 0 for an absent key.
    Mod(i64),
    /// The value. An absent key fails every comparison.
    Value(Bytes),
    /// The lease; 0 for none.
    Lease(i64),
    /// Left and right are equal: what an unknown number on the wire means in etcd.
    Unknown,
}

/// A condition on the state before the transaction. With a range, every key of it must fulfil
/// the condition; a range without keys counts as one absent key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The keys.
    pub range: KeyRange,
    /// The relation.
    pub op: CompareOp,
    /// What is compared.
    pub target: CompareTarget,
}

/// If every condition holds then `success`, else `failure`; atomically, in one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// Conditions; none at all hold.
    pub compare: Vec<Compare>,
    /// Run when all conditions hold.
    pub success: Vec<Op>,
    /// Run otherwise.
    pub failure: Vec<Op>,
}

impl Txn {
    /// A transaction of one unconditional step.
    #[must_use]
    pub fn single(op: Op) -> Self {
        Self {
            compare: Vec::new(),
            success: vec![op],
            failure: Vec::new(),
        }
    }

    /// Whether all steps of both branches are top-level ranges: such a transaction needs no
    /// consensus ([`Store::read_txn`](crate::Store)).
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.success
            .iter()
            .chain(&self.failure)
            .all(|op| matches!(op, Op::Range(_)))
    }
}

/// What a range found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeResult {
    /// The newest revision when the range was read (in a transaction: as of this step).
    pub revision: Revision,
    /// The pairs.
    pub items: Vec<KeyValue>,
    /// Whether the limit left pairs out.
    pub more: bool,
    /// Number of keys in the range at the revision read, before filters and limit.
    pub count: u64,
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpResult {
    /// Of [`Op::Range`].
    Range(RangeResult),
    /// Of [`Op::Put`].
    Put {
        /// Revision of the write.
        revision: Revision,
        /// The replaced pair, where asked for and there was one.
        previous: Option<KeyValue>,
    },
    /// Of [`Op::DeleteRange`].
    DeleteRange {
        /// Revision of the deletion, or the newest revision as of this step if nothing matched.
        revision: Revision,
        /// Number of deleted keys.
        deleted: u64,
        /// The deleted pairs, where asked for.
        previous: Vec<KeyValue>,
    },
    /// Of [`Op::Txn`].
    Txn(TxnResult),
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnResult {
    /// The newest revision after the transaction; grown by one if it changed anything.
    pub revision: Revision,
    /// Whether the conditions held.
    pub succeeded: bool,
    /// One result for each step of the branch taken.
    pub results: Vec<OpResult>,
}

/// Why an operation was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The revision is no longer there.
    #[error("the required revision has been compacted (at {compact_revision})")]
    Compacted {
        /// The last compaction.
        compact_revision: Revision,
    },
    /// The revision does not exist yet.
    #[error("revision {requested} is in the future; the newest is {current}")]
    FutureRevision {
        /// Revision of the request.
        requested: Revision,
        /// Newest revision.
        current: Revision,
    },
    /// A put names a lease that does not exist; or a lease to revoke does not.
    #[error("lease not found")]
    LeaseNotFound,
    /// A lease to grant exists.
    #[error("the lease already exists")]
    LeaseExists,
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    #[error("key not found")]
    KeyNotFound,
    /// The transaction is malformed.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// Why a request is malformed, whatever the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A key is empty.
    #[error("key is not provided")]
    EmptyKey,
    /// `ignore_value` with a value.
    #[error("value is provided")]
    ValueProvided,
    /// `ignore_lease` with a lease.
    #[error("lease is provided")]
    LeaseProvided,
    /// A list of the transaction is too long.
    #[error("too many operations in txn request")]
    TooManyOps,
    /// One branch writes a key twice.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// Transactions are nested too deeply.
    #[error("transactions are nested too deeply")]
    TooDeep,
}
