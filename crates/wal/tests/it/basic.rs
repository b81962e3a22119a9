//! The plain way, on the real disk and on the simulated one.

use std::sync::{Arc, mpsc};

use bytes::Bytes;
use trivet_env::RealDisk;
use trivet_sim::SimDisk;
use trivet_wal::{Entry, Error, LogState, META_BYTES_MAX, MetaKind, Wal, WalOptions};

use crate::support::{DIR, ack, at, entries, entry, open, segments, tiny};

fn append(wal: &Wal, all: Vec<Entry>) {
    let (done, receiver) = ack();
    wal.append(all, done).unwrap();
    receiver.recv().unwrap().unwrap();
}

#[test]
fn a_log_on_a_real_disk_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/log");
    let options = WalOptions {
        segment_bytes_first: 64 << 10,
        ..WalOptions::new(7)
    };
    let (wal, recovered) = Wal::open(Arc::new(RealDisk), &path, options.clone()).unwrap();
    assert!(recovered.fresh);
    for index in 0..300 {
        wal.append(vec![entry(index, 1, &[index as u8; 1000])], ack().0)
            .unwrap();
    }
    wal.put_meta(MetaKind(1), Bytes::from_static(b"vote"), ack().0)
        .unwrap();
    wal.purge_up_to(at(99, 1), ack().0).unwrap();
    wal.close().unwrap();
    assert!(matches!(
        wal.append(Vec::new(), ack().0),
        Err(Error::Closed)
    ));
    let (wal, recovered) = Wal::open(Arc::new(RealDisk), &path, options).unwrap();
    assert!(!recovered.fresh);
    assert_eq!(
        recovered.state,
        LogState {
            purged: Some(at(99, 1)),
            last: Some(at(299, 1))
        }
    );
    assert_eq!(recovered.meta[&MetaKind(1)], "vote");
    let found = entries(&wal).unwrap();
    assert_eq!(found.len(), 200);
    assert!(
        found
            .iter()
            .all(|entry| entry.payload == vec![entry.index as u8; 1000])
    );
    for file in std::fs::read_dir(&path).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            file.unwrap().metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}

