//! Leases through gRPC.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use trivet_datastore::{Datastore, LeaseId};
use trivet_env::Env;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb as pb;
use trivet_store_etcd::{StoreConfig, testing};

use crate::kv::{get, put};
use crate::support::{Member, Single, Three, eventually, settings, soon};

/// Renews once; the answered time to live.
async fn renew(client: &Client, id: i64) -> i64 {
    let (requests, receiver) = mpsc::channel(1);
    requests
        .send(pb::LeaseKeepAliveRequest { id })
        .await
        .unwrap();
    let mut lease = client.lease();
    let mut answers = soon(lease.lease_keep_alive(ReceiverStream::new(receiver)))
        .await
        .unwrap()
        .into_inner();
    let answer = soon(answers.message()).await.unwrap().expect("an answer");
    assert_eq!(answer.id, id);
    answer.ttl
}

async fn time_to_live(client: &Client, id: i64) -> pb::LeaseTimeToLiveResponse {
    let request = pb::LeaseTimeToLiveRequest { id, keys: true };
    soon(client.lease().lease_time_to_live(request))
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test]
async fn a_lease_from_grant_to_revocation() {
    let single = Single::start().await;
    let client = single.client();
    let mut lease = client.lease();
    let granted = lease
        .lease_grant(pb::LeaseGrantRequest { ttl: 60, id: 0 })
        .await
        .unwrap()
        .into_inner();
    assert!(granted.id > 0);
    assert_eq!((granted.ttl, granted.header.unwrap().revision), (60, 1));
    let chosen = lease
        .lease_grant(pb::LeaseGrantRequest { ttl: -3, id: -9 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (chosen.id, chosen.ttl),
        (-9, 1),
        "the shortest lease is three half election timeouts"
    );
    let refused = |outcome: Result<_, tonic::Status>| {
        let status = outcome.map(drop).unwrap_err();
        (status.code(), status.message().to_owned())
    };
    assert_eq!(
        refused(
            lease
                .lease_grant(pb::LeaseGrantRequest {
                    ttl: 60,
                    id: granted.id
                })
                .await
                .map(drop)
        ),
        (
            Code::FailedPrecondition,
            "etcdserver: lease already exists".to_owned()
        )
    );
    assert_eq!(
        refused(
            lease
                .lease_grant(pb::LeaseGrantRequest {
                    ttl: 9_000_000_001,
                    id: 0
                })
                .await
                .map(drop)
        ),
        (
            Code::OutOfRange,
            "etcdserver: too large lease TTL".to_owned()
        )
    );
    for key in ["a", "b"] {
        client
            .kv()
            .put(pb::PutRequest {
                lease: granted.id,
                ..put(key, "v")
            })
            .await
            .unwrap();
    }
    let left = time_to_live(client, granted.id).await;
    assert_eq!(left.granted_ttl, 60);
    assert!((58..=60).contains(&left.ttl), "{}", left.ttl);
    assert_eq!(left.keys.len(), 2);
    assert_eq!(renew(client, granted.id).await, 60);

    // What is unknown: an answer, an answer, and an error.
    assert_eq!(renew(client, 4711).await, 0);
    let unknown = time_to_live(client, 4711).await;
    assert_eq!((unknown.ttl, unknown.granted_ttl), (-1, 0));
    // 0 is "no lease" elsewhere; here it is one more that does not exist. It once came back as
    // "corrupt cluster".
    for id in [4711, 0] {
        assert_eq!(
            refused(
                lease
                    .lease_revoke(pb::LeaseRevokeRequest { id })
                    .await
                    .map(drop)
            ),
            (
                Code::NotFound,
                "etcdserver: requested lease not found".to_owned()
            )
        );
    }

    let all = lease
        .lease_leases(pb::LeaseLeasesRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(all.leases.iter().any(|status| status.id == granted.id));
    // Both keys go in one revision.
    let revoked = lease
        .lease_revoke(pb::LeaseRevokeRequest { id: granted.id })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(revoked.header.unwrap().revision, 4);
    assert_eq!(
        client
            .kv()
            .range(get("a"))
            .await
            .unwrap()
            .into_inner()
            .count,
        0
    );
    single.member.store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_end_in_time_and_outlive_a_change_of_leader() {
    let three = Three::start().await;
    let leader = three.leader().await;
    let follower = &three.members[(leader + 1) % 3];
    let mut lease = follower.client.lease();
    let before = Instant::now();
    let short = soon(lease.lease_grant(pb::LeaseGrantRequest { ttl: 1, id: 0 }))
        .await
        .unwrap()
        .into_inner();
    let kept = soon(lease.lease_grant(pb::LeaseGrantRequest { ttl: 2, id: 0 }))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((short.ttl, kept.ttl), (1, 2));
    for (key, id) in [("short", short.id), ("kept", kept.id)] {
        soon(follower.client.kv().put(pb::PutRequest {
            lease: id,
            ..put(key, "v")
        }))
        .await
        .unwrap();
    }
    eventually("the short lease ends", || async {
        // Renewed through a follower: the leader answers.
        assert_eq!(renew(&follower.client, kept.id).await, 2);
        let count = follower
            .client
            .kv()
            .range(get("short"))
            .await
            .unwrap()
            .into_inner()
            .count;
        count == 0
    })
    .await;
    assert!(before.elapsed() >= Duration::from_secs(1), "never early");
    assert_eq!(renew(&follower.client, short.id).await, 0);

    // A new leader starts every lease again with its full time.
    three.members[leader].store.shutdown().await;
    let answer = renew(&follower.client, kept.id).await;
    assert_eq!(answer, 2);
    assert_eq!(
        soon(follower.client.kv().range(get("kept")))
            .await
            .unwrap()
            .into_inner()
            .count,
        1
    );
    eventually("the kept lease ends too, once nobody renews it", || async {
        follower
            .client
            .kv()
            .range(get("kept"))
            .await
            .unwrap()
            .into_inner()
            .count
            == 0
    })
    .await;
    three.shutdown().await;
}

async fn restarted(member: Member, change: impl FnOnce(&mut StoreConfig)) -> Member {
    member.store.shutdown().await;
    let Member {
        mut config, store, ..
    } = member;
    drop(store);
    change(&mut config);
    Member::open(config).await
}

#[tokio::test]
async fn time_that_was_noted_counts_for_the_next_leader_until_a_renewal() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings(Env::real(), dir.path().join("trivet"));
    config.lease_checkpoint = Some(Duration::from_millis(50));
    let member = Member::open(config).await;
    let grant = |ttl| pb::LeaseGrantRequest { ttl, id: ttl };
    for ttl in [200, 400] {
        soon(member.client.lease().lease_grant(grant(ttl)))
            .await
            .unwrap();
    }
    let noted = |member: &Member, id| testing::noted_time_left(&member.store, LeaseId(id));
    eventually("the time left is noted", || async {
        matches!(noted(&member, 400), Some(1..=397))
    })
    .await;
    assert_eq!(noted(&member, 200), Some(0), "only of long ones");
    let member = restarted(member, |config| config.lease_checkpoint = None).await;
    eventually("the lease goes on from there", || async {
        (1..=398).contains(&time_to_live(&member.client, 400).await.ttl)
    })
    .await;
    assert!(time_to_live(&member.client, 200).await.ttl >= 199);
    assert_eq!(renew(&member.client, 400).await, 400);
    assert_eq!(noted(&member, 400), Some(0), "before the answer");
    let member = restarted(member, |_| {}).await;
    eventually("the lease starts again", || async {
        time_to_live(&member.client, 400).await.ttl >= 399
    })
    .await;
    member.store.shutdown().await;
}

/// Renewals meet notes that are on their way: none may outlive the renewal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_is_never_forgotten_for_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings(Env::real(), dir.path().join("trivet"));
    config.lease_checkpoint = Some(Duration::from_millis(1));
    let member = Member::open(config).await;
    let mut lease = member.client.lease();
    soon(lease.lease_grant(pb::LeaseGrantRequest { ttl: 400, id: 1 }))
        .await
        .unwrap();
    eventually("enough time has passed for a note to show", || async {
        time_to_live(&member.client, 1).await.ttl < 399
    })
    .await;
    let begun = Instant::now();
    for _ in 0..50 {
        assert_eq!(renew(&member.client, 1).await, 400);
        let noted = testing::noted_time_left(&member.store, LeaseId(1)).unwrap();
        let passed = begun.elapsed().as_secs() + 1;
        assert!(noted == 0 || noted >= 400 - passed, "{noted} s are noted");
    }
    member.store.shutdown().await;
}

/// `TRIVET_TEST_LEASES` sets how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_end_together_do_not_stall_writes() {
    let count: usize = std::env::var("TRIVET_TEST_LEASES")
        .map_or(2500, |count| count.parse().expect("a number of leases"));
    let single = Single::start().await;
    let client = single.client();
    let grants = (0..count).map(|_| async {
        let ttl = Duration::from_secs(2);
        let lease = single.member.store.grant_lease(ttl).await.unwrap();
        soon(client.kv().put(pb::PutRequest {
            key: format!("leased/{}", lease.id.0).into(),
            lease: lease.id.0,
            ..Default::default()
        }))
        .await
        .unwrap();
    });
    let granting = Instant::now();
    let mut grants = futures_util::stream::iter(grants);
    futures_util::StreamExt::for_each_concurrent(&mut grants, 128, |grant| grant).await;
    let granted = granting.elapsed();
    let ending = Instant::now();
    let (mut slowest, mut puts) = (Duration::ZERO, 0);
    // A thousand a second, and patience for a slow machine.
    let deadline = ending + Duration::from_millis(count as u64 * 3) + Duration::from_secs(20);
    while testing::leases(&single.member.store) > 0 {
        assert!(Instant::now() < deadline, "the leases never end");
        let before = Instant::now();
        soon(client.kv().put(put("other", "v"))).await.unwrap();
        slowest = slowest.max(before.elapsed());
        puts += 1;
    }
    eprintln!(
        "{count} leases granted in {granted:?}, ended in {:?}; meanwhile {puts} puts, the slowest {slowest:?}",
        ending.elapsed()
    );
    assert!(slowest < Duration::from_secs(5), "a put took {slowest:?}");
    assert!(
        ending.elapsed() + granted
            >= Duration::from_millis(count.saturating_sub(1000) as u64 * 9 / 10),
        "they ended too fast for others to have their turn"
    );
    let found = soon(client.kv().range(crate::kv::prefix("leased/", "leased0"))).await;
    assert_eq!(found.unwrap().into_inner().count, 0);
    single.member.store.shutdown().await;
}
