//! Checkpoints, segments, damage.

use super::*;

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let files = disk.files().into_iter();
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect()
}

fn checkpoints(disk: &SimDisk) -> Vec<PathBuf> {
    let files = disk.files().into_iter();
    files
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "ckpt")
        })
        .collect()
}

#[test]
fn sparse_segments_are_rewritten_and_removed() {
    let disk = SimDisk::new();
    let (mut machine, shared) = open_on(&disk).unwrap();
    for index in 1..=400 {
        apply(
            &mut machine,
            index,
            &[put(format!("k{}", index % 10), vec![b'v'; 100])],
        );
    }
    let before = shared.size();
    assert!(before.total_bytes > 40_000);
    let revision = shared.revision();
    apply(&mut machine, 401, &[Command::Compact { revision }]);
    let expected = dump(&shared);
    for index in 402..430 {
        machine.apply(&entry(index, &[])).unwrap();
        machine.checkpoint(true).unwrap();
    }
    let after = shared.size();
    assert!(after.total_bytes < 8_000, "{after:?}");
    assert!(segments(&disk).len() <= 4, "{:?}", segments(&disk));
    assert_eq!(checkpoints(&disk).len(), 2);
    assert_eq!(dump(&shared).versions, expected.versions);
    drop((machine, shared));
    let (_machine, shared) = open_on(&disk.crash_image(1)).unwrap();
    assert_eq!(dump(&shared).versions, expected.versions);
}

#[test]
fn a_damaged_checkpoint_is_reported_and_the_one_before_is_used() {
    let disk = SimDisk::new();
    let (mut machine, shared) = open_on(&disk).unwrap();
    let mut dumps = Vec::new();
    for index in 1..=2 {
        apply(
            &mut machine,
            index,
            &[put("a", index.to_string()), put("b", "x")],
        );
        machine.checkpoint(true).unwrap();
        dumps.push(dump(&shared));
    }
    drop((machine, shared));
    let files = checkpoints(&disk);
    assert_eq!(files.len(), 2);
    let size = disk.content(&files[1]).len() as u64;
    for byte in 0..size {
        let disk = disk.crash_image(0);
        disk.flip_bit(&files[1], byte, 3);
        let (mut machine, shared) =
            open_on(&disk).unwrap_or_else(|error| panic!("byte {byte}: {error}"));
        assert_eq!(dump(&shared), dumps[0], "byte {byte}");
        apply(&mut machine, 2, &[put("a", "2"), put("b", "x")]);
        machine.checkpoint(true).unwrap();
        assert_eq!(checkpoints(&disk).len(), 2);
        drop(machine);
        assert_eq!(dump(&open_on(&disk).unwrap().1), dumps[1]);
    }
    for file in &files {
        disk.flip_bit(file, 22, 1);
    }
    let error = open_on(&disk).unwrap_err().to_string();
    assert!(
        error.contains("0000000000000002.ckpt is damaged at byte 12"),
        "{error}"
    );
}

/// What only the older of two checkpoints needs is there as long as that is.
#[test]
fn the_checkpoint_before_is_usable_after_segments_were_rewritten() {
    let disk = SimDisk::new();
    let (mut machine, shared) = open_on(&disk).unwrap();
    let (mut index, mut dumps) = (0, BTreeMap::new());
    for round in 0..12 {
        for _ in 0..20 {
            index += 1;
            apply(
                &mut machine,
                index,
                &[put(format!("k{}", index % 7), vec![b'v'; 150])],
            );
        }
        let revision = shared.revision();
        index += 1;
        apply(&mut machine, index, &[Command::Compact { revision }]);
        for _ in 0..8 {
            index += 1;
            machine.apply(&entry(index, &[])).unwrap();
            machine.checkpoint(true).unwrap();
            dumps.insert(index, dump(&shared));
            let files = checkpoints(&disk);
            if files.len() == 2 {
                let disk = disk.crash_image(round);
                disk.flip_bit(&files[1], 30, 0);
                let (_, older) = open_on(&disk).unwrap();
                assert!(older.applied().index < index);
                assert_eq!(dump(&older), dumps[&older.applied().index]);
            }
        }
    }
}

