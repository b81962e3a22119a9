//! The checkers on histories that are known to be good or bad.

use bytes::Bytes;
use trivet_datastore::{Expect, KeyRange, Revision};
use trivet_datastore_testkit::history::{
    Change, History, Observed, Outcome, Pair, ReadRecord, Span, Violation, WatchRecord,
    WatchViolation, WriteRecord, check_coverage, check_linearizable, check_resumed, check_watch,
};

fn span(start_ns: u64, end_ns: u64) -> Span {
    Span { start_ns, end_ns }
}

fn put(key: &str, value: &str, at: (u64, u64), outcome: Outcome) -> WriteRecord {
    WriteRecord {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        expect: Expect::Any,
        span: span(at.0, at.1),
        outcome,
    }
}

fn delete(key: &str, at: (u64, u64), outcome: Outcome) -> WriteRecord {
    WriteRecord {
        value: None,
        ..put(key, "", at, outcome)
    }
}

fn done(revision: u64) -> Outcome {
    Outcome::Ok {
        revision: Revision(revision),
        changed: true,
    }
}

fn pair(key: &str, value: &str, revision: u64) -> Pair {
    let (key, value) = (key.as_bytes(), value.as_bytes());
    Pair {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        mod_revision: Revision(revision),
    }
}

fn read(at: (u64, u64), revision: u64, pairs: &[Pair]) -> ReadRecord {
    ReadRecord {
        range: KeyRange::all(),
        at: None,
        serializable: false,
        span: span(at.0, at.1),
        revision: Revision(revision),
        pairs: pairs.to_vec(),
    }
}

/// Two clients: one writes k twice, the other reads in between and deletes.
fn good() -> History {
    History {
        writes: vec![
            put("k", "one", (0, 10), done(2)),
            put("k", "two", (20, 40), done(3)),
            put("l", "x", (25, 45), done(4)),
            delete("l", (50, 60), done(5)),
        ],
        reads: vec![
            read((12, 18), 2, &[pair("k", "one", 2)]),
            // Overlaps the second write, so either state is fine.
            read((30, 35), 2, &[pair("k", "one", 2)]),
            read((30, 36), 3, &[pair("k", "two", 3)]),
        ],
        last: Some(read((100, 110), 5, &[pair("k", "two", 3)])),
        exclusive: true,
    }
}

#[track_caller]
fn refused(history: &History) -> Violation {
    check_linearizable(history).expect_err("the history is impossible")
}

#[test]
fn a_good_history_passes() {
    assert_eq!(check_linearizable(&good()), Ok(()));
}

#[test]
fn a_revision_for_two_writes() {
    let mut history = good();
    history.writes[2].outcome = done(3);
    assert!(matches!(
        refused(&history),
        Violation::RevisionReused {
            revision: Revision(3),
            ..
        }
    ));
}

#[test]
fn revisions_against_time() {
    let mut history = good();
    history.writes[0].span = span(70, 80);
    assert!(matches!(
        refused(&history),
        Violation::BackInTime {
            revision: Revision(2),
            ..
        }
    ));
}

#[test]
fn a_stale_read_with_an_honest_revision() {
    let mut history = good();
    let stale = read((50, 55), 2, &[pair("k", "one", 2)]);
    history.reads.push(stale.clone());
    assert!(matches!(refused(&history), Violation::BackInTime { .. }));
    history.reads.pop();
    history.reads.push(ReadRecord {
        serializable: true,
        ..stale
    });
    assert_eq!(
        check_linearizable(&history),
        Ok(()),
        "who accepts stale data may get it"
    );
}

#[test]
fn a_stale_read_in_disguise() {
    let mut history = good();
    history
        .reads
        .push(read((46, 49), 4, &[pair("k", "one", 2), pair("l", "x", 4)]));
    assert!(matches!(refused(&history), Violation::WrongState { .. }));
}

#[test]
fn a_read_of_the_past_must_show_it() {
    let mut history = good();
    let past = ReadRecord {
        at: Some(Revision(2)),
        ..read((90, 95), 5, &[pair("k", "one", 2)])
    };
    history.reads.push(past);
    assert_eq!(check_linearizable(&history), Ok(()));
    history.reads[3].pairs = vec![pair("k", "two", 3)];
    assert!(matches!(refused(&history), Violation::WrongState { .. }));
}

#[test]
fn a_lost_write() {
    let mut history = good();
    history.last = Some(read((100, 110), 5, &[pair("k", "one", 2)]));
    assert!(matches!(refused(&history), Violation::WrongState { .. }));
    history.last = None;
    assert_eq!(refused(&history), Violation::NoLastRead);
}

#[test]
fn a_value_from_nowhere() {
    let mut history = good();
    history.last = Some(read((100, 110), 6, &[pair("k", "three", 6)]));
    assert!(matches!(refused(&history), Violation::Phantom { .. }));
}

