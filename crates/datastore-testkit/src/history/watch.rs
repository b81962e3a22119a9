//! What a watch promises: ordered, unique, whole revisions, no gap, true about how far it has
//! come, resumable, right about previous values.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use trivet_datastore::Revision;

use super::record::{Change, History, Outcome, Pair, WatchRecord};

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchViolation {
    /// A revision came after a later one.
    #[error("ordered: revision {revision} came after {after}")]
    Unordered {
        /// The late one.
        revision: Revision,
        /// What came before it.
        after: Revision,
    },
    /// A change came twice.
    #[error("unique: revision {revision} of {key:?} came twice")]
    Duplicate {
        /// Revision of the change.
        revision: Revision,
        /// Its key.
        key: Bytes,
    },
    /// Changes of one revision came in two batches.
    #[error("atomic: revision {revision} came in two batches")]
    Split {
        /// The revision.
        revision: Revision,
    },
    /// A change did not come although later ones did, or although the watch said that it had
    /// come further.
    #[error("no gap: the watch came to revision {covered} without revision {revision} of {key:?}")]
    Gap {
        /// Revision of the missing change.
        revision: Revision,
        /// Its key.
        key: Bytes,
        /// How far the watch said it had come.
        covered: Revision,
    },
    /// Something came that was not asked for or did not happen.
    #[error("true: {change:?} was delivered, but is not in the history or was not asked for")]
    Unexpected {
        /// What came.
        change: Change,
    },
    /// A batch holds a change that is later than how far it says it comes.
    #[error("bookmark: a batch up to revision {revision} holds revision {change}")]
    BehindItself {
        /// Revision of the batch.
        revision: Revision,
        /// Revision of the change.
        change: Revision,
    },
    /// The pair before a change is not what it was.
    #[error("previous: before revision {revision} {key:?} was {expected:?}, not {found:?}")]
    WrongPrevious {
        /// Revision of the change.
        revision: Revision,
        /// Its key.
        key: Bytes,
        /// What the watch said.
        found: Option<Pair>,
        /// What the history says.
        expected: Option<Pair>,
    },
    /// A connection did not go on where the one before ended.
    #[error("resumable: a watch that had come to revision {covered} went on at {start}")]
    NotResumed {
        /// How far the first had come.
        covered: Revision,
        /// Where the second started.
        start: Revision,
    },
    /// An acknowledged write is not in the history of changes, or is there differently.
    #[error(
        "complete: the write of {key:?} at revision {revision} was acknowledged, but the watches have {found:?}"
    )]
    NotDelivered {
        /// Revision of the write.
        revision: Revision,
        /// Its key.
        key: Bytes,
        /// What is there.
        found: Option<Change>,
    },
    /// A change that no write explains.
    #[error("true: nobody wrote {change:?}")]
    NobodyWrote {
        /// The change.
        change: Change,
    },
}

/// Checks one watch against all changes that happened, in revision order.
///
/// `compacted` is the newest compaction while the watch was open (0 for none): before it, previous
/// values may be missing.
pub fn check_watch(
    record: &WatchRecord,
    reference: &[Change],
    compacted: Revision,
) -> Result<(), WatchViolation> {
    check_shape(record)?;
    let mut expected = reference
        .iter()
        .filter(|c| c.revision >= record.start && record.range.contains(&c.key))
        .peekable();
    let covered = record.covered();
    for change in record.changes() {
        let Some(next) = expected.next() else {
            return Err(WatchViolation::Unexpected {
                change: change.clone(),
            });
        };
        if (next.revision, &next.key) == (change.revision, &change.key) {
            if next.value == change.value {
                continue;
            }
            return Err(WatchViolation::Unexpected {
                change: change.clone(),
            });
        }
        // Either the expected one was skipped, or this one was made up.
        return Err(if next.revision <= change.revision {
            WatchViolation::Gap {
                revision: next.revision,
                key: next.key.clone(),
                covered,
            }
        } else {
            WatchViolation::Unexpected {
                change: change.clone(),
            }
        });
    }
    if let Some(next) = expected.next()
        && next.revision <= covered
    {
        let (revision, key) = (next.revision, next.key.clone());
        return Err(WatchViolation::Gap {
            revision,
            key,
            covered,
        });
    }
    check_previous(record, reference, compacted)
}

