//! Disks that fail while the log runs.

use std::time::Duration;

use trivet_sim::SimDisk;
use trivet_wal::{Entry, Error, WalOptions};

use crate::support::{ack, entries, entry, open, tiny};

#[test]
fn a_failed_sync_is_final() {
    for sync in 3..30 {
        let disk = SimDisk::new();
        let (wal, _) = open(&disk, tiny(false)).unwrap();
        disk.fail_sync_at(sync);
        let mut acknowledged: Vec<Entry> = Vec::new();
        let mut failed = false;
        for index in 1..40 {
            let (done, receiver) = ack();
            let entry = entry(index, 1, &[index as u8; 70]);
            match wal.append(vec![entry.clone()], done) {
                Ok(()) => match receiver.recv().unwrap() {
                    Ok(()) => {
                        assert!(!failed, "nothing succeeds after the failure");
                        acknowledged.push(entry);
                    }
                    Err(error) => {
                        assert!(error.is_final(), "{error}");
                        failed = true;
                    }
                },
                Err(error) => {
                    assert!(failed && matches!(error, Error::Poisoned { .. }), "{error}");
                }
            }
        }
        assert!(failed, "sync {sync}");
        let operations = disk.operations();
        assert!(wal.flush().is_err());
        assert!(wal.close().is_err());
        assert_eq!(disk.operations(), operations, "nothing is tried again");
        let (wal, _) = open(&disk.crash_image(sync), tiny(false)).unwrap();
        let found = entries(&wal).unwrap();
        assert_eq!(found[..acknowledged.len()], acknowledged[..]);
        assert!(found.len() <= acknowledged.len() + 1);
    }
}

/// The page cache goes on showing what a failed sync lost, to the next process too; a sync of
/// its own does not reach pages that count as clean.
#[test]
fn what_a_failed_sync_left_in_the_cache_is_written_again() {
    for sync in 3..30 {
        let disk = SimDisk::new();
        let (wal, _) = open(&disk, tiny(false)).unwrap();
        disk.fail_sync_at(sync);
        for index in 1..40 {
            let (done, receiver) = ack();
            let entry = entry(index, 1, &[index as u8; 70]);
            if wal.append(vec![entry], done).is_err() || receiver.recv().unwrap().is_err() {
                break;
            }
        }
        drop(wal);
        disk.restart_process();
        let (wal, _) = open(&disk, tiny(false)).unwrap();
        let mut expected = entries(&wal).unwrap();
        let seen = disk.crash_image(sync);
        let (again, _) = open(&seen, tiny(false)).unwrap();
        assert_eq!(
            entries(&again).unwrap(),
            expected,
            "sync {sync}: what was shown stays"
        );
        let next = expected.last().map_or(1, |last| last.index + 1);
        for index in next..next + 3 {
            let (done, receiver) = ack();
            let entry = entry(index, 1, &[7; 70]);
            wal.append(vec![entry.clone()], done).unwrap();
            receiver.recv().unwrap().unwrap();
            expected.push(entry);
        }
        for image in 0..4 {
            let (again, _) = open(&disk.crash_image(image), tiny(false)).unwrap();
            assert_eq!(
                entries(&again).unwrap(),
                expected,
                "sync {sync}, image {image}"
            );
        }
    }
}

#[test]
fn everybody_who_waits_is_told_in_order() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk, tiny(false)).unwrap();
    let (sender, order) = std::sync::mpsc::channel();
    disk.fail_sync_at(disk.syncs() + 1);
    let mut accepted = Vec::new();
    for index in 1..60u64 {
        let sender = sender.clone();
        let done = Box::new(move |result: Result<(), Error>| {
            sender.send((index, result.is_ok())).unwrap();
        });
        if wal.append(vec![entry(index, 1, &[1; 90])], done).is_ok() {
            accepted.push(index);
        }
    }
    drop(sender);
    let told: Vec<(u64, bool)> = order.iter().collect();
    assert_eq!(
        told.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
        accepted
    );
    let good = told.iter().take_while(|(_, ok)| *ok).count();
    assert!(told[good..].iter().all(|(_, ok)| !ok));
}

