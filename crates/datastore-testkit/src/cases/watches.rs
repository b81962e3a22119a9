//! Watches.

use futures_util::StreamExt;
use tokio::time::timeout;
use trivet_datastore::{
    Error, EventKind, Expect, KeyRange, KeyValue, RangeRequest, Revision, WatchRequest,
};

use crate::Verdict::{self, NotApplicable, Passed};
use crate::client::{key, ok, prefix, read};
use crate::history::{Change, WatchRecord, check_watch};
use crate::run::Bench;

fn event(key: &str, revision: Revision) -> (String, Revision) {
    (key.to_owned(), revision)
}

pub(crate) async fn watch_from_now_shows_what_comes(b: &mut Bench) -> Verdict {
    let c = &b.client;
    c.put("k/1", "before").await;
    let mut watch = c.watch(prefix("k/"), None).await;
    let first = c.put("k/2", "after").await;
    let second = c.delete("k/1").await;
    assert_eq!(
        watch.events(2).await,
        [event("k/2", first), event("k/1", second)]
    );
    Passed
}

pub(crate) async fn watch_from_the_past_replays(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let first = c.put("k/1", "one").await;
    let second = c.put("k/1", "two").await;
    let third = c.delete("k/1").await;
    let fourth = c.put("k/2", "x").await;
    let all = [
        event("k/1", first),
        event("k/1", second),
        event("k/1", third),
        event("k/2", fourth),
    ];
    for skipped in 0..all.len() {
        let mut watch = c
            .watch(prefix("k/"), Some(Revision(first.0 + skipped as u64)))
            .await;
        assert_eq!(watch.events(all.len() - skipped).await, all[skipped..]);
    }
    let mut watch = c.watch(prefix("k/"), Some(Revision(1))).await;
    assert_eq!(watch.events(4).await, all);
    let fifth = c.put("k/3", "live").await;
    assert_eq!(
        watch.events(1).await,
        [event("k/3", fifth)],
        "the replay goes over into the present"
    );
    Passed
}

pub(crate) async fn watch_from_the_future_waits(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let start = Revision(c.put("k", "now").await.0 + 3);
    let request = WatchRequest {
        range: prefix(""),
        start: Some(start),
        previous: false,
        progress: true,
    };
    let mut watch = c.watch_with(request).await;
    c.put("k", "too early").await;
    c.put("k", "too early").await;
    assert_eq!(c.put("k", "at it").await, start);
    let batch = watch.batch().await;
    assert!(
        batch.revision >= start,
        "nothing is told before the start: {batch:?}"
    );
    assert_eq!(batch.events[0].current.value, "at it");
    Passed
}

pub(crate) async fn watch_from_before_a_compaction_is_refused(b: &mut Bench) -> Verdict {
    let c = &b.client;
    for number in 0..5 {
        c.put("k", number.to_string()).await;
    }
    let compact_revision = Revision(4);
    ok(c.compact(compact_revision).await);
    for start in [1, 2, 3] {
        let error = c.watch_error(prefix(""), Revision(start)).await;
        assert_eq!(error, Error::Compacted { compact_revision }, "from {start}");
    }
    Passed
}

pub(crate) async fn watch_from_the_compaction_itself_is_complete(b: &mut Bench) -> Verdict {
    let c = &b.client;
    c.put("gone", "x").await;
    c.put("k", "one").await;
    let deleted = c.delete("gone").await;
    let put = c.put("k", "two").await;
    ok(c.compact(deleted).await);
    let mut watch = c.watch(prefix(""), Some(deleted)).await;
    assert_eq!(
        watch.events(2).await,
        [event("gone", deleted), event("k", put)]
    );
    ok(c.compact(put).await);
    let mut watch = c.watch(prefix(""), Some(put)).await;
    assert_eq!(watch.events(1).await, [event("k", put)]);
    Passed
}

