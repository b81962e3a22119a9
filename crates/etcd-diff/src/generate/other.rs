//! Leases, watches, members, upkeep, and bytes that mean nothing.

use bytes::Bytes;
use trivet_store_etcd::proto::etcdserverpb as pb;

use super::{Generator, View};
use crate::op::{LOCAL_MEMBER, Op, WatchStep};

impl Generator {
    /// A lease that exists, existed or never did.
    fn any_lease(&mut self, view: &View) -> i64 {
        match self.dice.below(10) {
            0..6 if !view.leases.is_empty() => self.dice.pick(&view.leases),
            0..8 if !view.dead_leases.is_empty() => self.dice.pick(&view.dead_leases),
            _ => match self.dice.percent(50) {
                true => self.dice.below(5) as i64,
                false => self.odd_number(),
            },
        }
    }

    pub(super) fn lease(&mut self, view: &View) -> Op {
        match self.dice.below(100) {
            0..25 => self.grant(view),
            25..45 => Op::Revoke(self.any_lease(view)),
            45..70 => {
                let count = self.dice.below(4);
                Op::KeepAlive((0..count).map(|_| self.any_lease(view)).collect())
            }
            70..92 => Op::TimeToLive(self.any_lease(view), self.dice.percent(60)),
            _ => Op::Leases,
        }
    }

    fn grant(&mut self, view: &View) -> Op {
        let id = match self.dice.below(10) {
            0..4 => 0,
            4..8 => self.dice.pick(&[-9, -1, 1, 2, 3, 77, i64::MIN, i64::MAX]),
            _ => self.any_lease(view),
        };
        let ttl = match self.dice.below(100) {
            0..70 => 900 + self.dice.below(100_000) as i64,
            70..80 => self.dice.pick(&[9_000_000_000, 9_000_000_001, i64::MAX]),
            _ => {
                // Raised to the shortest time there is. It must be gone again before that ends,
                // or the two sides would differ by the moment.
                let id = 1_000_000 + self.dice.below(1000) as i64;
                let ttl = self.dice.pick(&[i64::MIN, -5, 0, 1]);
                self.queue.push_back(Op::TimeToLive(id, true));
                self.queue.push_back(Op::KeepAlive(vec![id, id]));
                self.queue.push_back(Op::Revoke(id));
                return Op::Grant(pb::LeaseGrantRequest { ttl, id });
            }
        };
        Op::Grant(pb::LeaseGrantRequest { ttl, id })
    }

    pub(super) fn watch(&mut self, view: &View) -> Op {
        let open: Vec<usize> = (0..view.streams.len())
            .filter(|&stream| view.streams[stream].is_some())
            .collect();
        if open.is_empty() || (open.len() < 5 && self.dice.percent(8)) {
            return Op::Watch(view.streams.len(), WatchStep::Open);
        }
        let stream = self.dice.pick(&open);
        let ids = view.streams[stream].clone().unwrap_or_default();
        let step = match self.dice.below(100) {
            0..55 if ids.len() < 30 => WatchStep::Create(self.watch_request(view, &ids)),
            0..78 => WatchStep::Cancel(match ids.is_empty() || self.dice.percent(10) {
                true => self.dice.pick(&[-1, 99, i64::MIN]),
                false => self.dice.pick(&ids),
            }),
            78..93 => WatchStep::Progress,
            93..97 => WatchStep::Blank,
            _ => WatchStep::HalfClose,
        };
        Op::Watch(stream, step)
    }