#[test]
fn a_full_disk_loses_nothing_acknowledged() {
    for blocks in 2..12 {
        let disk = SimDisk::new();
        let options = WalOptions {
            spares_max: 1,
            ..tiny(true)
        };
        let (wal, _) = open(&disk, options.clone()).unwrap();
        disk.set_space_left(Some(blocks * 4096));
        let mut acknowledged = 0;
        for index in 1..400 {
            let (done, receiver) = ack();
            if wal.append(vec![entry(index, 1, &[5; 100])], done).is_err() {
                break;
            }
            match receiver.recv().unwrap() {
                Ok(()) => acknowledged = index,
                Err(_) => break,
            }
        }
        assert!(acknowledged > 0 && acknowledged < 399);
        drop(wal);
        disk.set_space_left(None);
        let (wal, recovered) = open(&disk.crash_image(blocks), options).unwrap();
        assert!(recovered.state.last.unwrap().index >= acknowledged);
        assert!(entries(&wal).unwrap().len() as u64 >= acknowledged);
    }
}

/// Where the disk tells how much space there is, the log waits for more and then goes on.
#[test]
fn a_log_on_a_full_disk_waits_for_space() {
    for prepare_ahead in [false, true] {
        for blocks in 2..8 {
            let disk = SimDisk::new();
            disk.set_tells_space(true);
            let (wal, _) = open(&disk, tiny(prepare_ahead)).unwrap();
            disk.set_space_left(Some(blocks * 4096));
            let mut stuck = None;
            let mut index = 0;
            while stuck.is_none() {
                index += 1;
                let (done, receiver) = ack();
                wal.append(vec![entry(index, 1, &[5; 100])], done).unwrap();
                // Nothing is lost by taking a slow disk for a full one.
                match receiver.recv_timeout(Duration::from_millis(150)) {
                    Ok(written) => written.unwrap(),
                    Err(_) => stuck = Some(receiver),
                }
                assert!(index < 400, "the disk is never full");
            }
            // What was acknowledged survives a power cut right now.
            let (other, recovered) = open(&disk.crash_image(blocks), tiny(false)).unwrap();
            assert!(recovered.state.last.unwrap().index >= index - 1);
            drop(other);
            disk.set_space_left(None);
            stuck.unwrap().recv().unwrap().unwrap();
            let (done, receiver) = ack();
            wal.append(vec![entry(index + 1, 1, b"more")], done)
                .unwrap();
            receiver.recv().unwrap().unwrap();
            assert_eq!(entries(&wal).unwrap().len() as u64, index + 1);
            wal.close().unwrap();
            let (wal, _) = open(&disk.crash_image(blocks), tiny(false)).unwrap();
            assert_eq!(entries(&wal).unwrap().len() as u64, index + 1);
        }
    }
}

#[test]
fn a_log_that_waits_for_space_can_be_closed() {
    let disk = SimDisk::new();
    disk.set_tells_space(true);
    let (wal, _) = open(&disk, tiny(false)).unwrap();
    disk.set_space_left(Some(0));
    let mut waiting = Vec::new();
    for index in 1..40 {
        let (done, receiver) = ack();
        wal.append(vec![entry(index, 1, &[5; 100])], done).unwrap();
        waiting.push(receiver);
    }
    assert!(wal.close().is_err());
    let told: Vec<bool> = waiting
        .into_iter()
        .map(|receiver| receiver.recv().unwrap().is_ok())
        .collect();
    assert!(!told[38], "the last one was never written");
}

#[test]
fn a_callback_that_panics_stops_the_log() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk, tiny(false)).unwrap();
    wal.append(
        vec![entry(1, 1, b"x")],
        Box::new(|_| panic!("planned by the test")),
    )
    .unwrap();
    assert!(wal.close().is_err());
    assert!(wal.append(vec![entry(2, 1, b"y")], ack().0).is_err());
}
