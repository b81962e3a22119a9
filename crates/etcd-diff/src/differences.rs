//! The things in which our store and an older etcd are known to differ. Nothing else is
//! tolerated: whatever is not in [`TABLE`] is a mismatch.

use std::collections::BTreeMap;

use tonic::Code;

use crate::answer::Answer;
use crate::generate::Spared;
use crate::op::Op;

/// A known difference.
#[derive(Debug)]
pub struct Difference {
    /// What it is called in reports.
    pub name: &'static str,
    /// Why it may be.
    pub reason: &'static str,
    /// The first release of each line without it; none for differences of no release.
    pub gone_since: &'static [[u64; 3]],
    /// How it is treated.
    pub treatment: Treatment,
}

/// How a difference is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Answers may differ in exactly this way.
    Excuse(Excuse),
    /// The genuine server is not sent this, since nothing could be compared afterwards.
    Spare(Spare),
    /// Watches differ in exactly this way.
    Watch(WatchQuirk),
}

/// Answers that may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // explained in the table
pub enum Excuse {
    UnknownSortOrder,
    DecodingText,
    AlarmHeader,
    MalformedMethod,
    HashAtCompaction,
    OversizedCount,
}

/// What older servers are spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // explained in the table
pub enum Spare {
    UnknownSortTarget,
    UnknownSortOrderInTxn,
    NegativeWatchStart,
    BadMemberUpdate,
}

/// Differences in what watches deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // explained in the table
pub enum WatchQuirk {
    TombstoneLost,
    ProgressAlways,
    PreviousAtCompaction,
}

/// All of them.
pub const TABLE: &[Difference] = &[
    Difference {
        name: "unknown sort order accepted",
        reason: "etcd before 3.6 sorts nothing when it does not know the order; we refuse it, as 3.6 does",
        gone_since: &[[3, 6, 0]],
        treatment: Treatment::Excuse(Excuse::UnknownSortOrder),
    },
    Difference {
        name: "unknown sort order accepted in a transaction",
        reason: "the same, but the transaction would change one store and not the other",
        gone_since: &[[3, 6, 0]],
        treatment: Treatment::Spare(Spare::UnknownSortOrderInTxn),
    },
    Difference {
        name: "unknown sort target crashes",
        reason: "etcd before 3.6 ends with a nil dereference",
        gone_since: &[[3, 6, 0]],
        treatment: Treatment::Spare(Spare::UnknownSortTarget),
    },
    Difference {
        name: "negative start of a watch",
        reason: "a watch that older releases leave neither running nor cancelled; we refuse it, as later ones do",
        gone_since: &[[3, 4, 38], [3, 5, 24], [3, 6, 6]],
        treatment: Treatment::Spare(Spare::NegativeWatchStart),
    },
    Difference {
        name: "deletion at the compacted revision lost",
        reason: "older releases drop the tombstone of the compacted revision itself, so that a watch from there misses it",
        gone_since: &[[3, 4, 34], [3, 5, 16], [3, 6, 0]],
        treatment: Treatment::Watch(WatchQuirk::TombstoneLost),
    },
    Difference {
        name: "progress always answered",
        reason: "older releases answer a progress request on a stream that has no watch, or one that waits for the future",
        gone_since: &[[3, 4, 25], [3, 5, 8], [3, 6, 0]],
        treatment: Treatment::Watch(WatchQuirk::ProgressAlways),
    },
    Difference {
        name: "no header in alarms",
        reason: "older releases forget it",
        gone_since: &[[3, 5, 0]],
        treatment: Treatment::Excuse(Excuse::AlarmHeader),
    },
    Difference {
        name: "code for a method without a service",
        reason: "the gRPC library of older releases said ResourceExhausted, later ones Unimplemented",
        gone_since: &[[3, 6, 0]],
        treatment: Treatment::Excuse(Excuse::MalformedMethod),
    },
    Difference {
        name: "no hash of the compacted revision",
        reason: "older releases refuse it although it can be read",
        gone_since: &[[3, 6, 0]],
        treatment: Treatment::Excuse(Excuse::HashAtCompaction),
    },
    Difference {
        name: "previous pair at the compacted revision",
        reason: "it is garbage by then; we still show it as long as it is there, since Kubernetes cannot do without",
        gone_since: &[],
        treatment: Treatment::Watch(WatchQuirk::PreviousAtCompaction),
    },
    Difference {
        name: "size of a message with chosen ids",
        reason: "the ids of leases that a server chose take more or fewer bytes",
        gone_since: &[],
        treatment: Treatment::Excuse(Excuse::OversizedCount),
    },
    Difference {
        name: "unchecked peer URLs in a member update",
        reason: "etcd takes any text, and other members end with a panic when they read it; we refuse it",
        gone_since: &[],
        treatment: Treatment::Spare(Spare::BadMemberUpdate),
    },
    Difference {
        name: "text about malformed messages",
        reason: "it is the protobuf library's own; the code is the same",
        gone_since: &[],
        treatment: Treatment::Excuse(Excuse::DecodingText),
    },
];

/// The differences from one genuine server.
#[derive(Debug)]
pub(crate) struct Known {
    active: Vec<&'static Difference>,
    /// How often each was met.
    pub(crate) met: BTreeMap<&'static str, usize>,
}

impl Known {
    /// Those of this version.
    pub(crate) fn of(version: &str) -> Self {
        let parts: Vec<u64> = version
            .split(['.', '-', '+'])
            .map_while(|part| part.parse().ok())
            .collect();
        let version = [0, 1, 2].map(|place| parts.get(place).copied().unwrap_or(0));
        Self {
            active: TABLE.iter().filter(|it| it.concerns(version)).collect(),
            met: BTreeMap::new(),
        }
    }