pub(crate) async fn watch_covers_exactly_its_range(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let names = ["a", "a/1", "a/2", "a0", "b", "\u{7f}"];
    let between = KeyRange::Between {
        start: "a/1".into(),
        end: "a0".into(),
    };
    let ranges = [
        key("a"),
        key("a/"),
        prefix("a/"),
        prefix(""),
        prefix("c"),
        between,
    ];
    let mut live = Vec::new();
    for range in &ranges {
        live.push(c.watch(range.clone(), None).await);
    }
    let mut written = Vec::new();
    for name in names {
        written.push(event(name, c.put(name, "x").await));
        written.push(event(name, c.delete(name).await));
    }
    for (range, mut live) in ranges.into_iter().zip(live) {
        let inside = |(key, _): &&(String, Revision)| range.contains(key.as_bytes());
        let expected: Vec<_> = written.iter().filter(inside).cloned().collect();
        assert_eq!(live.events(expected.len()).await, expected, "{range:?}");
        let mut replayed = c.watch(range.clone(), Some(Revision(1))).await;
        assert_eq!(
            replayed.events(expected.len()).await,
            expected,
            "{range:?} from the start"
        );
    }
    Passed
}

pub(crate) async fn watch_events_have_their_pairs(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let mut live = c.watch(key("k"), None).await;
    let first = c.put("k", "one").await;
    let second = c.put("k", "two").await;
    let third = c.delete("k").await;
    let mut replayed = c.watch(key("k"), Some(first)).await;
    for watch in [&mut live, &mut replayed] {
        let batches = watch.up_to(third).await;
        let events: Vec<_> = batches.into_iter().flat_map(|batch| batch.events).collect();
        let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Put, EventKind::Put, EventKind::Delete]);
        for (event, (value, revision, version)) in
            events.iter().zip([("one", first, 1), ("two", second, 2)])
        {
            let expected = KeyValue {
                key: "k".into(),
                value: value.into(),
                create_revision: first,
                mod_revision: revision,
                version,
                lease: None,
            };
            assert_eq!(event.current, expected);
        }
        assert_eq!(events[2].current, KeyValue::tombstone("k".into(), third));
        assert!(
            events.iter().all(|event| event.previous.is_none()),
            "nobody asked for them"
        );
    }
    Passed
}

pub(crate) async fn watch_tells_previous_pairs(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let request = |start| WatchRequest {
        range: key("k"),
        start,
        previous: true,
        progress: false,
    };
    let mut live = c.watch_with(request(None)).await;
    let first = c.put("k", "one").await;
    let one = c.get("k").await;
    c.put("k", "two").await;
    let two = c.get("k").await;
    c.delete("k").await;
    let last = c.put("k", "three").await;
    let mut replayed = c.watch_with(request(Some(first))).await;
    for watch in [&mut live, &mut replayed] {
        let batches = watch.up_to(last).await;
        let previous: Vec<_> = batches
            .into_iter()
            .flat_map(|b| b.events)
            .map(|event| event.previous)
            .collect();
        assert_eq!(previous, [None, one.clone(), two.clone(), None]);
    }
    Passed
}

pub(crate) async fn watch_tells_its_progress(b: &mut Bench) -> Verdict {
    let Some(patience) = b.limits.progress_within else {
        return NotApplicable("the store sends no progress notifications");
    };
    let c = &b.client;
    let request = WatchRequest {
        range: prefix("k/"),
        start: None,
        previous: false,
        progress: true,
    };
    let mut watch = c.watch_with(request).await;
    let quiet = WatchRequest {
        range: prefix("k/"),
        start: None,
        previous: false,
        progress: false,
    };
    let mut quiet = ok(c.store.watch(quiet).await);
    let elsewhere = c.put("other", "x").await;
    let progress = async {
        loop {
            let batch = watch.batch().await;
            assert!(batch.events.is_empty(), "{batch:?}");
            if batch.revision >= elsewhere {
                return batch.revision;
            }
        }
    };
    let told = timeout(patience, progress)
        .await
        .expect("progress is told in time");
    assert_eq!(told, elsewhere, "progress must not run ahead of the store");
    let inside = c.put("k/1", "x").await;
    let batch = c
        .soon("the event", quiet.next())
        .await
        .expect("the watch is open");
    let batch = ok(batch);
    assert_eq!(
        batch.revision, inside,
        "who does not ask for progress gets none"
    );
    assert_eq!(batch.events.len(), 1);
    Passed
}

