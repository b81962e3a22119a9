//! What the simulated disk keeps, loses and breaks.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use trivet_env::{Disk, DiskFile, OpenMode};
use trivet_sim::SimDisk;

const FILE: &str = "/d/f";

fn disk_with_file() -> (SimDisk, Arc<dyn DiskFile>) {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let file = disk.open(Path::new(FILE), OpenMode::CreateNew).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    (disk, file)
}

#[test]
fn synced_data_survives_every_crash() {
    let (disk, file) = disk_with_file();
    file.write_all_at(3, b"hello").unwrap();
    file.sync_data().unwrap();
    for seed in 0..50 {
        assert_eq!(
            disk.crash_image(seed).content(Path::new(FILE)),
            b"\0\0\0hello"
        );
    }
}

#[test]
fn unsynced_sectors_persist_in_every_combination() {
    let (disk, file) = disk_with_file();
    file.write_all_at(0, &[1; 1024]).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(0, &[2; 1024]).unwrap();
    file.write_all_at(0, &[3; 1024]).unwrap();
    let outcomes: BTreeSet<(u8, u8)> = (0..500)
        .map(|seed| {
            let content = disk.crash_image(seed).content(Path::new(FILE));
            assert!(
                content[..512].iter().all(|byte| *byte == content[0]),
                "a sector is whole"
            );
            (content[0], content[512])
        })
        .collect();
    assert_eq!(
        outcomes.len(),
        9,
        "each sector old, newer or newest: {outcomes:?}"
    );
}

#[test]
fn the_length_is_one_the_file_had() {
    let (disk, file) = disk_with_file();
    file.set_size(100).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(5000, b"x").unwrap();
    file.set_size(50).unwrap();
    let sizes: BTreeSet<usize> = (0..100)
        .map(|seed| disk.crash_image(seed).content(Path::new(FILE)).len())
        .collect();
    assert_eq!(sizes, BTreeSet::from([100, 5001, 50]));
}

#[test]
fn unsynced_names_may_be_forgotten_and_renames_are_atomic() {
    let (disk, file) = disk_with_file();
    file.write_all_at(0, b"old").unwrap();
    file.sync_data().unwrap();
    let other = disk.open(Path::new("/d/new"), OpenMode::CreateNew).unwrap();
    other.write_all_at(0, b"new").unwrap();
    other.sync_data().unwrap();
    disk.rename(Path::new("/d/new"), Path::new(FILE)).unwrap();
    let mut contents = BTreeSet::new();
    for seed in 0..100 {
        contents.insert(disk.crash_image(seed).content(Path::new(FILE)));
    }
    assert_eq!(contents, BTreeSet::from([b"old".to_vec(), b"new".to_vec()]));
    disk.sync_dir(Path::new("/d")).unwrap();
    for seed in 0..100 {
        let image = disk.crash_image(seed);
        assert_eq!(image.content(Path::new(FILE)), b"new");
        assert_eq!(image.files().len(), 1);
    }
}

#[test]
fn a_lost_directory_takes_its_files_along() {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/a/b")).unwrap();
    disk.open(Path::new("/a/b/f"), OpenMode::CreateNew).unwrap();
    disk.sync_dir(Path::new("/a/b")).unwrap();
    let outcomes: BTreeSet<usize> = (0..100)
        .map(|seed| disk.crash_image(seed).files().len())
        .collect();
    assert_eq!(outcomes, BTreeSet::from([0, 1]));
}

#[test]
fn a_crash_stops_everything_from_that_operation_on() {
    let (disk, file) = disk_with_file();
    assert_eq!(disk.operations(), 4);
    disk.crash_at(5);
    file.write_all_at(0, b"a").unwrap();
    assert!(file.sync_data().is_err());
    assert!(disk.crashed());
    assert!(file.write_all_at(0, b"b").is_err());
    assert!(file.read_at(0, &mut [0]).is_err());
    assert!(disk.exists(Path::new(FILE)).is_err());
    let contents: BTreeSet<Vec<u8>> = (0..100)
        .map(|seed| disk.crash_image(seed).content(Path::new(FILE)))
        .collect();
    assert!(contents.contains(b"a".as_slice()) && contents.contains(b"".as_slice()));
}