#[test]
fn a_refused_write_that_happened() {
    let mut history = good();
    history.writes.push(put(
        "k",
        "three",
        (70, 80),
        Outcome::Conflict { observed: None },
    ));
    history.last = Some(read((100, 110), 6, &[pair("k", "three", 6)]));
    assert!(matches!(refused(&history), Violation::Phantom { .. }));
}

#[test]
fn an_unknown_write_may_have_happened_or_not() {
    let mut history = good();
    history
        .writes
        .push(put("k", "three", (70, u64::MAX), Outcome::Unknown));
    assert_eq!(check_linearizable(&history), Ok(()), "it did not happen");
    history.last = Some(read((100, 110), 6, &[pair("k", "three", 6)]));
    assert_eq!(check_linearizable(&history), Ok(()), "it did");
    history.last = Some(read((100, 110), 6, &[pair("k", "two", 3)]));
    let unseen = "it did, and nobody can tell from the keys";
    assert!(check_linearizable(&history).is_ok(), "{unseen}");
    history.last = Some(read((100, 110), 7, &[pair("k", "two", 3)]));
    assert!(matches!(
        refused(&history),
        Violation::UnexplainedRevisions { unexplained: 2, .. }
    ));
}

#[test]
fn an_unknown_write_does_not_happen_before_it_began() {
    let mut history = good();
    history.writes[1] = put("k", "two", (70, u64::MAX), Outcome::Unknown);
    history.reads.clear();
    assert!(matches!(
        refused(&history),
        Violation::BackInTime {
            revision: Revision(3),
            ..
        }
    ));
}

#[test]
fn an_unknown_delete_explains_an_absent_key() {
    let mut history = good();
    history.last = Some(read((100, 110), 6, &[]));
    assert!(matches!(refused(&history), Violation::WrongState { .. }));
    history
        .writes
        .push(delete("k", (70, u64::MAX), Outcome::Unknown));
    assert_eq!(check_linearizable(&history), Ok(()));
    history.last = Some(read((100, 110), 5, &[]));
    assert!(
        matches!(refused(&history), Violation::WrongState { .. }),
        "no revision is free"
    );
}

#[test]
fn two_winners_of_one_race() {
    let mut history = good();
    history.writes[1].expect = Expect::ModRevision(Revision(2));
    assert_eq!(check_linearizable(&history), Ok(()));
    let again = put("k", "three", (26, 70), done(6));
    history.writes.push(WriteRecord {
        expect: Expect::ModRevision(Revision(2)),
        ..again
    });
    history.last = Some(read((100, 110), 6, &[pair("k", "three", 6)]));
    assert!(matches!(refused(&history), Violation::WrongState { .. }));
}

#[test]
fn conflicts_tell_the_truth() {
    let lost = |revision, pair| {
        let observed = Some(Observed {
            revision: Revision(revision),
            pair,
        });
        let record = put("k", "lost", (46, 49), Outcome::Conflict { observed });
        WriteRecord {
            expect: Expect::Absent,
            ..record
        }
    };
    let mut history = good();
    history.writes.push(lost(4, Some(pair("k", "two", 3))));
    assert_eq!(check_linearizable(&history), Ok(()));
    history.writes[4] = lost(4, None);
    assert!(matches!(refused(&history), Violation::FalseConflict { .. }));
    history.writes[4] = lost(4, Some(pair("k", "one", 2)));
    assert!(matches!(refused(&history), Violation::WrongState { .. }));
    history.writes[4] = lost(2, Some(pair("k", "one", 2)));
    assert!(matches!(refused(&history), Violation::BackInTime { .. }));
}

fn change(key: &str, value: Option<&str>, revision: u64) -> Change {
    Change {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        revision: Revision(revision),
        previous: None,
    }
}

/// The changes of [`good`].
fn changes() -> Vec<Change> {
    vec![
        change("k", Some("one"), 2),
        change("k", Some("two"), 3),
        change("l", Some("x"), 4),
        change("l", None, 5),
    ]
}

fn watch(start: u64, batches: &[(u64, &[Change])]) -> WatchRecord {
    let mut record = WatchRecord::new(KeyRange::all(), Revision(start), false);
    let batches = batches
        .iter()
        .map(|(revision, changes)| (Revision(*revision), changes.to_vec()));
    record.batches = batches.collect();
    record
}

#[track_caller]
fn spoiled(record: &WatchRecord) -> WatchViolation {
    check_watch(record, &changes(), Revision(0)).expect_err("the watch broke a promise")
}

#[test]
fn good_watches_pass() {
    let c = changes();
    for record in [
        watch(1, &[(5, &c)]),
        watch(3, &[(3, &c[1..2]), (3, &[]), (4, &c[2..3]), (5, &c[3..])]),
        watch(3, &[]),
        watch(3, &[(2, &[])]),
        watch(2, &[(3, &c[..2])]),
        watch(9, &[]),
    ] {
        assert_eq!(check_watch(&record, &c, Revision(0)), Ok(()), "{record:?}");
    }
}

