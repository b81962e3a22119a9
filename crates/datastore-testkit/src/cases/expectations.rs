//! Single-key writes and what they expect.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use trivet_datastore::{Effect, Error, Expect, MAX_REQUEST_BYTES, Revision, WriteOutcome};

use crate::Verdict::{self, Passed};
use crate::client::{committed, conflict, key, ok, prefix, read, refused};
use crate::run::Bench;

pub(crate) async fn fresh_store_is_at_revision_one(b: &mut Bench) -> Verdict {
    let page = b.client.list(prefix("")).await;
    assert_eq!(
        (page.revision, page.count, page.more),
        (Revision(1), 0, false)
    );
    let status = ok(b.client.store.status().await);
    assert_eq!(
        (status.revision, status.compact_revision),
        (Revision(1), Revision(0))
    );
    assert!(status.writable, "a fresh store is writable");
    Passed
}

pub(crate) async fn every_write_is_one_revision(b: &mut Bench) -> Verdict {
    let c = &b.client;
    for (number, name) in ["a", "b", "a", "c"].into_iter().enumerate() {
        assert_eq!(
            c.put(name, format!("{number}")).await,
            Revision(number as u64 + 2)
        );
    }
    assert_eq!(c.delete("a").await, Revision(6));
    assert_eq!(
        c.put("b", "3").await,
        Revision(7),
        "an unchanged value is a write too"
    );
    assert_eq!(c.revision().await, Revision(7));
    Passed
}

pub(crate) async fn put_creates_and_replaces(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let (created, previous) = committed(c.try_put("k", "one", Expect::Any, None).await);
    assert_eq!(previous, None);
    let first = c.get("k").await.expect("the key was created");
    assert_eq!(first.value, "one");
    assert_eq!(
        (first.create_revision, first.mod_revision, first.version),
        (created, created, 1)
    );
    assert_eq!((&first.key[..], first.lease), (&b"k"[..], None));
    let (replaced, previous) = committed(c.try_put("k", "two", Expect::Any, None).await);
    assert_eq!(previous, Some(first));
    let second = c.get("k").await.expect("the key was replaced");
    assert_eq!(second.value, "two");
    assert_eq!(
        (second.create_revision, second.mod_revision, second.version),
        (created, replaced, 2)
    );
    Passed
}

pub(crate) async fn put_expecting_absence_creates_once(b: &mut Bench) -> Verdict {
    let c = &b.client;
    committed(c.try_put("k", "one", Expect::Absent, None).await);
    let pair = c.get("k").await;
    let (revision, current) = conflict(c.try_put("k", "two", Expect::Absent, None).await);
    assert_eq!((revision, &current), (Revision(2), &pair));
    assert_eq!(c.get("k").await, pair, "a lost race must not write");
    assert_eq!(c.revision().await, Revision(2));
    Passed
}

pub(crate) async fn put_expecting_a_revision_replaces_only_that(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let first = c.put("k", "one").await;
    c.put("other", "x").await;
    let (second, previous) = committed(
        c.try_put("k", "two", Expect::ModRevision(first), None)
            .await,
    );
    assert_eq!(previous.map(|pair| pair.mod_revision), Some(first));
    for wrong in [
        first,
        Revision(second.0 - 1),
        second.next(),
        Revision(u64::MAX >> 1),
    ] {
        let expect = Expect::ModRevision(wrong);
        let (revision, current) = conflict(c.try_put("k", "three", expect, None).await);
        assert_eq!(revision, second);
        assert_eq!(
            current.map(|pair| (pair.value, pair.mod_revision)),
            Some(("two".into(), second))
        );
    }
    assert_eq!(c.revision().await, second);
    Passed
}

pub(crate) async fn expecting_a_revision_never_matches_an_absent_key(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let written = c.put("gone", "x").await;
    let deleted = c.delete("gone").await;
    for name in ["gone", "never"] {
        for revision in [Revision(0), Revision(1), written, deleted] {
            let expect = Expect::ModRevision(revision);
            let (_, current) = conflict(c.try_put(name, "y", expect, None).await);
            assert_eq!(current, None);
            let (_, current) = conflict(c.try_delete(name, expect).await);
            assert_eq!(current, None);
        }
    }
    assert_eq!(c.revision().await, deleted);
    Passed
}

pub(crate) async fn delete_of_nothing_writes_nothing(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let revision = c.put("other", "x").await;
    let (at, previous) = committed(c.try_delete("k", Expect::Any).await);
    assert_eq!((at, previous), (revision, None));
    assert_eq!(c.revision().await, revision);
    Passed
}

pub(crate) async fn delete_expecting_a_revision(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let first = c.put("k", "one").await;
    let second = c.put("k", "two").await;
    let pair = c.get("k").await;
    let (_, current) = conflict(c.try_delete("k", Expect::ModRevision(first)).await);
    assert_eq!(current, pair);
    let (revision, previous) = committed(c.try_delete("k", Expect::ModRevision(second)).await);
    assert_eq!((revision, previous), (second.next(), pair));
    assert_eq!(c.get("k").await, None);
    Passed
}

pub(crate) async fn delete_expecting_absence_is_invalid(b: &mut Bench) -> Verdict {
    let error = refused(b.client.try_delete("k", Expect::Absent).await);
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    Passed
}

pub(crate) async fn a_key_starts_over_after_its_deletion(b: &mut Bench) -> Verdict {
    let c = &b.client;
    c.put("k", "one").await;
    c.put("k", "two").await;
    c.delete("k").await;
    let revision = c.put("k", "three").await;
    let pair = c.get("k").await.expect("the key was created again");
    assert_eq!(
        (pair.create_revision, pair.mod_revision, pair.version),
        (revision, revision, 1)
    );
    Passed
}