pub(crate) async fn watch_goes_on_where_another_ended(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let mut next = c.revision().await.next();
    let mut seen = Vec::new();
    let mut written = Vec::new();
    for round in 0..10 {
        written.push(event("k", c.put("k", round.to_string()).await));
        let mut watch = c.watch(key("k"), Some(next)).await;
        written.push(event("k", c.put("k", format!("{round} again")).await));
        // Takes what comes first and hangs up.
        let batch = watch.batch().await;
        seen.extend(
            batch
                .events
                .iter()
                .map(|e| event("k", e.current.mod_revision)),
        );
        next = batch.revision.next();
    }
    let last = written.last().expect("something was written").1;
    if next <= last {
        let rest = c.watch(key("k"), Some(next)).await.up_to(last).await;
        let rest = rest.iter().flat_map(|batch| &batch.events);
        seen.extend(rest.map(|e| event("k", e.current.mod_revision)));
    }
    assert_eq!(seen, written);
    Passed
}

/// A reader that does not read is cut off or served, but never skips.
pub(crate) async fn slow_watch_never_skips(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let request = WatchRequest {
        range: prefix(""),
        start: None,
        previous: true,
        progress: true,
    };
    let mut stream = ok(c.store.watch(request).await);
    let mut record = WatchRecord::new(prefix(""), c.revision().await.next(), true);
    let mut reference: Vec<Change> = Vec::new();
    let value = vec![b'x'; 2000];
    for number in 0..300 * b.limits.load {
        // The store has time to deliver, the reader does not take.
        tokio::task::yield_now().await;
        let value = [number.to_string().as_bytes(), &value[..]].concat();
        let (name, at) = (
            format!("k/{}", number % 7),
            c.put(format!("k/{}", number % 7), value).await,
        );
        let page = c
            .range(RangeRequest {
                at: Some(at),
                ..read(key(name))
            })
            .await;
        let previous = reference
            .iter()
            .rev()
            .find(|change| change.key == page.items[0].key);
        let previous = previous.map(|change| crate::history::Pair {
            key: change.key.clone(),
            value: change.value.clone().expect("only puts happen here"),
            mod_revision: change.revision,
        });
        let pair = page.items.into_iter().next().expect("it was just written");
        let (key, value, revision) = (pair.key, Some(pair.value), pair.mod_revision);
        reference.push(Change {
            key,
            value,
            revision,
            previous,
        });
    }
    let last = reference.last().expect("something was written").revision;
    while record.covered() < last {
        match c.soon("the watch to catch up", stream.next()).await {
            Some(Ok(batch)) => record.push(&batch),
            Some(Err(Error::WatchLagged { last })) => {
                assert_eq!(last, record.covered(), "the error must say where to go on");
                break;
            }
            other => panic!("a slow watch ended with {other:?}"),
        }
    }
    check_watch(&record, &reference, Revision(0)).unwrap_or_else(|violation| panic!("{violation}"));
    Passed
}

pub(crate) async fn watch_ends_at_shutdown(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let mut live = c.watch(prefix(""), None).await;
    let mut waiting = c.watch(prefix(""), Some(Revision(1000))).await;
    c.try_put("k", "x", Expect::Any, None)
        .await
        .expect("the store is open");
    c.soon("shutdown", c.store.shutdown()).await;
    for watch in [&mut live, &mut waiting] {
        loop {
            match watch.item().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => panic!("shutdown is not an error of a watch: {error}"),
                None => break,
            }
        }
    }
    Passed
}