    fn watch_request(&mut self, view: &View, ids: &[i64]) -> pb::WatchCreateRequest {
        let key = self.key();
        let range_end = self.range_end(&key);
        let span = (view.current - view.compacted).clamp(1, 60) as usize;
        let start_revision = match self.dice.below(100) {
            0..50 => 0,
            50..75 => view.current - self.dice.below(span) as i64,
            75..80 => view.compacted,
            80..85 => view.compacted - 1,
            85..92 => view.current + 1 + self.dice.below(5) as i64,
            92..94 => self.dice.pick(&[i64::MIN, -1]),
            94..96 => i64::MAX,
            _ => view.current,
        };
        let start_revision = match view.spared.negative_watch_start {
            true => start_revision.max(0),
            false => start_revision,
        };
        let mut filters = Vec::new();
        if self.dice.percent(25) {
            for _ in 0..1 + self.dice.below(2) {
                filters.push(self.dice.pick(&[0, 0, 1, 1, 2, -1]));
            }
        }
        let watch_id = match self.dice.below(100) {
            0..75 => 0,
            75..85 if !ids.is_empty() => self.dice.pick(ids),
            _ => self.dice.pick(&[1, 2, 3, 7, 1000, -7, i64::MAX, i64::MIN]),
        };
        pb::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: self.dice.percent(20),
            filters,
            prev_kv: self.dice.percent(50),
            watch_id,
            fragment: self.dice.percent(30),
        }
    }

    /// Three large values deleted at once, watched with what was there before: more than fits in
    /// one message for those who want fragments.
    pub(super) fn big_batch(&mut self, view: &View) -> Op {
        let stream = view.streams.len();
        let create = |fragment, watch_id| {
            Op::Watch(
                stream,
                WatchStep::Create(pb::WatchCreateRequest {
                    key: "big/".into(),
                    range_end: "big0".into(),
                    prev_kv: true,
                    fragment,
                    watch_id,
                    ..Default::default()
                }),
            )
        };
        self.queue.extend([create(true, 0), create(false, 7)]);
        for key in ["big/1", "big/2", "big/3"] {
            self.queue.push_back(Op::Put(pb::PutRequest {
                key: key.into(),
                value: Bytes::from(vec![self.dice.number() as u8; 1_100_000]),
                ..Default::default()
            }));
        }
        self.queue.push_back(Op::Delete(pb::DeleteRangeRequest {
            key: "big/".into(),
            range_end: "big0".into(),
            prev_kv: false,
        }));
        Op::Watch(stream, WatchStep::Open)
    }

    /// Reads, and changes that must be refused: a second member would take the quorum away.
    pub(super) fn cluster(&mut self, view: &View) -> Op {
        let urls = |dice: &mut crate::Dice| -> Vec<String> {
            dice.pick(&[
                vec![],
                vec!["not a url"],
                vec!["127.0.0.1:2380"],
                vec!["http://127.0.0.1"],
                vec!["http://127.0.0.1:2380/path"],
                vec!["ftp://127.0.0.1:2380"],
            ])
            .into_iter()
            .map(str::to_owned)
            .collect()
        };
        match self.dice.below(10) {
            0..5 => Op::MemberList(self.dice.percent(50)),
            5 => Op::MemberAdd(urls(&mut self.dice), self.dice.percent(50)),
            6 => Op::MemberRemove(self.dice.pick(&[4711, LOCAL_MEMBER])),
            7 => Op::MemberUpdate(4711, vec!["http://127.0.0.1:1".to_owned()]),
            8 if view.spared.bad_member_update => Op::MemberUpdate(4712, vec![]),
            8 => Op::MemberUpdate(LOCAL_MEMBER, urls(&mut self.dice)),
            _ => Op::MemberPromote(self.dice.pick(&[4711, LOCAL_MEMBER])),
        }
    }

    pub(super) fn maintenance(&mut self, view: &View) -> Op {
        match self.dice.below(10) {
            0..3 => Op::Status,
            3..6 => Op::HashKv(self.revision(view)),
            6 => Op::Hash,
            7 => Op::Alarm(pb::AlarmRequest {
                // Asked for, or lifted where there is none.
                action: self.dice.pick(&[0, 2]),
                member_id: self.dice.pick(&[0, 4711, LOCAL_MEMBER]),
                alarm: self.dice.pick(&[0, 1, 2]),
            }),
            8 => Op::MoveLeader(self.dice.pick(&[LOCAL_MEMBER, 0, 4711])),
            _ => Op::Defragment,
        }
    }

    pub(super) fn raw(&mut self) -> Op {
        let path = self.dice.pick(&[
            "/etcdserverpb.KV/Range",
            "/etcdserverpb.KV/Nothing",
            "/etcdserverpb.Nothing/Range",
            "/etcdserverpb.Lease/LeaseRevoke",
            "/nothing",
        ]);
        // A length that runs past the end, a wire type that does not exist, a field that does not.
        let body = self.dice.pick(&[
            vec![],
            vec![0x0a, 0x7f, b'a'],
            vec![0x0f],
            vec![0x0a, 0x01, b'a', 0xa8, 0x3f, 0x05],
            vec![0xff; 12],
        ]);
        Op::Raw(path, body)
    }
}