    /// Whether these answers differ in a known way.
    pub(crate) fn excuses(&mut self, op: &Op, ours: &Answer, theirs: &Answer) -> bool {
        let found = self.active.iter().find(|difference| {
            matches!(difference.treatment, Treatment::Excuse(excuse) if excuse.covers(op, ours, theirs))
        });
        match found {
            Some(difference) => {
                *self.met.entry(difference.name).or_default() += 1;
                true
            }
            None => false,
        }
    }

    /// Whether the genuine server has this quirk.
    pub(crate) fn has(&self, quirk: WatchQuirk) -> bool {
        self.active
            .iter()
            .any(|difference| difference.treatment == Treatment::Watch(quirk))
    }

    /// Notes that a quirk showed.
    pub(crate) fn meet(&mut self, quirk: WatchQuirk) {
        for difference in &self.active {
            if difference.treatment == Treatment::Watch(quirk) {
                *self.met.entry(difference.name).or_default() += 1;
            }
        }
    }

    /// What must not be sent.
    pub(crate) fn spared(&self) -> Spared {
        let spared = |what| {
            self.active
                .iter()
                .any(|difference| difference.treatment == Treatment::Spare(what))
        };
        Spared {
            unknown_sort_target: spared(Spare::UnknownSortTarget),
            unknown_sort_order_in_txn: spared(Spare::UnknownSortOrderInTxn),
            negative_watch_start: spared(Spare::NegativeWatchStart),
            bad_member_update: spared(Spare::BadMemberUpdate),
        }
    }
}

impl Difference {
    fn concerns(&self, version: [u64; 3]) -> bool {
        let line = |release: &[u64; 3]| [release[0], release[1]];
        match self
            .gone_since
            .iter()
            .find(|release| line(release) == line(&version))
        {
            Some(release) => version < *release,
            // Lines before the first fixed one have it, later ones do not.
            None => self.gone_since.first().is_none_or(|first| version < *first),
        }
    }
}

impl Excuse {
    fn covers(self, op: &Op, ours: &Answer, theirs: &Answer) -> bool {
        let refused = |code, text| ours.refusal() == Some((code, text));
        match (self, op) {
            (Self::UnknownSortOrder, Op::Range(request)) => {
                !(0..3).contains(&request.sort_order)
                    && refused(Code::InvalidArgument, "etcdserver: invalid sort option")
                    && theirs
                        .refusal()
                        .is_none_or(|(code, _)| code == Code::OutOfRange)
            }
            (Self::AlarmHeader, Op::Alarm(_)) => {
                let (Answer::Alarm(ours), Answer::Alarm(theirs)) = (ours, theirs) else {
                    return false;
                };
                theirs.header.is_none() && ours.header.is_some() && ours.alarms == theirs.alarms
            }
            (Self::MalformedMethod, Op::Raw(..)) => ours.refusal().is_some_and(|(code, text)| {
                text.starts_with("malformed method name")
                    && code == Code::Unimplemented
                    && theirs.refusal() == Some((Code::ResourceExhausted, text))
            }),
            (Self::HashAtCompaction, Op::HashKv(revision)) => {
                let compacted = "etcdserver: mvcc: required revision has been compacted";
                matches!(ours, Answer::HashKv(hash) if hash.compact_revision == *revision)
                    && theirs.refusal() == Some((Code::OutOfRange, compacted))
            }
            (Self::OversizedCount, Op::Txn(_) | Op::Put(_)) => {
                let larger = |answer: &Answer| {
                    answer.refusal().is_some_and(|(code, text)| {
                        code == Code::ResourceExhausted
                            && text.starts_with("grpc: received message larger than max (2")
                            && text.ends_with(" vs. 2097152)")
                    })
                };
                let chosen = crate::names::CHOSEN.to_string();
                larger(ours)
                    && larger(theirs)
                    && format!("{op:?}").contains(chosen.trim_end_matches('0'))
            }
            (Self::DecodingText, Op::Raw(..)) => {
                let code = |answer: &Answer| answer.refusal().map(|(code, _)| code);
                code(ours) == Some(Code::Internal) && code(theirs) == Some(Code::Internal)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_ends_with_its_release() {
        let known = |version: &str| Known::of(version).has(WatchQuirk::TombstoneLost);
        let expected = [
            ("3.3.10", true),
            ("3.4.23", true),
            ("3.4.34", false),
            ("3.5.1", true),
            ("3.5.16", false),
            ("3.5.21-rc.1", false),
            ("3.6.0", false),
            ("3.7.1", false),
        ];
        for (version, differs) in expected {
            assert_eq!(known(version), differs, "{version}");
        }
    }

    #[test]
    fn only_the_declared_answer_is_excused() {
        let op = |sort_order| {
            Op::Range(trivet_store_etcd::proto::etcdserverpb::RangeRequest {
                sort_order,
                ..Default::default()
            })
        };
        let refused = |text: &str| Answer::Refused(Code::InvalidArgument, text.to_owned());
        let theirs = Answer::Range(Default::default());
        let mut known = Known::of("3.4.23");
        let ours = refused("etcdserver: invalid sort option");
        assert!(known.excuses(&op(7), &ours, &theirs));
        assert!(!known.excuses(&op(1), &ours, &theirs));
        assert!(!known.excuses(&op(7), &refused("etcdserver: no"), &theirs));
        assert!(!Known::of("3.6.0").excuses(&op(7), &ours, &theirs));
    }
}
