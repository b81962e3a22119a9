//! Crashes at every I/O operation.

use std::io;

use super::*;

/// Applies a log, with a checkpoint now and then. Answers how far it got.
fn run(disk: &SimDisk, log: &[AppliedBatch]) -> io::Result<()> {
    let (mut machine, _) = open_on(disk).map_err(io::Error::other)?;
    for (number, batch) in log.iter().enumerate() {
        machine.apply(batch)?;
        machine.checkpoint(number % 23 == 22)?;
    }
    Ok(())
}

/// What a member that never crashed has after each entry.
fn reference(log: &[AppliedBatch]) -> Vec<(Dump, Vec<Bytes>)> {
    let (mut machine, shared) = open_on(&SimDisk::new()).unwrap();
    log.iter()
        .map(|batch| {
            let answers = machine.apply(batch).unwrap();
            (dump(&shared), answers)
        })
        .collect()
}

/// Opens what is left, checks it, and applies the rest of the log.
fn recover(
    disk: &SimDisk,
    log: &[AppliedBatch],
    expected: &[(Dump, Vec<Bytes>)],
    what: &str,
) -> u64 {
    let (mut machine, shared) = open_on(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = machine.applied();
    assert_eq!(found, machine.durable(), "{what}");
    if found.index > 0 {
        assert_eq!(
            dump(&shared),
            expected[found.index as usize - 1].0,
            "{what}: recovered"
        );
    }
    for batch in &log[found.index as usize..] {
        let answers = machine.apply(batch).unwrap();
        assert_eq!(
            answers,
            expected[batch.position.index as usize - 1].1,
            "{what}: answers"
        );
        machine.checkpoint(false).unwrap();
    }
    assert_eq!(dump(&shared), expected[log.len() - 1].0, "{what}: replayed");
    found.index
}

#[test]
fn a_crash_at_any_operation_loses_nothing_that_was_durable() {
    let log = workload(1, 90);
    let expected = reference(&log);
    let whole = SimDisk::new();
    run(&whole, &log).unwrap();
    let operations = whole.operations();
    assert!(operations > 100, "the workload has {operations} operations");
    let mut recovered = 0;
    for crash in 0..operations {
        let disk = SimDisk::new();
        disk.crash_at(crash);
        // What was durable before the crash is durable after it.
        let durable = {
            let mut durable = 0;
            if let Ok((mut machine, _)) = open_on(&disk) {
                for (number, batch) in log.iter().enumerate() {
                    if machine.apply(batch).is_err()
                        || machine.checkpoint(number % 23 == 22).is_err()
                    {
                        break;
                    }
                    durable = machine.durable().index;
                }
            }
            durable
        };
        for seed in 0..2 {
            let what = format!("crash at operation {crash}, image {seed}");
            let found = recover(&disk.crash_image(seed), &log, &expected, &what);
            assert!(found >= durable, "{what}: {found} of {durable}");
            recovered = recovered.max(found);
        }
    }
    assert!(recovered > 0);
}

#[test]
fn a_second_crash_during_recovery_loses_nothing_either() {
    let log = workload(2, 60);
    let expected = reference(&log);
    let disk = SimDisk::new();
    run(&disk, &log[..45]).unwrap();
    for seed in 0..4 {
        let first = disk.crash_image(seed);
        for crash in 0..40 {
            let again = first.crash_image(0);
            again.crash_at(crash);
            let _ = open_on(&again).map(|(mut machine, _)| {
                let from = machine.applied().index as usize;
                log[from..].iter().try_for_each(|batch| {
                    machine.apply(batch)?;
                    machine.checkpoint(batch.position.index % 5 == 0)
                })
            });
            let what = format!("image {seed}, second crash at {crash}");
            recover(&again.crash_image(seed + 100), &log, &expected, &what);
        }
    }
}

/// What a killed process left behind is not durable because its successor finds it.
#[test]
fn what_is_called_durable_after_a_kill_survives_a_power_loss() {
    let log = workload(5, 60);
    let expected = reference(&log);
    let whole = SimDisk::new();
    run(&whole, &log).unwrap();
    for crash in 0..whole.operations() {
        let disk = SimDisk::new();
        disk.crash_at(crash);
        run(&disk, &log).unwrap_err();
        disk.restart_process();
        let (machine, _) = open_on(&disk).unwrap();
        let durable = machine.durable().index;
        drop(machine);
        for seed in 0..4 {
            let what = format!("kill at operation {crash}, image {seed}");
            let found = recover(&disk.crash_image(seed), &log, &expected, &what);
            assert!(found >= durable, "{what}: {found} of {durable}");
        }
    }
}

#[test]
fn a_failed_sync_ends_the_state() {
    let log = workload(3, 60);
    let disk = SimDisk::new();
    disk.fail_sync_at(0);
    let (mut machine, shared) = open_on(&disk).unwrap();
    let failed = log.iter().position(|batch| {
        machine.apply(batch).unwrap();
        machine.checkpoint(true).is_err()
    });
    assert_eq!(failed, Some(0));
    assert!(machine.apply(&log[1]).is_err());
    assert!(machine.checkpoint(true).is_err());
    assert!(shared.export(None).is_err());
}

#[test]
fn a_full_disk_is_an_error_and_not_a_loss() {
    let log = workload(4, 80);
    let expected = reference(&log);
    let disk = SimDisk::new();
    disk.set_space_left(Some(16 * 1024));
    assert!(run(&disk, &log).is_err());
    disk.set_space_left(None);
    recover(&disk, &log, &expected, "after the disk was full");
}
