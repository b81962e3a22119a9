//! Ranges.

use bytes::Bytes;
use trivet_datastore::{Error, KeyRange, RangeRequest, Revision};

use crate::Verdict::{self, Passed};
use crate::client::{Client, key, keys, prefix, read, refused};
use crate::run::Bench;

async fn fill(c: &Client, names: &[&'static str]) -> Revision {
    let mut revision = Revision(1);
    for name in names {
        revision = c.put(*name, *name).await;
    }
    revision
}

fn between(start: &'static str, end: &'static str) -> KeyRange {
    KeyRange::Between {
        start: start.into(),
        end: end.into(),
    }
}

pub(crate) async fn ranges_are_in_key_order(b: &mut Bench) -> Verdict {
    let c = &b.client;
    fill(c, &["b", "a", "a/b", "a/a", "B", "a.", "\u{7f}"]).await;
    let page = c.list(KeyRange::all()).await;
    assert_eq!(keys(&page), ["B", "a", "a.", "a/a", "a/b", "b", "\u{7f}"]);
    assert_eq!((page.count, page.more), (7, false));
    Passed
}

pub(crate) async fn ranges_cover_what_they_say(b: &mut Bench) -> Verdict {
    let c = &b.client;
    fill(c, &["a", "a/1", "a/2", "a0", "ab", "b"]).await;
    for (range, expected) in [
        (key("a"), &["a"][..]),
        (key("a/"), &[]),
        (prefix("a/"), &["a/1", "a/2"]),
        (prefix("a"), &["a", "a/1", "a/2", "a0", "ab"]),
        (between("a/", "a0"), &["a/1", "a/2"]),
        (between("a", "b"), &["a", "a/1", "a/2", "a0", "ab"]),
        (between("a\0", "ab"), &["a/1", "a/2", "a0"]),
        (between("b", "a"), &[]),
        (between("a", "a"), &[]),
        (between("a", ""), &[]),
        (prefix("c"), &[]),
    ] {
        let page = c.list(range.clone()).await;
        assert_eq!(keys(&page), expected, "{range:?}");
        assert_eq!(
            (page.count, page.more),
            (expected.len() as u64, false),
            "{range:?}"
        );
    }
    Passed
}

pub(crate) async fn prefixes_of_high_bytes(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let names: [&[u8]; 8] = [
        b"\0",
        b"a",
        b"a\xfe",
        b"a\xff",
        b"a\xff\xff",
        b"b",
        b"\xff",
        b"\xff\xff",
    ];
    for name in names {
        c.put(name, "x").await;
    }
    for wanted in [
        &b""[..],
        b"\0",
        b"a",
        b"a\xff",
        b"a\xff\xff",
        b"\xff",
        b"\xff\xff",
    ] {
        let page = c.list(prefix(wanted)).await;
        let found: Vec<_> = page.items.into_iter().map(|pair| pair.key).collect();
        let expected: Vec<_> = names
            .into_iter()
            .filter(|name| name.starts_with(wanted))
            .collect();
        assert_eq!(found, expected, "prefix {wanted:?}");
    }
    Passed
}

pub(crate) async fn limits_report_count_and_more(b: &mut Bench) -> Verdict {
    let c = &b.client;
    fill(c, &["k/1", "k/2", "k/3", "l"]).await;
    for (limit, expected, more) in [
        (0, 3, false),
        (1, 1, true),
        (2, 2, true),
        (3, 3, false),
        (4, 3, false),
    ] {
        let page = c
            .range(RangeRequest {
                limit,
                ..read(prefix("k/"))
            })
            .await;
        assert_eq!(
            (page.items.len(), page.more, page.count),
            (expected, more, 3),
            "limit {limit}"
        );
        assert_eq!(page.revision, Revision(5));
    }
    Passed
}

pub(crate) async fn ranges_start_after_a_key(b: &mut Bench) -> Verdict {
    let c = &b.client;
    fill(c, &["k/1", "k/2", "k/2\0", "k/3", "l"]).await;
    for (after, expected) in [
        ("a", &["k/1", "k/2", "k/2\0", "k/3"][..]),
        ("k/1", &["k/2", "k/2\0", "k/3"]),
        ("k/2", &["k/2\0", "k/3"]),
        ("k/22", &["k/3"]),
        ("k/3", &[]),
        ("z", &[]),
    ] {
        let after = Some(Bytes::from(after));
        let page = c
            .range(RangeRequest {
                after,
                ..read(prefix("k/"))
            })
            .await;
        assert_eq!(keys(&page), expected);
        assert_eq!(page.count, expected.len() as u64);
    }
    let after = Some(Bytes::from("k/1"));
    let page = c
        .range(RangeRequest {
            after: after.clone(),
            ..read(key("k/1"))
        })
        .await;
    assert_eq!(keys(&page), [""; 0]);
    let page = c
        .range(RangeRequest {
            after,
            limit: 1,
            ..read(prefix("k/"))
        })
        .await;
    assert_eq!(
        (keys(&page), page.count, page.more),
        (vec!["k/2".to_owned()], 3, true)
    );
    Passed
}

pub(crate) async fn counting_leaves_pairs_out(b: &mut Bench) -> Verdict {
    let c = &b.client;
    fill(c, &["k/1", "k/2", "k/3", "l"]).await;
    for limit in [0, 2] {
        let request = RangeRequest {
            count_only: true,
            limit,
            ..read(prefix("k/"))
        };
        let page = c.range(request).await;
        assert_eq!((page.items.len(), page.count, page.more), (0, 3, false));
    }
    Passed
}

pub(crate) async fn old_revisions_stay_readable(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let first = c.put("k", "one").await;
    let second = c.put("k", "two").await;
    let deleted = c.delete("k").await;
    let again = c.put("k", "three").await;
    for (at, expected) in [
        (Revision(1), None),
        (first, Some("one")),
        (second, Some("two")),
        (deleted, None),
        (again, Some("three")),
    ] {
        let page = c
            .range(RangeRequest {
                at: Some(at),
                ..read(key("k"))
            })
            .await;
        let found = page.items.first().map(|pair| pair.value.clone());
        assert_eq!(found, expected.map(Bytes::from), "at {at}");
        assert_eq!(
            page.revision, again,
            "an old read still tells the newest revision"
        );
    }
    Passed
}

pub(crate) async fn future_revisions_are_refused(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let current = c.put("k", "one").await;
    let at = Some(Revision(current.0 + 5));
    let error = refused(
        c.try_range(RangeRequest {
            at,
            ..read(key("k"))
        })
        .await,
    );
    let Error::FutureRevision {
        requested,
        current: told,
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!((Some(requested), told), (at, current));
    Passed
}

pub(crate) async fn pages_of_one_revision_fit_together(b: &mut Bench) -> Verdict {
    let c = &b.client;
    for number in 0..25 {
        c.put(format!("k/{number:02}"), "old").await;
    }
    let whole = c.list(prefix("k/")).await;
    let mut after = None;
    let mut items = Vec::new();
    loop {
        let request = RangeRequest {
            after: after.clone(),
            limit: 4,
            at: Some(whole.revision),
            ..read(prefix("k/"))
        };
        let page = c.range(request).await;
        assert_eq!(page.count as usize, 25 - items.len());
        items.extend(page.items);
        // Writes between the pages must not show.
        c.put(format!("k/{:02}x", items.len()), "new").await;
        c.delete(format!("k/{:02}", 24 - items.len() / 2)).await;
        if !page.more {
            break;
        }
        after = items.last().map(|pair| pair.key.clone());
    }
    assert_eq!(items, whole.items);
    Passed
}

pub(crate) async fn reads_see_own_writes(b: &mut Bench) -> Verdict {
    let c = &b.client;
    for number in 0..20 {
        let value = number.to_string();
        let revision = c.put("k", value.clone()).await;
        let page = c.list(key("k")).await;
        assert!(page.revision >= revision);
        assert_eq!(page.items[0].value, value);
    }
    Passed
}

pub(crate) async fn serializable_reads_arrive(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let revision = c.put("k", "one").await;
    let request = RangeRequest {
        serializable: true,
        ..read(key("k"))
    };
    c.until("a serializable read to see the write", || async {
        let page = c.range(request.clone()).await;
        let value = page.items.first().map(|pair| pair.value.clone());
        // It may be old, but never a mixture.
        assert_eq!(
            value,
            (page.revision >= revision).then(|| Bytes::from("one"))
        );
        value
    })
    .await;
    Passed
}