#[tokio::test]
async fn a_damaged_value_is_an_error_with_file_and_place() {
    let disk = SimDisk::new();
    let (mut machine, shared) = open_on(&disk).unwrap();
    apply(&mut machine, 1, &[put("a", "first"), put("b", "second")]);
    let file = &segments(&disk)[0];
    // Header, then length, checksum and "first", then length and checksum of "second".
    disk.flip_bit(file, 20 + 8 + 5 + 8, 0);
    let op = |key: &'static str| trivet_mvcc::RangeOp::new(KeyRange::Key(key.into()));
    assert_eq!(
        &shared.range(&op("a")).await.unwrap().items[0].value[..],
        b"first"
    );
    let error = shared.range(&op("b")).await.unwrap_err().to_string();
    assert!(
        error.contains("00000001.seg is damaged at byte 33: the checksum is wrong"),
        "{error}"
    );
    machine.checkpoint(true).unwrap();
    drop(machine);
    disk.overwrite(file, b"short");
    let error = open_on(&disk).unwrap_err();
    assert!(
        matches!(&error, OpenError::Damaged(what) if what.contains("00000001.seg")),
        "{error}"
    );
}

#[test]
fn values_larger_than_a_segment_have_one_for_themselves() {
    let disk = SimDisk::new();
    let (mut machine, shared) = open_on(&disk).unwrap();
    for index in 1..=5 {
        apply(
            &mut machine,
            index,
            &[put("large", vec![index as u8; 5000]), put("small", "s")],
        );
    }
    machine.checkpoint(true).unwrap();
    let expected = dump(&shared);
    drop((machine, shared));
    assert_eq!(dump(&open_on(&disk.crash_image(7)).unwrap().1), expected);
}

#[test]
fn a_checkpoint_is_due_by_commands_and_by_bytes() {
    let (mut machine, _) = open_on(&SimDisk::new()).unwrap();
    for index in 1..=19 {
        apply(&mut machine, index, &[put("k", "v")]);
        machine.checkpoint(false).unwrap();
        assert_eq!(machine.durable().index, 0);
    }
    apply(&mut machine, 20, &[put("k", "v")]);
    machine.checkpoint(false).unwrap();
    assert_eq!(machine.durable().index, 20);
    apply(&mut machine, 21, &[put("k", vec![0; 2000])]);
    machine.checkpoint(false).unwrap();
    assert_eq!(machine.durable().index, 21);
}

#[test]
fn entries_without_commands_and_malformed_commands_are_harmless() {
    let (mut machine, shared) = open_on(&SimDisk::new()).unwrap();
    assert!(machine.apply(&entry(1, &[])).unwrap().is_empty());
    let position = LogPosition { term: 1, index: 2 };
    let commands = vec![
        Bytes::from_static(b"\x01\x01nonsense"),
        put("a", "b").encode(),
    ];
    let answers = machine.apply(&AppliedBatch { position, commands }).unwrap();
    let outcome = Outcome::decode(answers[0].clone()).unwrap();
    assert_eq!(outcome.result, Err(crate::state::CommandError::Malformed));
    assert_eq!(shared.revision(), Revision(2));
    // An entry is applied once.
    assert!(machine.apply(&entry(2, &[])).is_err());
    // A command of a later version stops this member, so that it does not go astray.
    let commands = vec![Bytes::from_static(b"\x01\x63")];
    let position = LogPosition { term: 1, index: 3 };
    assert!(machine.apply(&AppliedBatch { position, commands }).is_err());
}

#[test]
fn the_thread_writes_checkpoints_and_removes_what_is_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let limits = small();
    let config = StateConfig {
        limits,
        ..StateConfig::new(Env::real(), dir.path().join("state"))
    };
    let (mut machine, shared) = open(config.clone()).unwrap();
    for index in 1..=300 {
        apply(
            &mut machine,
            index,
            &[put(format!("k{}", index % 7), vec![b'v'; 200])],
        );
        machine.checkpoint(false).unwrap();
    }
    let revision = shared.revision();
    apply(&mut machine, 301, &[Command::Compact { revision }]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut index = 301;
    while shared.size().total_bytes > 8_000 {
        assert!(std::time::Instant::now() < deadline, "{:?}", shared.size());
        index += 1;
        machine.apply(&entry(index, &[])).unwrap();
        machine.checkpoint(true).unwrap();
        std::thread::yield_now();
    }
    let expected = dump(&shared);
    drop((machine, shared));
    let (machine, shared) = open(config).unwrap();
    assert_eq!(dump(&shared).versions, expected.versions);
    assert_eq!(machine.applied(), machine.durable());
}