pub(crate) async fn one_of_many_creators_wins(b: &mut Bench) -> Verdict {
    let c = &b.client;
    for round in 0..5 {
        let name = format!("race/{round}");
        let attempts = (0..8).map(|number| {
            let (c, name) = (c.clone(), name.clone());
            tokio::spawn(async move {
                c.try_put(name, format!("{number}"), Expect::Absent, None)
                    .await
            })
        });
        let mut winners = Vec::new();
        for (number, outcome) in join_all(attempts).await.into_iter().enumerate() {
            if let WriteOutcome::Committed { revision, .. } = ok(outcome.expect("no panic")) {
                winners.push((number.to_string(), revision));
            }
        }
        assert_eq!(winners.len(), 1, "one creator wins: {winners:?}");
        let pair = c.get(name).await.expect("the winner created it");
        assert_eq!(
            (&pair.value[..], pair.mod_revision),
            (winners[0].0.as_bytes(), winners[0].1)
        );
    }
    assert_eq!(
        c.revision().await,
        Revision(6),
        "losers must not use revisions up"
    );
    Passed
}

pub(crate) async fn no_increment_is_lost(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let each = 10 * b.limits.load;
    c.put("counter", "0").await;
    let workers = (0..4).map(|_| {
        let c = c.clone();
        tokio::spawn(async move {
            for _ in 0..each {
                let mut current = c.get("counter").await.expect("the counter is there");
                loop {
                    // Lets the others in between read and write, however fast the store is.
                    tokio::task::yield_now().await;
                    let text = std::str::from_utf8(&current.value).expect("the value is a number");
                    let count: u64 = text.parse().expect("the value is a number");
                    let expect = Expect::ModRevision(current.mod_revision);
                    let next = (count + 1).to_string();
                    match ok(c.try_put("counter", next, expect, None).await) {
                        WriteOutcome::Committed { .. } => break,
                        WriteOutcome::Conflict { current: now, .. } => {
                            current = now.expect("the counter is there");
                        }
                    }
                }
            }
        })
    });
    for worker in join_all(workers).await {
        worker.expect("no panic");
    }
    let pair = c.get("counter").await.expect("the counter is there");
    assert_eq!(pair.value, (4 * each).to_string());
    assert_eq!(pair.version, 4 * each as u64 + 1);
    Passed
}

pub(crate) async fn empty_keys_are_invalid(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let errors = [
        refused(c.try_put("", "x", Expect::Any, None).await),
        refused(c.try_delete("", Expect::Any).await),
        refused(c.try_range(read(key(""))).await),
    ];
    for error in errors {
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    }
    assert_eq!(c.revision().await, Revision(1));
    Passed
}

pub(crate) async fn empty_values_are_values(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let revision = c.put("k", "").await;
    let pair = c
        .get("k")
        .await
        .expect("an empty value is not an absent key");
    assert_eq!((pair.value.len(), pair.mod_revision), (0, revision));
    conflict(c.try_put("k", "x", Expect::Absent, None).await);
    Passed
}

pub(crate) async fn all_bytes_are_kept(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let value: Bytes = (0..=255u8)
        .cycle()
        .take(1024 * 1024)
        .collect::<Vec<_>>()
        .into();
    let name: Bytes = (0..=255u8).collect::<Vec<_>>().into();
    c.put(name.clone(), value.clone()).await;
    let pair = c.get(name.clone()).await.expect("the key was written");
    assert!(
        pair.key == name && pair.value == value,
        "a megabyte did not come back as it went"
    );
    Passed
}

pub(crate) async fn too_large_is_refused(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let value = vec![b'x'; MAX_REQUEST_BYTES as usize + 1];
    let error = refused(c.try_put("k", value, Expect::Any, None).await);
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    assert_eq!(error.effect(), Effect::None);
    assert_eq!((c.get("k").await, c.revision().await), (None, Revision(1)));
    Passed
}

pub(crate) async fn dropped_writes_leave_nothing_half(b: &mut Bench) -> Verdict {
    use crate::history::{WatchRecord, check_coverage, check_linearizable};
    let c = &b.client;
    let mut recorder = crate::Recorder::new(c.store.clone(), tokio::time::Instant::now());
    for number in 0..40 * b.limits.load as u64 {
        let name = format!("drop/{}", number % 3);
        let write = recorder.put(name, format!("value {number}"), Expect::Any);
        // Dropped after a few turns of the scheduler, or after some milliseconds.
        let patience = async {
            for _ in 0..number % 8 {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_millis(number % 4)).await;
        };
        tokio::select! {
            biased;
            _ = write => {}
            () = patience => {}
        }
    }
    // The write that ends it all is not dropped, so that what is still under way is before it or
    // shows behind it.
    recorder.put("drop/end", "end", Expect::Any).await;
    let mut history = recorder.into_history();
    let last = crate::workload::last_read(c, prefix("drop/"), history.now_ns()).await;
    let mut record = WatchRecord::new(prefix("drop/"), Revision(1), false);
    let mut watch = c.watch(prefix("drop/"), Some(Revision(1))).await;
    watch
        .up_to(last.revision)
        .await
        .iter()
        .for_each(|batch| record.push(batch));
    let changes: Vec<_> = record
        .changes()
        .filter(|c| c.revision <= last.revision)
        .cloned()
        .collect();
    history.exclusive = true;
    history.last = Some(last);
    check_linearizable(&history).unwrap_or_else(|violation| panic!("{violation}"));
    check_coverage(&history, &changes, record.covered())
        .unwrap_or_else(|violation| panic!("{violation}"));
    Passed
}