#[test]
fn a_killed_process_leaves_the_page_cache() {
    let (disk, file) = disk_with_file();
    file.write_all_at(0, b"a").unwrap();
    disk.crash();
    assert!(disk.exists(Path::new(FILE)).is_err());
    disk.restart_process();
    assert_eq!(disk.content(Path::new(FILE)), b"a");
    let lengths: BTreeSet<usize> = (0..50)
        .map(|seed| disk.crash_image(seed).content(Path::new(FILE)).len())
        .collect();
    assert_eq!(lengths, BTreeSet::from([0, 1]));
}

#[test]
fn after_a_failed_sync_the_cache_lies() {
    let mut lost = 0;
    for round in 0..20 {
        let (disk, file) = disk_with_file();
        disk.fail_sync_at(round);
        for number in 0..=round {
            file.write_all_at(0, &[number as u8 + 1]).unwrap();
            assert_eq!(file.sync_data().is_err(), number == round);
        }
        let mut byte = [0];
        file.read_exact_at(0, &mut byte).unwrap();
        assert_eq!(byte[0], round as u8 + 1, "readers see what was lost");
        file.sync_data().expect("the next sync claims success");
        lost += usize::from(disk.crash_image(0).content(Path::new(FILE)) != byte);
    }
    assert!(lost > 0);
}

#[test]
fn a_full_disk_stops_a_write_half_way() {
    let (disk, file) = disk_with_file();
    disk.set_space_left(Some(8192));
    file.set_size(1 << 20).expect("holes cost nothing");
    let error = file.write_all_at(100, &[7; 20000]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    let content = disk.content(Path::new(FILE));
    assert_eq!(
        content.iter().filter(|byte| **byte == 7).count(),
        8192 - 100
    );
    file.write_all_at(0, &[1; 8192])
        .expect("blocks that exist can be overwritten");
}

#[test]
fn open_modes_are_kept() {
    let (disk, _) = disk_with_file();
    let kind = |path: &str, mode| disk.open(Path::new(path), mode).err().map(|e| e.kind());
    assert_eq!(
        kind(FILE, OpenMode::CreateNew),
        Some(ErrorKind::AlreadyExists)
    );
    assert_eq!(
        kind("/d/none", OpenMode::ReadWrite),
        Some(ErrorKind::NotFound)
    );
    assert_eq!(
        kind("/none/f", OpenMode::CreateNew),
        Some(ErrorKind::NotFound)
    );
    let read_only = disk.open(Path::new(FILE), OpenMode::Read).unwrap();
    assert!(read_only.write_all_at(0, b"x").is_err());
}

#[test]
fn flipped_bits_are_seen() {
    let (disk, file) = disk_with_file();
    file.write_all_at(0, &[0; 4]).unwrap();
    file.sync_data().unwrap();
    disk.flip_bit(Path::new(FILE), 2, 3);
    assert_eq!(disk.content(Path::new(FILE)), [0, 0, 8, 0]);
    assert_eq!(disk.crash_image(1).content(Path::new(FILE)), [0, 0, 8, 0]);
}

#[test]
fn locks_end_when_dropped_or_with_the_process() {
    let (disk, _file) = disk_with_file();
    let path = Path::new("/d/LOCK");
    let lock = |disk: &SimDisk| Disk::lock(disk, path).map_err(|error| error.kind());
    let held = lock(&disk).unwrap();
    assert_eq!(lock(&disk.clone()).unwrap_err(), ErrorKind::WouldBlock);
    assert!(
        lock(&disk.crash_image(0)).is_ok(),
        "a machine that boots holds nothing"
    );
    drop(held);
    let dead = lock(&disk).unwrap();
    disk.crash();
    disk.restart_process();
    let held = lock(&disk).unwrap();
    drop(dead);
    assert_eq!(
        lock(&disk).unwrap_err(),
        ErrorKind::WouldBlock,
        "it is the successor's"
    );
    drop(held);
    assert!(lock(&disk).is_ok());
}