/// Checks the records of one client that reconnected: each alone, and that none of them starts
/// anywhere but where the one before ended. All have the same range.
pub fn check_resumed(
    records: &[WatchRecord],
    reference: &[Change],
    compacted: Revision,
) -> Result<(), WatchViolation> {
    for pair in records.windows(2) {
        let (covered, start) = (pair[0].covered(), pair[1].start);
        if start != covered.next() {
            return Err(WatchViolation::NotResumed { covered, start });
        }
    }
    records
        .iter()
        .try_for_each(|record| check_watch(record, reference, compacted))
}

/// Checks that changes (what a watch of everything delivered from the first revision on) and
/// writes are the same: every acknowledged write is there as it was acknowledged, and everything
/// that is there was written by somebody. `covered` is how far the changes go.
pub fn check_coverage(
    history: &History,
    reference: &[Change],
    covered: Revision,
) -> Result<(), WatchViolation> {
    let mut changes: HashMap<(Revision, &Bytes), &Change> = reference
        .iter()
        .map(|change| ((change.revision, &change.key), change))
        .collect();
    for write in &history.writes {
        let Outcome::Ok {
            revision,
            changed: true,
        } = write.outcome
        else {
            continue;
        };
        if revision > covered {
            continue;
        }
        let found = changes.remove(&(revision, &write.key));
        if found.is_none_or(|change| change.value != write.value) {
            let key = write.key.clone();
            return Err(WatchViolation::NotDelivered {
                revision,
                key,
                found: found.cloned(),
            });
        }
    }
    let mut unknown: Vec<_> = history
        .writes
        .iter()
        .filter(|write| write.outcome == Outcome::Unknown)
        .collect();
    for change in changes.into_values() {
        let cause = unknown
            .iter()
            .position(|write| write.key == change.key && write.value == change.value);
        match cause {
            Some(cause) => drop(unknown.swap_remove(cause)),
            None => {
                return Err(WatchViolation::NobodyWrote {
                    change: change.clone(),
                });
            }
        }
    }
    Ok(())
}

/// What can be said without knowing what happened.
fn check_shape(record: &WatchRecord) -> Result<(), WatchViolation> {
    // Everything at or before `covered` has been delivered by earlier batches.
    let mut covered = Revision(record.start.0.saturating_sub(1));
    let mut delivered: HashMap<Revision, (usize, Vec<&Bytes>)> = HashMap::new();
    for (number, (revision, changes)) in record.batches.iter().enumerate() {
        if *revision < covered {
            return Err(WatchViolation::Unordered {
                revision: *revision,
                after: covered,
            });
        }
        let mut last = Revision(0);
        for change in changes {
            if change.revision > *revision {
                return Err(WatchViolation::BehindItself {
                    revision: *revision,
                    change: change.revision,
                });
            }
            let (batch, keys) = delivered
                .entry(change.revision)
                .or_insert_with(|| (number, Vec::new()));
            if keys.contains(&&change.key) {
                return Err(WatchViolation::Duplicate {
                    revision: change.revision,
                    key: change.key.clone(),
                });
            }
            if *batch != number {
                return Err(WatchViolation::Split {
                    revision: change.revision,
                });
            }
            keys.push(&change.key);
            let after = last.max(if change.revision <= covered {
                covered
            } else {
                last
            });
            if change.revision < last || change.revision <= covered {
                return Err(WatchViolation::Unordered {
                    revision: change.revision,
                    after,
                });
            }
            last = change.revision;
        }
        covered = *revision;
    }
    Ok(())
}

fn check_previous(
    record: &WatchRecord,
    reference: &[Change],
    compacted: Revision,
) -> Result<(), WatchViolation> {
    let mut state = BTreeMap::<&Bytes, Pair>::new();
    let mut before = HashMap::<(Revision, &Bytes), Option<Pair>>::new();
    for change in reference {
        let previous = match &change.value {
            Some(value) => state.insert(
                &change.key,
                Pair {
                    key: change.key.clone(),
                    value: value.clone(),
                    mod_revision: change.revision,
                },
            ),
            None => state.remove(&change.key),
        };
        before.insert((change.revision, &change.key), previous);
    }
    for change in record.changes() {
        let found = change.previous.clone();
        let known = before
            .get(&(change.revision, &change.key))
            .cloned()
            .flatten();
        let expected = if record.previous { known } else { None };
        let may_be_missing = change.revision <= compacted;
        if found != expected && !(found.is_none() && may_be_missing) {
            let (revision, key) = (change.revision, change.key.clone());
            return Err(WatchViolation::WrongPrevious {
                revision,
                key,
                found,
                expected,
            });
        }
    }
    Ok(())
}
