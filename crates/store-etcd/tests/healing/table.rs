//! One row for each kind of damage.

use std::path::Path;

use trivet_datastore::Error;
use trivet_sim::SimDisk;
use trivet_store_etcd::testing;

use crate::cluster::{Cluster, DIR, put};
use crate::damage::{Damage, files};

/// Directories that were set aside.
fn aside(disk: &SimDisk) -> Vec<String> {
    let mut names: Vec<String> = disk
        .files()
        .iter()
        .filter_map(|path| {
            let below = path.strip_prefix(DIR).ok()?;
            let first = below.components().next()?.as_os_str().to_string_lossy();
            first.contains(".damaged-").then(|| first.into_owned())
        })
        .collect();
    names.dedup();
    names
}

async fn on_one_of_three(damage: Damage) {
    let mut cluster = Cluster::of(3, true).await;
    cluster.write(0, 0, 120).await;
    let victim = 1;
    let before = cluster.status(victim).await;
    cluster.stop(victim).await;
    damage.plant(&cluster.disks[victim]);
    // The others go on.
    cluster.write(0, 120, 60).await;
    cluster.reopen(victim).await.unwrap();
    cluster.write(victim, 180, 10).await;
    cluster.is_whole().await;
    let after = cluster.status(victim).await;
    let disk = &cluster.disks[victim];
    if damage.is_of_the_log() {
        assert_ne!(after.local, before.local, "{damage:?}: it speaks as before");
        assert!(
            after.members.iter().all(|member| member.id != before.local),
            "{damage:?}: its old identity still counts"
        );
        // With no file left there is nothing to keep but the state.
        let kept = aside(disk);
        assert!(!kept.is_empty(), "{damage:?}: {kept:?}");
    } else {
        assert_eq!(
            after.local, before.local,
            "{damage:?}: it gave up its identity"
        );
        assert!(after.term >= before.term);
    }
    // Nothing of it comes back with the next start.
    cluster.stop(victim).await;
    cluster.reopen(victim).await.unwrap();
    assert_eq!(cluster.status(victim).await.local, after.local);
    cluster.is_whole().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_three_heals_by_itself() {
    // Each on its own: a later row must not profit from an earlier one.
    for damage in Damage::ALL {
        Box::pin(on_one_of_three(damage)).await;
    }
}

/// What a member alone does about damage when its log is purged.
async fn alone(damage: Damage) {
    let mut cluster = Cluster::of(1, true).await;
    cluster.write(0, 0, 120).await;
    cluster.stop(0).await;
    let disk = cluster.disks[0].clone();
    damage.plant(&disk);
    let before = contents(&disk);
    let outcome = cluster.reopen(0).await;
    match damage {
        // The log says who the member is. The checkpoint before it is close to the newest: the
        // log may reach back to it.
        Damage::Format => {
            outcome.unwrap();
            cluster.is_whole().await;
            cluster.shutdown().await;
        }
        Damage::NewestCheckpoint if outcome.is_ok() => {
            cluster.is_whole().await;
            cluster.shutdown().await;
        }
        _ => {
            let Err(Error::Corrupt(what)) = outcome else {
                panic!("{damage:?}: {outcome:?}");
            };
            assert!(what.contains("trivet datastore repair"), "{what}");
            assert!(what.contains(DIR), "{what}");
            assert!(aside(&disk).is_empty(), "{damage:?}");
            let changed: Vec<_> = before
                .iter()
                .filter(|(path, content)| {
                    // Looking at a log that is whole closes it again, which leaves a mark.
                    let log = path.to_string_lossy().contains("raft/log");
                    let looked_at = log && !damage.is_of_the_log();
                    let spare = path.to_string_lossy().ends_with(".spare");
                    !path.ends_with("LOCK")
                        && !looked_at
                        && !spare
                        && (!disk.files().contains(path) || disk.content(path) != **content)
                })
                .collect();
            assert!(changed.is_empty(), "{damage:?} changed {changed:?}");
        }
    }
}

fn contents(disk: &SimDisk) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let files = disk.files().into_iter();
    files
        .map(|path| (path.clone(), disk.content(&path)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_alone_says_what_is_damaged_and_touches_nothing() {
    for damage in Damage::ALL {
        Box::pin(alone(damage)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_alone_makes_its_state_again_while_its_log_is_complete() {
    for damage in [
        Damage::AllCheckpoints,
        Damage::ValueSegmentHeader,
        Damage::MissingValueSegment,
    ] {
        let mut cluster = Cluster::of(1, false).await;
        cluster.write(0, 0, 120).await;
        cluster.stop(0).await;
        damage.plant(&cluster.disks[0]);
        cluster.reopen(0).await.unwrap();
        cluster.is_whole().await;
        assert_eq!(aside(&cluster.disks[0]), ["state.damaged-1"]);
        cluster.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_does_not_read_back_is_never_answered_and_heals() {
    let mut cluster = Cluster::of(3, true).await;
    cluster.write(0, 0, 120).await;
    for victim in [0, 1] {
        put(cluster.store(0), "precious", &"gold".repeat(50))
            .await
            .unwrap();
        cluster.is_whole().await;
        let disk = &cluster.disks[victim];
        let (path, at) = files(disk, "state/values", ".seg")
            .into_iter()
            .find_map(|path| {
                let content = disk.content(&path);
                let at = content.windows(8).rposition(|bytes| bytes == b"goldgold")?;
                Some((path, at))
            })
            .unwrap();
        disk.flip_bit(&path, at as u64, 0);
        let read = crate::cluster::read_all(cluster.store(victim)).await;
        match read {
            Err(Error::Corrupt(what)) => {
                assert!(what.contains("damaged at byte"), "{what}");
                assert!(what.contains(&path.display().to_string()), "{what}");
            }
            read => panic!("{read:?}"),
        }
        // The others never stop, and neither does the member for long.
        assert!(crate::cluster::read_all(cluster.store(2)).await.is_ok());
        crate::cluster::eventually("the damage to be healed", || async {
            crate::cluster::read_all(cluster.store(victim))
                .await
                .is_ok()
                && testing::damage(cluster.store(victim)).is_empty()
        })
        .await;
        cluster.is_whole().await;
        assert!(aside(disk).iter().any(|name| name.starts_with("state")));
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_that_do_not_belong_together_are_refused() {
    let mut cluster = Cluster::of(3, true).await;
    cluster.write(0, 0, 120).await;
    for number in [1, 2] {
        cluster.stop(number).await;
    }
    let original = cluster.disks.clone();
    let copy = |from: &SimDisk, below: &str| -> SimDisk {
        let disk = SimDisk::new();
        for path in original[1].files() {
            if !path.starts_with(Path::new(DIR).join(below)) {
                disk.overwrite(&path, &original[1].content(&path));
            }
        }
        for path in from.files() {
            if path.starts_with(Path::new(DIR).join(below)) {
                disk.overwrite(&path, &from.content(&path));
            }
        }
        disk
    };
    // Another member's log, and another member's everything.
    for (below, word) in [("raft", "holds the data of member"), ("", "swapped")] {
        cluster.disks[1] = copy(&original[2], below);
        match cluster.reopen(1).await {
            Err(Error::Invalid(what)) => assert!(what.contains(word), "{what}"),
            other => panic!("{below}: {other:?}"),
        }
    }
    // Another cluster's name.
    cluster.disks[1] = copy(&original[1], "");
    let format = Path::new(DIR).join("FORMAT");
    let text = String::from_utf8(cluster.disks[1].content(&format)).unwrap();
    let body: String = text
        .lines()
        .filter(|line| !line.starts_with("crc32c"))
        .map(|line| match line.split_once(' ') {
            Some(("cluster-id", _)) => "cluster-id 00000000deadbeef\n".to_owned(),
            _ => format!("{line}\n"),
        })
        .collect();
    let sum = crc32c::crc32c(body.as_bytes());
    cluster.disks[1].overwrite(&format, format!("{body}crc32c {sum:08x}\n").as_bytes());
    match cluster.reopen(1).await {
        Err(Error::Invalid(what)) => assert!(what.contains("deadbeef"), "{what}"),
        other => panic!("{other:?}"),
    }
    // Another member's state is as good as the own one.
    cluster.disks[1] = copy(&original[2], "state");
    cluster.reopen(1).await.unwrap();
    cluster.reopen(2).await.unwrap();
    cluster.is_whole().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_damaged_logs_of_three_wait_and_touch_nothing() {
    let mut cluster = Cluster::of(3, true).await;
    cluster.write(0, 0, 120).await;
    for number in [1, 2] {
        cluster.stop(number).await;
        Damage::MiddleOfLog.plant(&cluster.disks[number]);
    }
    for number in [1, 2] {
        match testing::open(cluster.settings(number), &cluster.bench).await {
            Err(Error::Unavailable { reason, .. }) => {
                assert!(reason.contains("damaged at byte"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        assert!(aside(&cluster.disks[number]).is_empty());
    }
    cluster.shutdown().await;
}
