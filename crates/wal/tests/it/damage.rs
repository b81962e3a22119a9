//! Bits that change on a disk that said it had stored them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use trivet_sim::{SimDisk, SimRng};
use trivet_wal::Error;

use crate::support::{DIR, ack, at, entries, entry, open, segments, tiny};

/// A log of several segments, some written over recycled files, closed properly.
fn written() -> SimDisk {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk, tiny(false)).unwrap();
    for index in 1..=150u64 {
        let (done, receiver) = ack();
        wal.append(vec![entry(index, 1, &[index as u8; 100])], done)
            .unwrap();
        receiver.recv().unwrap().unwrap();
        if index == 100 {
            wal.purge_up_to(at(70, 1), ack().0).unwrap();
        }
    }
    wal.close().unwrap();
    disk
}

fn image(disk: &SimDisk) -> SimDisk {
    disk.crash_image(1)
}

/// One past the last byte that says something: the file ends with zeros or an old life.
fn end_of_data(disk: &SimDisk, path: &Path) -> u64 {
    // Every record but the closing mark carries its index in the byte of its payload.
    disk.content(path)
        .iter()
        .rposition(|byte| *byte != 0)
        .unwrap() as u64
}

#[test]
fn every_flipped_bit_of_synced_records_is_reported() {
    let disk = written();
    let rng = SimRng::new(5);
    let files = segments(&disk);
    assert!(files.len() >= 3);
    let before: Vec<_> = entries(&open(&image(&disk), tiny(false)).unwrap().0).unwrap();
    let mut reported = 0;
    for path in &files {
        for byte in 0..end_of_data(&disk, path) {
            let damaged = image(&disk);
            damaged.flip_bit(path, byte, rng.below(8) as u8);
            match open(&damaged, tiny(false)) {
                Err(Error::Damaged { file, offset, .. }) => {
                    assert_eq!(&file, path);
                    assert!(offset <= byte, "reported at {offset}, flipped {byte}");
                    reported += 1;
                }
                Err(other) => panic!("{} byte {byte}: {other}", path.display()),
                // Padding, the closing mark, and what lies behind the records of a full
                // segment carry nothing: then nothing may be missing.
                Ok((wal, _)) => {
                    assert_eq!(
                        entries(&wal).unwrap(),
                        before,
                        "{} byte {byte}",
                        path.display()
                    );
                }
            }
        }
    }
    assert!(reported > 5000, "{reported}");
}

#[test]
fn damage_changes_nothing_on_disk() {
    let disk = written();
    let path = &segments(&disk)[1];
    disk.flip_bit(path, 200, 0);
    let content = |disk: &SimDisk| -> Vec<(PathBuf, Vec<u8>)> {
        disk.files()
            .into_iter()
            .map(|path| (path.clone(), disk.content(&path)))
            .collect()
    };
    let before = content(&disk);
    let error = open(&disk, tiny(false)).unwrap_err().to_string();
    assert!(
        error.contains("damaged at byte") && error.contains("join again"),
        "{error}"
    );
    assert_eq!(content(&disk), before);
}

#[test]
fn a_missing_file_is_reported() {
    use trivet_env::Disk;
    let disk = written();
    for path in disk.files() {
        let damaged = image(&disk);
        damaged.remove_file(&path).unwrap();
        let newest = segments(&disk).last() == Some(&path);
        let spare = path
            .extension()
            .is_some_and(|extension| extension == "spare");
        match open(&damaged, tiny(false)) {
            Err(Error::Damaged { file, .. }) => assert_eq!(file, path),
            Err(other) => panic!("{}: {other}", path.display()),
            // Nothing says that a newest segment ever existed: the limit of one directory.
            Ok(_) => assert!(newest || spare, "{}", path.display()),
        }
    }
}

#[test]
fn damage_in_the_last_batch_before_a_crash_looks_like_a_torn_write() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk, tiny(false)).unwrap();
    for index in 1..=3 {
        let (done, receiver) = ack();
        wal.append(vec![entry(index, 1, &[index as u8; 40])], done)
            .unwrap();
        receiver.recv().unwrap().unwrap();
    }
    // No clean stop: nothing was written behind entry 3.
    let crashed = disk.crash_image(0);
    let path = &segments(&crashed)[0];
    let third = crashed
        .content(path)
        .iter()
        .position(|byte| *byte == 3)
        .unwrap();
    let payload = crashed
        .content(path)
        .windows(40)
        .position(|w| w == [3; 40])
        .unwrap();
    assert!(third <= payload);
    crashed.flip_bit(path, payload as u64, 0);
    let (reopened, recovered) = open(&crashed, tiny(false)).unwrap();
    assert_eq!(recovered.state.last, Some(at(2, 1)), "the documented limit");
    drop(reopened);
    // After a clean stop the same damage is known for what it is.
    wal.close().unwrap();
    disk.flip_bit(path, payload as u64, 0);
    assert!(matches!(
        open(&disk, tiny(false)),
        Err(Error::Damaged { .. })
    ));
}

