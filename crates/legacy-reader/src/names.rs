//! The file names of a dqlite directory.

/// What a file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Closed {
        first: u64,
        last: u64,
    },
    Open {
        counter: u64,
    },
    Snapshot {
        term: u64,
        index: u64,
        ms: u64,
    },
    SnapshotMeta {
        term: u64,
        index: u64,
        ms: u64,
    },
    Metadata,
    /// A directory that K3s moved older data to; the number is a Unix time.
    Backup {
        seconds: u64,
    },
}

/// Indexes beyond this were never counted up to; adding to one cannot overflow.
const MAX: u64 = 1 << 62;

/// Decimal digits alone, with or without leading zeros.
fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
        .filter(|&number| number <= MAX)
}

impl Name {
    /// `None` for files that are none of raft's. The whole name counts: etcd's log files are
    /// `<digits>-<digits>.wal`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        if matches!(name, "metadata1" | "metadata2") {
            return Some(Self::Metadata);
        }
        if let Some(counter) = name.strip_prefix("open-") {
            return Some(Self::Open {
                counter: number(counter)?,
            });
        }
        if let Some(seconds) = name.strip_prefix(".backup-") {
            return Some(Self::Backup {
                seconds: number(seconds)?,
            });
        }
        if let Some(rest) = name.strip_prefix("snapshot-") {
            let (numbers, meta) = match rest.strip_suffix(".meta") {
                Some(numbers) => (numbers, true),
                None => (rest, false),
            };
            let mut parts = numbers.split('-').map(number);
            let (term, index, ms) = (parts.next()??, parts.next()??, parts.next()??);
            return match (parts.next(), meta) {
                (Some(_), _) => None,
                (None, true) => Some(Self::SnapshotMeta { term, index, ms }),
                (None, false) => Some(Self::Snapshot { term, index, ms }),
            };
        }
        let (first, last) = name.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        (first >= 1 && first <= last).then_some(Self::Closed { first, last })
    }

    /// Whether a directory with such a file belonged to a server that ran.
    pub(crate) fn is_raft_data(self) -> bool {
        !matches!(self, Self::Backup { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_old_and_new() {
        let closed = |first, last| Some(Name::Closed { first, last });
        for (text, name) in [
            ("1-1", closed(1, 1)),
            ("2-208", closed(2, 208)),
            ("0000000000000002-0000000000000098", closed(2, 98)),
            ("open-12", Some(Name::Open { counter: 12 })),
            ("metadata2", Some(Name::Metadata)),
            ("0000000000000000-0000000000000000.wal", None),
            ("3-2", None),
            ("0-4", None),
            ("1-2-3", None),
            ("open-", None),
            ("open--1", None),
            ("tmp-1", None),
            ("node-id", None),
            ("99999999999999999999999-99999999999999999999999", None),
            ("snapshot-1-2", None),
            ("snapshot-1-2-3-4", None),
            (
                "snapshot-1-2-3",
                Some(Name::Snapshot {
                    term: 1,
                    index: 2,
                    ms: 3,
                }),
            ),
            (
                "snapshot-1-2-3.meta",
                Some(Name::SnapshotMeta {
                    term: 1,
                    index: 2,
                    ms: 3,
                }),
            ),
            (
                ".backup-1580000000",
                Some(Name::Backup {
                    seconds: 1_580_000_000,
                }),
            ),
        ] {
            assert_eq!(Name::parse(text), name, "{text}");
        }
    }
}