#[test]
fn watches_that_skip_repeat_or_reorder() {
    let c = changes();
    let gap = spoiled(&watch(1, &[(2, &c[..1]), (5, &c[2..])]));
    assert!(
        matches!(
            gap,
            WatchViolation::Gap {
                revision: Revision(3),
                ..
            }
        ),
        "{gap}"
    );
    let gap = spoiled(&watch(1, &[(5, &c[..3])]));
    assert!(
        matches!(
            gap,
            WatchViolation::Gap {
                revision: Revision(5),
                ..
            }
        ),
        "{gap}"
    );
    let twice = spoiled(&watch(1, &[(3, &c[..2]), (5, &c[1..])]));
    assert!(
        matches!(
            twice,
            WatchViolation::Duplicate {
                revision: Revision(3),
                ..
            }
        ),
        "{twice}"
    );
    let back = spoiled(&watch(1, &[(5, &[c[1].clone(), c[0].clone()])]));
    assert!(matches!(back, WatchViolation::Unordered { .. }), "{back}");
    let early = spoiled(&watch(3, &[(3, &c[..2])]));
    assert!(matches!(early, WatchViolation::Unordered { .. }), "{early}");
    let behind = spoiled(&watch(1, &[(2, &c[..2])]));
    assert!(
        matches!(behind, WatchViolation::BehindItself { .. }),
        "{behind}"
    );
    let progress = spoiled(&watch(1, &[(3, &c[..2]), (4, &[]), (5, &c[2..])]));
    assert!(
        matches!(progress, WatchViolation::Unordered { .. }),
        "{progress}"
    );
}

#[test]
fn watches_that_invent() {
    let c = changes();
    let wrong = [c[0].clone(), change("k", Some("three"), 3)];
    let wrong = spoiled(&watch(1, &[(3, &wrong)]));
    assert!(
        matches!(wrong, WatchViolation::Unexpected { .. }),
        "{wrong}"
    );
    let more = spoiled(&watch(
        5,
        &[(6, &[c[3].clone(), change("m", Some("x"), 6)])],
    ));
    assert!(matches!(more, WatchViolation::Unexpected { .. }), "{more}");
}

#[test]
fn split_revisions() {
    let both = [change("k", None, 6), change("l", None, 6)];
    let whole = watch(6, &[(6, &both)]);
    assert_eq!(check_watch(&whole, &both, Revision(0)), Ok(()));
    let split = watch(6, &[(6, &both[..1]), (6, &both[1..])]);
    let found = check_watch(&split, &both, Revision(0));
    assert_eq!(
        found,
        Err(WatchViolation::Split {
            revision: Revision(6)
        })
    );
}

#[test]
fn previous_pairs() {
    let c = changes();
    let mut record = watch(3, &[(3, &c[1..2])]);
    record.previous = true;
    assert!(matches!(
        spoiled(&record),
        WatchViolation::WrongPrevious {
            expected: Some(_),
            ..
        }
    ));
    assert_eq!(
        check_watch(&record, &c, Revision(3)),
        Ok(()),
        "compaction excuses it"
    );
    record.batches[0].1[0].previous = Some(pair("k", "one", 2));
    assert_eq!(check_watch(&record, &c, Revision(0)), Ok(()));
    record.batches[0].1[0].previous = Some(pair("k", "old", 2));
    assert!(
        check_watch(&record, &c, Revision(3)).is_err(),
        "wrong is worse than missing"
    );
}

#[test]
fn connections_go_on_where_the_last_ended() {
    let c = changes();
    let (first, second) = (watch(1, &[(3, &c[..2])]), watch(4, &[(5, &c[2..])]));
    assert_eq!(
        check_resumed(&[first.clone(), second.clone()], &c, Revision(0)),
        Ok(())
    );
    let late = watch(5, &[(5, &c[3..])]);
    let found = check_resumed(&[first, late], &c, Revision(0));
    assert!(
        matches!(found, Err(WatchViolation::NotResumed { .. })),
        "{found:?}"
    );
}

#[test]
fn acknowledged_writes_and_changes_are_the_same() {
    let (history, mut c) = (good(), changes());
    assert_eq!(check_coverage(&history, &c, Revision(5)), Ok(()));
    let missing = check_coverage(&history, &c[..3], Revision(5));
    assert!(
        matches!(missing, Err(WatchViolation::NotDelivered { .. })),
        "{missing:?}"
    );
    assert_eq!(
        check_coverage(&history, &c[..3], Revision(4)),
        Ok(()),
        "not yet"
    );
    c.push(change("k", Some("x"), 6));
    let invented = check_coverage(&history, &c, Revision(6));
    assert!(
        matches!(invented, Err(WatchViolation::NobodyWrote { .. })),
        "{invented:?}"
    );
}
