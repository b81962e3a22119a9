//! Operations on keys.

use bytes::Bytes;
use trivet_store_etcd::proto::etcdserverpb as pb;

use super::{Generator, View};

/// Few keys, so that operations meet; with every kind of neighbour.
const KEYS: [&[u8]; 32] = [
    b"\0",
    b"\0\0",
    b"\x01",
    b"a",
    b"a\0",
    b"aa",
    b"ab",
    b"b",
    b"c",
    b"d",
    b"e/1",
    b"e/2",
    b"k/",
    b"k/1",
    b"k/2",
    b"k/3",
    b"k/4",
    b"k/5",
    b"k/6",
    b"k/7",
    b"k/8",
    b"k/9",
    b"k/10",
    b"k/11",
    b"k/12",
    b"k/13",
    b"k0",
    b"z",
    b"\xfe\xff",
    b"\xff",
    b"\xff\0",
    b"\xff\xff",
];

impl Generator {
    pub(super) fn key(&mut self) -> Bytes {
        match self.dice.below(100) {
            0..2 => Bytes::new(),
            // Half of all keys under one prefix.
            2..50 => Bytes::from_static(KEYS[12 + self.dice.below(14)]),
            _ => Bytes::from_static(KEYS[self.dice.below(KEYS.len())]),
        }
    }

    pub(super) fn range_end(&mut self, key: &Bytes) -> Bytes {
        match self.dice.below(100) {
            0..30 => Bytes::new(),
            30..50 => Bytes::from_static(b"k0"),
            50..62 => Bytes::from_static(b"\0"),
            62..70 => key.clone(),
            70..75 => Bytes::from_static(b"\xff\xff\xff"),
            // Often below the key.
            _ => self.key(),
        }
    }

    fn value(&mut self) -> Bytes {
        match self.dice.below(100) {
            0..10 => Bytes::new(),
            10..70 => Bytes::from(format!("v{}", self.dice.below(6))),
            70..90 => Bytes::from(self.dice.number().to_le_bytes().to_vec()),
            90..99 => Bytes::from(vec![b'x'; self.dice.below(3000)]),
            // Between the limits of a command and of a message, and beyond both.
            _ => {
                let size = self.dice.pick(&[1_400_000, 1_700_000, 2_200_000]);
                Bytes::from(vec![b'y'; size])
            }
        }
    }

    /// A revision to read at.
    pub(super) fn revision(&mut self, view: &View) -> i64 {
        let span = (view.current - view.compacted).max(1) as usize;
        match self.dice.below(100) {
            0..50 => 0,
            50..75 => view.current - self.dice.below(span) as i64,
            75..80 => view.current,
            80..85 => view.current + 1,
            85..90 => view.compacted,
            90..94 => view.compacted - 1,
            94..97 => view.compacted + 1,
            _ => self.odd_number(),
        }
    }

    /// A revision to filter or compare by.
    fn near(&mut self, view: &View) -> i64 {
        match self.dice.below(20) {
            0 => self.odd_number(),
            1..4 => self.dice.below(4) as i64,
            _ => view.current - self.dice.below(40) as i64,
        }
    }

    pub(super) fn range(&mut self, view: &View, in_txn: bool) -> pb::RangeRequest {
        let key = self.key();
        let range_end = self.range_end(&key);
        let mut request = pb::RangeRequest {
            range_end,
            key,
            revision: self.revision(view),
            serializable: self.dice.percent(30),
            keys_only: self.dice.percent(15),
            count_only: self.dice.percent(10),
            ..Default::default()
        };
        if self.dice.percent(40) {
            request.limit = match self.dice.below(10) {
                0 => self.odd_number(),
                _ => 1 + self.dice.below(8) as i64,
            };
        }
        if self.dice.percent(40) {
            let spare = in_txn && view.spared.unknown_sort_order_in_txn;
            request.sort_order = match self.dice.percent(4) && !spare {
                true => self.dice.pick(&[-1, 3, i32::MAX]),
                false => self.dice.below(3) as i32,
            };
            request.sort_target = match self.dice.percent(4) && !view.spared.unknown_sort_target {
                true => self.dice.pick(&[-1, 5, i32::MAX]),
                false => self.dice.below(5) as i32,
            };
        }
        if self.dice.percent(25) {
            for bound in [
                &mut request.min_mod_revision,
                &mut request.max_mod_revision,
                &mut request.min_create_revision,
                &mut request.max_create_revision,
            ] {
                if self.dice.percent(40) {
                    *bound = self.near(view);
                }
            }
        }
        request
    }

    /// A lease to attach to: mostly one that exists.
    fn lease_to_use(&mut self, view: &View) -> i64 {
        match self.dice.below(100) {
            0..75 => 0,
            75..95 if !view.leases.is_empty() => self.dice.pick(&view.leases),
            75..97 if !view.dead_leases.is_empty() => self.dice.pick(&view.dead_leases),
            _ => self.dice.pick(&[-1, 4711, i64::MIN]),
        }
    }

