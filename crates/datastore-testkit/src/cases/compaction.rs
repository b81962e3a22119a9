//! Compaction.

use trivet_datastore::{Error, RangeRequest, Revision};

use crate::Verdict::{self, Passed};
use crate::client::{key, keys, ok, prefix, read, refused};
use crate::run::Bench;

pub(crate) async fn compaction_forgets_only_what_was_superseded(b: &mut Bench) -> Verdict {
    let c = &b.client;
    c.put("old", "unchanged").await;
    c.put("k", "one").await;
    c.put("gone", "x").await;
    c.delete("gone").await;
    let second = c.put("k", "two").await;
    let third = c.put("k", "three").await;
    ok(c.compact(second).await);
    assert_eq!(c.revision().await, third, "a compaction writes nothing");
    let now = c.list(prefix("")).await;
    assert_eq!(keys(&now), ["k", "old"], "current pairs stay");
    assert_eq!(
        now.items[0].version, 3,
        "a compaction does not change what it keeps"
    );
    let page = c
        .range(RangeRequest {
            at: Some(second),
            ..read(prefix(""))
        })
        .await;
    let values: Vec<_> = page.items.iter().map(|pair| &pair.value[..]).collect();
    assert_eq!(
        values,
        [&b"two"[..], b"unchanged"],
        "the compacted revision itself is readable"
    );
    for at in 1..second.0 {
        let request = RangeRequest {
            at: Some(Revision(at)),
            ..read(key("k"))
        };
        let error = refused(c.try_range(request).await);
        assert_eq!(
            error,
            Error::Compacted {
                compact_revision: second
            },
            "at {at}"
        );
    }
    assert_eq!(ok(c.store.status().await).compact_revision, second);
    Passed
}

pub(crate) async fn compaction_has_bounds(b: &mut Bench) -> Verdict {
    let c = &b.client;
    for number in 0..6 {
        c.put("k", number.to_string()).await;
    }
    let current = Revision(7);
    let error = refused(c.compact(current.next()).await);
    let expected = Error::FutureRevision {
        requested: current.next(),
        current,
    };
    assert_eq!(error, expected);
    let compacted = Revision(4);
    ok(c.compact(compacted).await);
    for at in [3, 4] {
        let error = refused(c.compact(Revision(at)).await);
        assert_eq!(
            error,
            Error::Compacted {
                compact_revision: compacted
            }
        );
    }
    ok(c.compact(current).await);
    assert_eq!(c.get("k").await.map(|pair| pair.value), Some("5".into()));
    assert_eq!(
        c.put("k", "6").await,
        current.next(),
        "revisions go on after a compaction"
    );
    Passed
}

pub(crate) async fn compacting_deletions(b: &mut Bench) -> Verdict {
    let c = &b.client;
    c.put("k", "one").await;
    let deleted = c.delete("k").await;
    ok(c.compact(deleted).await);
    let page = c
        .range(RangeRequest {
            at: Some(deleted),
            ..read(prefix(""))
        })
        .await;
    assert_eq!((page.count, page.revision), (0, deleted));
    let again = c.put("k", "two").await;
    let pair = c.get("k").await.expect("the key was created again");
    assert_eq!((pair.create_revision, pair.version), (again, 1));
    ok(c.compact(again).await);
    assert_eq!(c.get("k").await, Some(pair));
    Passed
}
