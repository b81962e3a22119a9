//! Repairing a member that is alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trivet_datastore::Error;
use trivet_env::Env;
use trivet_sim::SimDisk;
use trivet_store_etcd::{RepairReport, repair};

use crate::cluster::{Cluster, DIR, put, read_all};
use crate::damage::{Damage, files};

fn run(disk: &SimDisk, apply: bool) -> Result<RepairReport, Error> {
    let env = Env {
        disk: Arc::new(disk.clone()),
        ..Env::real()
    };
    repair(&env, Path::new(DIR), apply)
}

fn contents(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = disk.files().into_iter();
    files
        .map(|path| (path.clone(), disk.content(&path)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_saved_is_saved_and_the_rest_is_named() {
    for damage in Damage::ALL {
        if damage == Damage::Format {
            continue;
        }
        let mut cluster = Cluster::of(1, true).await;
        cluster.write(0, 0, 120).await;
        cluster.stop(0).await;
        let disk = cluster.disks[0].clone();
        assert!(run(&disk, false).unwrap().is_sound());
        damage.plant(&disk);
        let before = contents(&disk);
        let planned = run(&disk, false).unwrap();
        assert_eq!(
            contents(&disk),
            before,
            "{damage:?}: a plan changed something"
        );
        assert!(!planned.damage.is_empty(), "{damage:?}: {planned:?}");
        assert!(!planned.is_sound(), "{damage:?}: {planned:?}");
        if matches!(damage, Damage::AllCheckpoints | Damage::LogAndCheckpoints) {
            assert!(planned.impossible.is_some(), "{damage:?}: {planned:?}");
            assert!(matches!(run(&disk, true), Err(Error::Invalid(_))));
            assert_eq!(contents(&disk), before, "{damage:?}");
            continue;
        }
        assert_eq!(planned.impossible, None, "{damage:?}");
        let done = run(&disk, true).unwrap();
        assert_eq!(done.damage, planned.damage);
        assert!(!done.kept.is_empty(), "{damage:?}");
        assert!(run(&disk, false).unwrap().is_sound(), "{damage:?}");
        cluster.reopen(0).await.unwrap();
        let keys = read_all(cluster.store(0)).await.unwrap();
        assert!(
            keys + planned.lost_keys.len() >= 20,
            "{damage:?}: {keys} {planned:?}"
        );
        cluster.write(0, 0, 10).await;
        cluster.is_whole().await;
        // It is as good as any other.
        cluster.stop(0).await;
        cluster.reopen(0).await.unwrap();
        cluster.is_whole().await;
        cluster.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_whose_values_are_gone_are_named_and_left_out() {
    let mut cluster = Cluster::of(1, true).await;
    cluster.write(0, 0, 60).await;
    put(cluster.store(0), "precious", &"gold".repeat(50))
        .await
        .unwrap();
    cluster.stop(0).await;
    let disk = cluster.disks[0].clone();
    let mut flipped = 0;
    for path in files(&disk, "state/values", ".seg") {
        let content = disk.content(&path);
        if let Some(at) = content.windows(8).position(|bytes| bytes == b"goldgold") {
            disk.flip_bit(&path, at as u64, 0);
            flipped += 1;
        }
    }
    assert!(flipped > 0);
    let plan = run(&disk, false).unwrap();
    assert_eq!(plan.lost_keys, ["precious"]);
    assert_eq!((plan.lost_entries, plan.unknown_entries), (0, false));
    run(&disk, true).unwrap();
    cluster.reopen(0).await.unwrap();
    assert_eq!(read_all(cluster.store(0)).await.unwrap(), 20);
    cluster.is_whole().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_behind_a_damaged_entry_is_counted() {
    let mut cluster = Cluster::of(1, false).await;
    cluster.write(0, 0, 60).await;
    put(cluster.store(0), "last", "words").await.unwrap();
    trivet_store_etcd::testing::abort(cluster.store(0)).await;
    cluster.stores[0] = None;
    let disk = cluster.disks[0].clone();
    // A bit in the oldest segment: everything in the newer ones is cut off from the beginning.
    Damage::SealedSegment.plant(&disk);
    let plan = run(&disk, false).unwrap();
    assert!(plan.lost_entries > 10, "{plan:?}");
    assert!(plan.lost_entries_keys.iter().any(|key| key == "last"));
    run(&disk, true).unwrap();
    cluster.reopen(0).await.unwrap();
    put(cluster.store(0), "again", "words").await.unwrap();
    cluster.is_whole().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_peers_and_one_in_use_are_left_alone() {
    let mut cluster = Cluster::of(3, true).await;
    cluster.write(0, 0, 60).await;
    let disk = cluster.disks[1].clone();
    assert!(
        matches!(run(&disk, false), Err(Error::Invalid(_))),
        "it runs"
    );
    cluster.stop(1).await;
    Damage::MiddleOfLog.plant(&disk);
    let plan = run(&disk, false).unwrap();
    assert!(plan.impossible.unwrap().contains("peers"));
    assert!(matches!(run(&disk, true), Err(Error::Invalid(_))));
    cluster.reopen(1).await.unwrap();
    cluster.is_whole().await;
    cluster.shutdown().await;
    assert!(run(&SimDisk::new(), false).is_err(), "nothing is there");
}