    pub(super) fn put(&mut self, view: &View) -> pb::PutRequest {
        let mut request = pb::PutRequest {
            key: self.key(),
            value: self.value(),
            lease: self.lease_to_use(view),
            prev_kv: self.dice.percent(40),
            ignore_value: self.dice.percent(12),
            ignore_lease: self.dice.percent(12),
        };
        // Mostly without what contradicts the flags.
        if request.ignore_value && self.dice.percent(80) {
            request.value = Bytes::new();
        }
        if request.ignore_lease && self.dice.percent(80) {
            request.lease = 0;
        }
        request
    }

    pub(super) fn delete(&mut self) -> pb::DeleteRangeRequest {
        let key = self.key();
        // Sweeping often would leave nothing to work on.
        let range_end = match self.dice.percent(75) {
            true => Bytes::new(),
            false => self.range_end(&key),
        };
        pb::DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.dice.percent(50),
        }
    }

    fn compare(&mut self, view: &View) -> pb::Compare {
        use pb::compare::TargetUnion;
        let key = self.key();
        let range_end = match self.dice.percent(75) {
            true => Bytes::new(),
            false => self.range_end(&key),
        };
        let mut result = self.dice.below(4) as i32;
        let mut target = self.dice.below(5) as i32;
        if self.dice.percent(4) {
            result = self.dice.pick(&[-1, 4, i32::MAX]);
        }
        if self.dice.percent(4) {
            target = self.dice.pick(&[-1, 5, i32::MAX]);
        }
        // Now and then a union that does not fit the target.
        let shape = match self.dice.percent(5) {
            true => self.dice.below(5) as i32,
            false => target,
        };
        let union = match shape {
            0 => TargetUnion::Version(self.dice.below(4) as i64),
            1 => TargetUnion::CreateRevision(self.near(view)),
            2 => TargetUnion::ModRevision(self.near(view)),
            3 => TargetUnion::Value(self.value()),
            _ => {
                let id = self.lease_to_use(view);
                // How ids that servers chose are ordered is theirs.
                if id >= crate::names::CHOSEN {
                    result = self.dice.pick(&[0, 3]);
                }
                TargetUnion::Lease(id)
            }
        };
        pb::Compare {
            result,
            target,
            key,
            range_end,
            target_union: (!self.dice.percent(5)).then_some(union),
        }
    }

    pub(super) fn txn(&mut self, view: &View, depth: usize) -> pb::TxnRequest {
        let mut request = pb::TxnRequest {
            compare: (0..self.dice.below(3))
                .map(|_| self.compare(view))
                .collect(),
            success: self.steps(view, depth),
            failure: self.steps(view, depth),
        };
        // At the limit of 128, just above it, and with a budget that nesting uses up.
        if depth == 0 && self.dice.percent(3) {
            let step = pb::RequestOp {
                request: Some(pb::request_op::Request::RequestRange(pb::RangeRequest {
                    key: "a".into(),
                    ..Default::default()
                })),
            };
            let length = self.dice.pick(&[127, 128, 129]);
            match self.dice.percent(50) {
                true => request
                    .success
                    .resize(length.max(request.success.len()), step),
                false => request
                    .failure
                    .resize(length.max(request.failure.len()), step),
            }
        }
        request
    }

    fn steps(&mut self, view: &View, depth: usize) -> Vec<pb::RequestOp> {
        use pb::request_op::Request;
        let count = self.dice.below(5);
        (0..count)
            .map(|_| {
                let request = match self.dice.below(100) {
                    0..34 => Request::RequestRange(self.range(view, true)),
                    34..70 => Request::RequestPut(self.put(view)),
                    70..84 => Request::RequestDeleteRange(self.delete()),
                    84..98 if depth < 3 => Request::RequestTxn(self.txn(view, depth + 1)),
                    98.. if self.dice.percent(30) => return pb::RequestOp { request: None },
                    _ => Request::RequestPut(pb::PutRequest {
                        key: self.key(),
                        ..Default::default()
                    }),
                };
                pb::RequestOp {
                    request: Some(request),
                }
            })
            .collect()
    }

    pub(super) fn compact(&mut self, view: &View) -> pb::CompactionRequest {
        let span = (view.current - view.compacted).max(1) as usize;
        let revision = match self.dice.below(100) {
            0..50 => view.current - self.dice.below(span) as i64,
            50..60 => view.current,
            60..70 => view.current + 1,
            70..80 => view.compacted,
            80..85 => view.compacted - 1,
            85..90 => 0,
            _ => self.odd_number(),
        };
        pb::CompactionRequest {
            revision,
            physical: self.dice.percent(50),
        }
    }
}
