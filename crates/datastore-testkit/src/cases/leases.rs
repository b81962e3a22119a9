//! Leases.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use trivet_datastore::{Error, EventKind, Expect, LeaseId, Revision};

use crate::Verdict::{self, Passed};
use crate::client::{committed, key, keys, ok, prefix, refused};
use crate::run::Bench;

/// Short, but stores may raise it to some seconds.
const TTL: Duration = Duration::from_millis(300);
/// Long enough not to end during a case.
const LONG: Duration = Duration::from_secs(600);

pub(crate) async fn leases_expire_with_their_keys(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let granted = Instant::now();
    let lease = c.lease(TTL).await;
    for name in ["l/b", "l/a", "l/c"] {
        c.put_leased(name, lease.id).await;
    }
    let kept = c.put("l/kept", "x").await;
    let mut watch = c.watch(prefix("l/"), Some(kept.next())).await;
    let longest = lease.ttl + b.limits.expiry_slack;
    let batch = timeout(longest, watch.batch())
        .await
        .expect("the keys vanish soon after the ttl");
    assert!(
        granted.elapsed() >= lease.ttl,
        "the lease of {:?} ended early",
        lease.ttl
    );
    let events: Vec<_> = batch
        .events
        .iter()
        .map(|e| (&e.current.key[..], e.kind))
        .collect();
    let deleted = EventKind::Delete;
    assert_eq!(
        events,
        [(&b"l/a"[..], deleted), (b"l/b", deleted), (b"l/c", deleted)]
    );
    for event in &batch.events {
        assert_eq!(
            event.current.mod_revision,
            kept.next(),
            "one revision deletes all keys"
        );
    }
    let page = c.list(prefix("l/")).await;
    assert_eq!(
        (keys(&page), page.revision),
        (vec!["l/kept".to_owned()], kept.next())
    );
    let error = refused(c.store.keep_lease_alive(lease.id).await);
    assert_eq!(error, Error::LeaseNotFound);
    Passed
}

pub(crate) async fn keepalives_extend_leases(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let lease = c.lease(TTL).await;
    c.put_leased("k", lease.id).await;
    let until = Instant::now() + lease.ttl * 3;
    let mut renewed = Instant::now();
    while Instant::now() < until {
        sleep(lease.ttl / 6).await;
        renewed = Instant::now();
        assert_eq!(ok(c.store.keep_lease_alive(lease.id).await), lease);
        assert!(c.get("k").await.is_some(), "a renewed lease ended");
    }
    let longest = lease.ttl + b.limits.expiry_slack;
    let gone = timeout(
        longest,
        c.until("the key to vanish", || async {
            c.get("k").await.is_none().then_some(())
        }),
    );
    gone.await
        .expect("the lease ends when it is not renewed any more");
    assert!(
        renewed.elapsed() >= lease.ttl,
        "the renewal did not count in full"
    );
    Passed
}

pub(crate) async fn revoking_deletes_keys_at_one_revision(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let lease = c.lease(LONG).await;
    for name in ["l/b", "l/a", "l/c"] {
        c.put_leased(name, lease.id).await;
    }
    let pair = c.get("l/a").await.expect("the key was written");
    assert_eq!(pair.lease, Some(lease.id));
    let before = c.put("l/kept", "x").await;
    let mut watch = c.watch(prefix("l/"), Some(before.next())).await;
    ok(c.revoke(lease.id).await);
    assert_eq!(c.revision().await, before.next());
    let batch = watch.batch().await;
    let names: Vec<_> = batch
        .events
        .iter()
        .map(|event| &event.current.key[..])
        .collect();
    assert_eq!(
        names,
        [&b"l/a"[..], b"l/b", b"l/c"],
        "all together, in key order"
    );
    assert_eq!(batch.revision, before.next());
    assert_eq!(keys(&c.list(prefix("l/")).await), ["l/kept"]);
    assert_eq!(refused(c.revoke(lease.id).await), Error::LeaseNotFound);
    Passed
}

pub(crate) async fn revoking_without_keys_writes_nothing(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let before = c.put("k", "x").await;
    let lease = c.lease(LONG).await;
    ok(c.revoke(lease.id).await);
    assert_eq!(c.revision().await, before);
    Passed
}

pub(crate) async fn unknown_leases_are_not_found(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let gone = c.lease(LONG).await.id;
    ok(c.revoke(gone).await);
    for lease in [LeaseId(0x7eed_0000_dead), gone] {
        let put = c.try_put("k", "x", Expect::Any, Some(lease)).await;
        assert_eq!(refused(put), Error::LeaseNotFound);
        assert_eq!(
            refused(c.store.keep_lease_alive(lease).await),
            Error::LeaseNotFound
        );
        assert_eq!(refused(c.revoke(lease).await), Error::LeaseNotFound);
    }
    assert_eq!((c.get("k").await, c.revision().await), (None, Revision(1)));
    Passed
}

pub(crate) async fn the_last_put_decides_the_lease(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let (one, two) = (c.lease(LONG).await.id, c.lease(LONG).await.id);
    assert_ne!(one, two);
    for name in ["detached", "moved", "kept", "deleted", "recreated"] {
        c.put_leased(name, one).await;
    }
    c.put("detached", "x").await;
    c.put_leased("moved", two).await;
    c.delete("deleted").await;
    c.delete("recreated").await;
    c.put("recreated", "x").await;
    assert_eq!(c.get("detached").await.expect("it is there").lease, None);
    assert_eq!(c.get("moved").await.expect("it is there").lease, Some(two));
    ok(c.revoke(one).await);
    assert_eq!(
        keys(&c.list(prefix("")).await),
        ["detached", "moved", "recreated"]
    );
    ok(c.revoke(two).await);
    assert_eq!(keys(&c.list(prefix("")).await), ["detached", "recreated"]);
    Passed
}

pub(crate) async fn a_lost_race_does_not_ask_for_the_lease(b: &mut Bench) -> Verdict {
    let c = &b.client;
    let lease = c.lease(LONG).await.id;
    c.put_leased("k", lease).await;
    ok(c.revoke(lease).await);
    c.put("k", "x").await;
    let put = c.try_put("k", "y", Expect::Absent, Some(lease)).await;
    crate::client::conflict(put);
    let (_, previous) = committed(c.try_delete("k", Expect::Any).await);
    assert_eq!(previous.and_then(|pair| pair.lease), None);
    assert_eq!(c.list(key("k")).await.count, 0);
    Passed
}