#[test]
fn damage_found_while_reading_is_reported() {
    let disk = SimDisk::new();
    let (wal, _) = open(&disk, tiny(false)).unwrap();
    for index in 1..=30 {
        wal.append(vec![entry(index, 1, &[index as u8; 100])], ack().0)
            .unwrap();
    }
    wal.flush().unwrap();
    let path = &segments(&disk)[0];
    let place = disk
        .content(path)
        .windows(100)
        .position(|w| w == [2; 100])
        .unwrap();
    disk.flip_bit(path, place as u64 + 5, 1);
    assert_eq!(wal.read(1..2, 10).unwrap(), [entry(1, 1, &[1; 100])]);
    assert!(matches!(wal.read(2..3, 10), Err(Error::Damaged { .. })));
}

#[test]
fn a_record_smuggled_in_by_a_payload_is_no_record() {
    // A payload made of the log's own bytes, as an attacker who knows them would choose it.
    let disk = SimDisk::new();
    let (wal, _) = open(&disk, tiny(false)).unwrap();
    for index in 1..=3 {
        wal.append(vec![entry(index, 1, &[7; 40])], ack().0)
            .unwrap();
        wal.flush().unwrap();
    }
    let stolen = disk.content(&segments(&disk)[0])[64..304].to_vec();
    drop(wal);
    // The same bytes in a log with another salt, behind a torn write.
    let other = SimDisk::new();
    let options = trivet_wal::WalOptions {
        salt: 1,
        ..tiny(false)
    };
    let (wal, _) = open(&other, options.clone()).unwrap();
    wal.append(vec![entry(1, 1, b"one")], ack().0).unwrap();
    wal.flush().unwrap();
    wal.append(vec![entry(2, 1, b"two"), entry(3, 1, &stolen)], ack().0)
        .unwrap();
    wal.flush().unwrap();
    let crashed = other.crash_image(0);
    let path = Path::new(DIR).join("0000000000000001.wal");
    let two = crashed
        .content(&path)
        .windows(3)
        .position(|w| w == b"two")
        .unwrap();
    crashed.flip_bit(&path, two as u64, 0);
    let (wal, _) = open(&crashed, options).expect("a torn write, nothing more");
    assert_eq!(wal.state().last, Some(at(1, 1)));
}

#[test]
fn a_survey_finds_what_lies_around_the_damage() {
    let disk = written();
    let whole = trivet_wal::survey(Arc::new(image(&disk)), Path::new(DIR)).unwrap();
    assert_eq!((whole.stretches.len(), whole.damage.len()), (1, 0));
    let all: Vec<u64> = whole.stretches[0].entries.iter().map(|e| e.index).collect();
    assert!(all.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    // A bit anywhere costs at most what it is in, and what was found is what was written.
    for path in segments(&disk) {
        let length = disk.content(&path).len() as u64;
        for at in (0..length).step_by(211) {
            let damaged = image(&disk);
            damaged.flip_bit(&path, at, 2);
            let found = trivet_wal::survey(Arc::new(damaged.clone()), Path::new(DIR)).unwrap();
            let entries = found.stretches.iter().flat_map(|stretch| &stretch.entries);
            let mut count = 0;
            for entry in entries {
                count += 1;
                assert!(whole.stretches[0].entries.contains(entry) || entry.index < all[0]);
            }
            assert!(
                count + 2 >= all.len(),
                "{} at {at}: {count}",
                path.display()
            );
            if matches!(open(&damaged, tiny(false)), Err(Error::Damaged { .. })) {
                assert!(!found.damage.is_empty(), "{} at {at}", path.display());
            }
        }
    }
    let missing = image(&disk);
    trivet_env::Disk::remove_file(&missing, &segments(&disk)[1]).unwrap();
    let found = trivet_wal::survey(Arc::new(missing), Path::new(DIR)).unwrap();
    assert_eq!(found.damage[0].file, segments(&disk)[1]);
}
