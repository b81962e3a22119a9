//! Random operations.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use trivet_datastore::KeyRange;

/// The keys: few, so that operations meet, and awkward to order.
pub(super) const KEYS: [&[u8]; 9] = [
    b"\0",
    b"a",
    b"a\0",
    b"a/",
    b"a/b",
    b"a\xff",
    b"ab",
    b"\xff",
    b"\xff\xff",
];

/// What a random write expects. Revisions are relative, so that they often hold.
#[derive(Debug, Clone, Copy)]
pub enum Expectation {
    /// Nothing.
    Any,
    /// Absence.
    Absent,
    /// The revision that the key really has (1 where it is absent).
    Current,
    /// The revision this many before the newest.
    Ago(u8),
}

/// A random revision.
#[derive(Debug, Clone, Copy)]
pub enum Position {
    /// None: the newest, or the next for a watch.
    Unset,
    /// This many before the newest, but not before 1.
    Ago(u8),
    /// This many after the newest.
    Ahead(u8),
}

/// One random step. Keys are numbers in a short list, leases slots.
#[derive(Debug, Clone)]
#[expect(
    missing_docs,
    reason = "the fields are those of the requests they become"
)]
pub enum Operation {
    /// A put.
    Put {
        key: usize,
        value: u8,
        expect: Expectation,
        lease: Option<u8>,
    },
    /// A delete.
    Delete { key: usize, expect: Expectation },
    /// A range.
    Range {
        range: KeyRange,
        after: Option<usize>,
        limit: usize,
        at: Position,
        count_only: bool,
    },
    /// A compaction.
    Compact(Position),
    /// A new lease in this slot; what was there is forgotten, not revoked.
    Grant(u8),
    /// The revocation of the lease in this slot.
    Revoke(u8),
    /// The renewal of the lease in this slot.
    KeepAlive(u8),
    /// A new watch, compared from now on.
    Watch {
        range: KeyRange,
        start: Position,
        previous: bool,
    },
    /// Waits until all watches have delivered everything, and compares that.
    Drain,
    /// An export.
    Export,
}

/// Sequences of operations.
pub fn operations(count: usize) -> impl Strategy<Value = Vec<Operation>> {
    vec(operation(), 1..=count)
}

fn key() -> impl Strategy<Value = usize> {
    0..KEYS.len()
}

fn key_bytes() -> impl Strategy<Value = Bytes> {
    key().prop_map(|key| Bytes::from_static(KEYS[key]))
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        3 => key_bytes().prop_map(KeyRange::Key),
        2 => key_bytes().prop_map(KeyRange::Prefix),
        2 => Just(KeyRange::all()),
        2 => (key_bytes(), key_bytes()).prop_map(|(start, end)| KeyRange::Between { start, end }),
    ]
}

fn expectation() -> impl Strategy<Value = Expectation> {
    prop_oneof![
        3 => Just(Expectation::Any),
        2 => Just(Expectation::Absent),
        4 => Just(Expectation::Current),
        1 => (0..4u8).prop_map(Expectation::Ago),
    ]
}

fn position() -> impl Strategy<Value = Position> {
    prop_oneof![
        3 => Just(Position::Unset),
        4 => (0..20u8).prop_map(Position::Ago),
        1 => (1..4u8).prop_map(Position::Ahead),
    ]
}

fn slot() -> impl Strategy<Value = u8> {
    0..2u8
}

fn operation() -> impl Strategy<Value = Operation> {
    let put = (
        key(),
        any::<u8>(),
        expectation(),
        option::weighted(0.5, slot()),
    );
    let page = (
        range(),
        option::weighted(0.3, key()),
        0..4usize,
        position(),
        any::<bool>(),
    );
    prop_oneof![
        20 => put.prop_map(|(key, value, expect, lease)| Operation::Put { key, value, expect, lease }),
        8 => (key(), expectation()).prop_map(|(key, expect)| Operation::Delete { key, expect }),
        12 => page.prop_map(|(range, after, limit, at, count_only)| {
            Operation::Range { range, after, limit, at, count_only }
        }),
        2 => position().prop_map(Operation::Compact),
        4 => slot().prop_map(Operation::Grant),
        4 => slot().prop_map(Operation::Revoke),
        1 => slot().prop_map(Operation::KeepAlive),
        3 => (range(), position(), any::<bool>())
            .prop_map(|(range, start, previous)| Operation::Watch { range, start, previous }),
        1 => Just(Operation::Drain),
        1 => Just(Operation::Export),
    ]
}
