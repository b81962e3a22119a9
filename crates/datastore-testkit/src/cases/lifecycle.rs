//! Export, shutdown and opening again.

use std::time::Duration;

use trivet_datastore::{Error, Expect, ExportItem, KeyValue, RangeRequest, Revision};

use crate::Stop;
use crate::Support::{Missing, Offered};
use crate::Verdict::{self, NotApplicable, Passed};
use crate::client::{key, keys, ok, prefix, read, refused};
use crate::run::Bench;

/// An export must be head, leases, these pairs, and a trailer that fits them.
pub(super) fn check_export(items: &[ExportItem], pairs: &[KeyValue]) {
    let Some((ExportItem::Head { .. }, rest)) = items.split_first() else {
        panic!("an export starts with {:?}", items.first());
    };
    let Some((
        ExportItem::Trailer {
            pairs: count,
            checksum,
        },
        rest,
    )) = rest.split_last()
    else {
        panic!("an export ends with {:?}", items.last());
    };
    let leases = rest
        .iter()
        .take_while(|item| matches!(item, ExportItem::Lease(_)))
        .count();
    let exported: Vec<_> = rest[leases..]
        .iter()
        .map(|item| match item {
            ExportItem::Pair(pair) => pair.clone(),
            other => panic!("an export has {other:?} among its pairs"),
        })
        .collect();
    assert_eq!(exported, pairs, "an export is the state at its revision");
    let sum = pairs.iter().fold(0, |sum, pair| pair.checksum(sum));
    assert_eq!(
        (*count, *checksum),
        (pairs.len() as u64, sum),
        "the trailer does not fit"
    );
}

pub(crate) async fn exports_are_complete(b: &mut Bench) -> Verdict {
    let c = &b.client;
    check_export(&c.export().await, &[]);
    let lease = c.lease(Duration::from_secs(600)).await;
    c.put("b", "old").await;
    c.put("b", "new").await;
    c.put("gone", "x").await;
    c.delete("gone").await;
    c.put("a", "").await;
    let revision = c.put_leased("leased", lease.id).await;
    let items = c.export().await;
    assert_eq!(items[0], ExportItem::Head { revision });
    assert_eq!(items[1], ExportItem::Lease(lease));
    let page = c.list(prefix("")).await;
    assert_eq!(keys(&page), ["a", "b", "leased"]);
    check_export(&items, &page.items);
    Passed
}

pub(crate) async fn shutdown_is_final(b: &mut Bench) -> Verdict {
    let c = &b.client;
    c.put("k", "x").await;
    let lease = c.lease(Duration::from_secs(600)).await;
    c.soon("shutdown", c.store.shutdown()).await;
    c.soon("another shutdown", c.store.shutdown()).await;
    let errors = [
        refused(c.try_put("k", "y", Expect::Any, None).await),
        refused(c.try_delete("k", Expect::Any).await),
        refused(c.try_range(read(key("k"))).await),
        refused(
            c.soon("a keepalive", c.store.keep_lease_alive(lease.id))
                .await,
        ),
        refused(
            c.soon("a lease", c.store.grant_lease(Duration::from_secs(600)))
                .await,
        ),
        refused(c.compact(Revision(2)).await),
    ];
    for error in errors {
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    }
    Passed
}

/// What is there survives both ways of going down.
async fn survives(b: &mut Bench, stop: Stop) -> Verdict {
    let c = b.client.clone();
    let lease = c.lease(Duration::from_secs(600)).await;
    let first = c.put("k", "one").await;
    let second = c.put("k", "two").await;
    c.put("gone", "x").await;
    let deleted = c.delete("gone").await;
    c.put_leased("leased", lease.id).await;
    for number in 0..20 {
        c.put(format!("many/{number}"), vec![b'x'; 5000]).await;
    }
    ok(c.compact(second).await);
    let before = c.list(prefix("")).await;
    if let Missing(reason) = b.reopen(stop).await {
        return NotApplicable(reason);
    }
    let c = b.client.clone();
    let after = c.list(prefix("")).await;
    assert_eq!(
        after, before,
        "everything acknowledged is there again, and nothing else"
    );
    let page = c
        .range(RangeRequest {
            at: Some(second),
            ..read(key("k"))
        })
        .await;
    assert_eq!(page.items[0].value, "two", "history is there again");
    let request = RangeRequest {
        at: Some(first),
        ..read(key("k"))
    };
    let error = refused(c.try_range(request).await);
    assert_eq!(
        error,
        Error::Compacted {
            compact_revision: second
        },
        "compacted stays compacted"
    );
    let mut watch = c.watch(key("gone"), Some(deleted)).await;
    let next = c.put("gone", "back").await;
    assert_eq!(
        next,
        before.revision.next(),
        "revisions go on where they were"
    );
    let events = watch.events(2).await;
    assert_eq!(
        events,
        [("gone".to_owned(), deleted), ("gone".to_owned(), next)]
    );
    assert_eq!(
        ok(c.store.keep_lease_alive(lease.id).await),
        lease,
        "leases survive"
    );
    ok(c.revoke(lease.id).await);
    assert_eq!(c.get("leased").await, None, "and know their keys");
    Passed
}

pub(crate) async fn everything_survives_a_clean_stop(b: &mut Bench) -> Verdict {
    survives(b, Stop::Clean).await
}

pub(crate) async fn everything_acknowledged_survives_a_kill(b: &mut Bench) -> Verdict {
    survives(b, Stop::Kill).await
}

pub(crate) async fn revisions_grow_over_stops(b: &mut Bench) -> Verdict {
    let mut newest = Revision(1);
    for round in 0..4 {
        let c = b.client.clone();
        let revision = c.put("k", round.to_string()).await;
        assert_eq!(revision, newest.next(), "round {round}");
        newest = c.delete("k").await;
        // The newest versions are gone by then; the revision must not fall back with them.
        ok(c.compact(newest).await);
        let stop = if round % 2 == 0 {
            Stop::Clean
        } else {
            Stop::Kill
        };
        if let Missing(reason) = b.reopen(stop).await {
            return NotApplicable(reason);
        }
        assert_eq!(b.client.revision().await, newest, "after {stop:?}");
    }
    Passed
}

pub(crate) async fn leases_end_after_a_stop_too(b: &mut Bench) -> Verdict {
    let lease = b.client.lease(Duration::from_millis(300)).await;
    b.client.put_leased("k", lease.id).await;
    match b.reopen(Stop::Clean).await {
        Missing(reason) => return NotApplicable(reason),
        Offered(()) => {}
    }
    let c = &b.client;
    // A restart may give it its full time again, and a little more.
    let longest = lease.ttl + b.limits.expiry_slack;
    let gone = c.until("the lease to end", || async {
        c.get("k").await.is_none().then_some(())
    });
    tokio::time::timeout(longest, gone)
        .await
        .expect("a lease that nobody renews ends");
    Passed
}