#[test]
fn entries_are_readable_before_they_are_durable() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk, tiny(false)).unwrap();
    // The writer hangs in a callback: nothing that follows can become durable.
    let (release, hold) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel();
    let first = Box::new(move |_| {
        entered.send(()).unwrap();
        let _ = hold.recv();
    });
    wal.append(vec![entry(1, 1, b"first")], first).unwrap();
    inside.recv().unwrap();
    let (done, durable) = ack();
    wal.append(
        (2..=20).map(|index| entry(index, 1, &[9; 100])).collect(),
        done,
    )
    .unwrap();
    assert!(durable.try_recv().is_err());
    assert_eq!(wal.read(2..21, usize::MAX).unwrap().len(), 19);
    assert_eq!(wal.read(2..21, 250).unwrap().len(), 2);
    assert_eq!(wal.read(2..21, 0).unwrap().len(), 1, "never empty");
    assert_eq!(wal.read_cached(20..21, 0).unwrap().unwrap().len(), 1);
    assert_eq!(wal.read(5..5, 10).unwrap(), Vec::new());
    drop(release);
    durable.recv().unwrap().unwrap();
    assert_eq!(
        wal.read_cached(2..21, 250).unwrap(),
        None,
        "the cache is small"
    );
    assert_eq!(wal.read(2..21, 250).unwrap().len(), 2);
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_changes() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk, tiny(false)).unwrap();
    append(&wal, vec![entry(5, 1, b"five"), entry(6, 1, b"six")]);
    let refused = |result| matches!(result, Err(Error::Refused(_)));
    assert!(refused(wal.append(vec![entry(8, 1, b"")], ack().0)), "hole");
    assert!(
        refused(wal.append(vec![entry(6, 1, b"")], ack().0)),
        "truncate first"
    );
    assert!(refused(
        wal.append(vec![entry(7, 1, b""), entry(9, 1, b"")], ack().0)
    ));
    let large = Bytes::from(vec![0; META_BYTES_MAX + 1]);
    assert!(refused(wal.put_meta(MetaKind(0), large.clone(), ack().0)));
    assert!(refused(wal.put_meta_lazy(MetaKind(0), large)));
    let payload = Bytes::from(vec![0; Entry::PAYLOAD_BYTES_MAX + 1]);
    assert!(refused(wal.append(
        vec![Entry {
            index: 7,
            term: 1,
            payload
        }],
        ack().0
    )));
    let payload = Bytes::from(vec![0; Entry::PAYLOAD_BYTES_MAX - 100]);
    let three = (7..10)
        .map(|index| Entry {
            index,
            term: 1,
            payload: payload.clone(),
        })
        .collect();
    assert!(refused(wal.append(three, ack().0)), "one call is limited");
    assert!(matches!(
        wal.read(4..6, 10),
        Err(Error::OutOfRange {
            first: 5,
            next: 7,
            ..
        })
    ));
    assert!(matches!(wal.read(6..8, 10), Err(Error::OutOfRange { .. })));
    wal.purge_up_to(at(5, 1), ack().0).unwrap();
    assert!(
        refused(wal.truncate_after(Some(4), ack().0)),
        "purged entries do not come back"
    );
    wal.truncate_after(Some(5), ack().0).unwrap();
    assert_eq!(
        wal.state(),
        LogState {
            purged: Some(at(5, 1)),
            last: Some(at(5, 1))
        }
    );
    append(&wal, vec![entry(6, 2, b"again")]);
    assert_eq!(entries(&wal).unwrap(), [entry(6, 2, b"again")]);
    let contradiction = WalOptions {
        segment_bytes_max: 100,
        ..tiny(false)
    };
    assert!(matches!(
        open(&SimDisk::new(), contradiction),
        Err(Error::Options(_))
    ));
}

#[test]
fn an_entry_larger_than_a_segment_gets_a_segment_of_its_size() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk, tiny(false)).unwrap();
    append(&wal, vec![entry(1, 1, &[1; 10])]);
    append(&wal, vec![entry(2, 1, &[2; 50_000])]);
    append(&wal, vec![entry(3, 1, &[3; 10])]);
    wal.close().unwrap();
    let (wal, _) = open(&disk, tiny(false)).unwrap();
    let sizes: Vec<usize> = entries(&wal)
        .unwrap()
        .iter()
        .map(|e| e.payload.len())
        .collect();
    assert_eq!(sizes, [10, 50_000, 10]);
}

#[test]
fn waiting_calls_share_one_sync() {
    let disk = SimDisk::new();
    let options = WalOptions {
        queue_bytes_max: 1 << 20,
        batch_bytes_max: 1 << 20,
        segment_bytes_first: 65536,
        segment_bytes_max: 65536,
        ..tiny(false)
    };
    let (wal, _) = open(&disk, options).unwrap();
    let (release, hold) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel();
    let first = Box::new(move |_| {
        entered.send(()).unwrap();
        let _ = hold.recv();
    });
    wal.append(vec![entry(1, 1, b"first")], first).unwrap();
    inside.recv().unwrap();
    let (syncs, written) = (disk.syncs(), disk.written_bytes());
    for index in 2..50 {
        wal.append(vec![entry(index, 1, &[9; 1024])], ack().0)
            .unwrap();
        wal.put_meta_lazy(MetaKind(0), index.to_string().into())
            .unwrap();
    }
    drop(release);
    wal.flush().unwrap();
    assert_eq!(disk.syncs() - syncs, 1);
    let payload = 48 * 1024;
    let written = disk.written_bytes() - written;
    assert!(
        written * 100 < payload * 112,
        "{written} bytes for {payload} of payload"
    );
    wal.flush().unwrap();
    assert_eq!(disk.syncs() - syncs, 1, "nothing waits, nothing is written");
    wal.close().unwrap();
    let (wal, _) = open(&disk, tiny(false)).unwrap();
    assert_eq!(wal.meta(MetaKind(0)).unwrap(), "49");
}

