//! A member whose data differ although every checksum on its disk is right.

use std::time::Duration;

use trivet_datastore::{Datastore, Error};
use trivet_store_etcd::state::{Alarm, AlarmMember};
use trivet_store_etcd::testing;

use crate::cluster::{Cluster, eventually, put};

/// Three members; the number of the leader, and of a follower.
async fn cluster() -> (Cluster, usize, usize) {
    let cluster = Cluster::of(3, true).await;
    cluster.write(0, 0, 40).await;
    let status = cluster.status(0).await;
    let mut leader = None;
    for number in 0..3 {
        if Some(cluster.status(number).await.local) == status.leader {
            leader = Some(number);
        }
    }
    let leader = leader.unwrap();
    (cluster, leader, (leader + 1) % 3)
}

fn alarm(member: u64) -> AlarmMember {
    AlarmMember {
        alarm: Alarm::Corrupt,
        member,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_differs_is_found_named_and_healed() {
    let (mut cluster, leader, follower) = cluster().await;
    testing::compare(cluster.store(leader)).await;
    assert_eq!(testing::alarms(cluster.store(leader)), []);
    for victim in [follower, leader] {
        let id = cluster.status(victim).await.local;
        let theirs = cluster.status(victim).await.leader;
        let mut leads = victim;
        for number in 0..3 {
            if Some(cluster.status(number).await.local) == theirs {
                leads = number;
            }
        }
        cluster.is_whole().await;
        testing::diverge(cluster.store(victim)).unwrap();
        let before = testing::hash(cluster.store(victim)).await.unwrap();
        let other = testing::hash(cluster.store((victim + 1) % 3))
            .await
            .unwrap();
        assert_eq!(before.revision, other.revision);
        assert_ne!(before.hash, other.hash);
        testing::compare(cluster.store(leads)).await;
        // It is named, nobody writes, and it fetches what the others have.
        eventually("the state to be replaced", || async {
            testing::hash(cluster.store(victim))
                .await
                .is_ok_and(|hash| hash.hash == other.hash)
        })
        .await;
        for number in 0..3 {
            eventually("the alarm to be known everywhere", || async {
                testing::alarms(cluster.store(number)) == [alarm(id.0)]
            })
            .await;
        }
        let refused = put(cluster.store(follower), "key", "value").await;
        match refused {
            Err(Error::Unavailable { reason, .. }) => assert!(reason.contains("CORRUPT")),
            other => panic!("{other:?}"),
        }
        // The next comparison ends it, whoever leads by then.
        eventually("the alarm to end", || async {
            for number in 0..3 {
                let status = cluster.status(number).await;
                if status.leader == Some(status.local) {
                    testing::compare(cluster.store(number)).await;
                }
            }
            testing::alarms(cluster.store(follower)).is_empty()
        })
        .await;
        cluster.is_whole().await;
        assert_eq!(cluster.status(victim).await.local, id);
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_background_comparison_does_it_all_by_itself() {
    let (mut cluster, _, follower) = cluster().await;
    for number in 0..3 {
        cluster.stop(number).await;
    }
    cluster.compare = Some(Duration::from_millis(50));
    let (a, b, c) = (0, 1, 2);
    for number in [a, b, c] {
        cluster.reopen(number).await.unwrap();
    }
    cluster.is_whole().await;
    testing::diverge(cluster.store(follower)).unwrap();
    eventually("the alarm", || async {
        !testing::alarms(cluster.store(follower)).is_empty()
    })
    .await;
    eventually("its end", || async {
        testing::alarms(cluster.store(follower)).is_empty()
    })
    .await;
    cluster.is_whole().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_majority_is_back_it_decides() {
    let (mut cluster, leader, victim) = cluster().await;
    let silent = (victim + 1) % 3;
    cluster.is_whole().await;
    cluster.stop(silent).await;
    testing::diverge(cluster.store(victim)).unwrap();
    testing::compare(cluster.store(leader)).await;
    assert_eq!(testing::alarms(cluster.store(leader)), [alarm(0)]);
    cluster.reopen(silent).await.unwrap();
    eventually("the alarms to end", || async {
        for number in 0..3 {
            let status = cluster.status(number).await;
            if status.leader == Some(status.local) {
                testing::compare(cluster.store(number)).await;
            }
        }
        testing::alarms(cluster.store(leader)).is_empty()
    })
    .await;
    cluster.is_whole().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nobody_is_named_and_nothing_replaced() {
    let mut cluster = Cluster::of(2, true).await;
    cluster.write(0, 0, 20).await;
    cluster.is_whole().await;
    let leader = usize::from(cluster.status(0).await.leader != Some(cluster.status(0).await.local));
    testing::diverge(cluster.store(1)).unwrap();
    let before = testing::hash(cluster.store(1)).await.unwrap();
    testing::compare(cluster.store(leader)).await;
    assert_eq!(testing::alarms(cluster.store(leader)), [alarm(0)]);
    testing::compare(cluster.store(leader)).await;
    assert_eq!(
        testing::hash(cluster.store(1)).await.unwrap().hash,
        before.hash
    );
    assert_eq!(testing::alarms(cluster.store(leader)), [alarm(0)]);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_initial_check_refuses_what_a_majority_does_not_have() {
    let (mut cluster, _, follower) = cluster().await;
    cluster.is_whole().await;
    testing::diverge(cluster.store(follower)).unwrap();
    // The clean stop writes a checkpoint of it.
    cluster.stop(follower).await;
    cluster.initial = true;
    match cluster.reopen(follower).await {
        Err(Error::Corrupt(what)) => assert!(what.contains("differ"), "{what}"),
        other => panic!("{other:?}"),
    }
    cluster.initial = false;
    cluster.reopen(follower).await.unwrap();
    assert!(cluster.store(follower).status().await.is_ok());
    cluster.shutdown().await;
}