#[test]
fn a_full_queue_makes_callers_wait() {
    let disk = SimDisk::new();
    let options = WalOptions {
        queue_bytes_max: 2048,
        ..tiny(false)
    };
    let (wal, _) = open(&disk, options).unwrap();
    let (release, hold) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel();
    let first = Box::new(move |_| {
        entered.send(()).unwrap();
        let _ = hold.recv();
    });
    wal.append(vec![entry(1, 1, b"first")], first).unwrap();
    inside.recv().unwrap();
    let (filled, progress) = mpsc::channel();
    let other = wal.clone();
    let filler = std::thread::spawn(move || {
        for index in 2..12 {
            other
                .append(vec![entry(index, 1, &[9; 500])], ack().0)
                .unwrap();
            filled.send(index).unwrap();
        }
    });
    // Three of 536 bytes fit; the fourth waits until the writer goes on.
    for expected in 2..5 {
        assert_eq!(progress.recv().unwrap(), expected);
    }
    assert_eq!(wal.state().last, Some(at(4, 1)));
    drop(release);
    filler.join().unwrap();
    wal.flush().unwrap();
    assert_eq!(wal.state().last, Some(at(11, 1)));
}

#[test]
fn purged_segments_are_recycled_and_meta_is_carried_along() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk, tiny(false)).unwrap();
    let (done, _) = ack();
    wal.put_meta(MetaKind(3), Bytes::from_static(b"carried"), done)
        .unwrap();
    let mut sizes = Vec::new();
    for index in 1..2000u64 {
        append(&wal, vec![entry(index, 1, &[index as u8; 200])]);
        if index % 20 == 0 {
            wal.purge_up_to(at(index - 10, 1), ack().0).unwrap();
            wal.flush().unwrap();
            sizes.push(wal.size_bytes());
        }
    }
    assert!(sizes.iter().all(|size| *size <= 6 * 4096), "{sizes:?}");
    let last = segments(&disk).pop().unwrap();
    assert!(last.to_string_lossy().ends_with(".wal") && segments(&disk).len() <= 4);
    wal.close().unwrap();
    let (wal, recovered) = open(&disk, tiny(false)).unwrap();
    assert_eq!(recovered.meta[&MetaKind(3)], "carried");
    assert_eq!(entries(&wal).unwrap().len(), 1999 - 1970);
}

#[test]
fn segments_grow_and_are_prepared_ahead() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk, tiny(true)).unwrap();
    assert_eq!(wal.size_bytes(), 0, "an unused log takes no room");
    for index in 1..200u64 {
        append(&wal, vec![entry(index, 1, &[1; 64])]);
    }
    wal.close().unwrap();
    let sizes: Vec<usize> = segments(&disk)
        .iter()
        .map(|path| disk.content(path).len())
        .collect();
    assert_eq!(sizes[..4], [512, 1024, 2048, 4096]);
    assert!(sizes[4..].iter().all(|size| *size == 4096), "{sizes:?}");
    assert!(disk.files().iter().all(|path| path.starts_with(DIR)));
}

#[test]
fn dropping_the_last_clone_writes_what_waits() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk, tiny(true)).unwrap();
    wal.append(vec![entry(1, 1, b"one")], ack().0).unwrap();
    wal.put_meta_lazy(MetaKind(1), Bytes::from_static(b"lazy"))
        .unwrap();
    drop(wal);
    let (wal, _) = open(&disk.crash_image(0), tiny(true)).unwrap();
    assert_eq!(wal.meta(MetaKind(1)).unwrap(), "lazy");
    assert_eq!(entries(&wal).unwrap().len(), 1);
}
