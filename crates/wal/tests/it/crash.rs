//! Power loss at every operation.
//!
//! A log after a crash must equal the model after some prefix of the steps, and that prefix
//! contains at least everything acknowledged.

use std::sync::mpsc::Receiver;

use trivet_sim::{SimDisk, SimRng};
use trivet_wal::{Error, MetaKind, Result, Wal, WalOptions};

use crate::model::{Model, Step, random_call};
use crate::support::{ack, at, entries, entry, open, segments, tiny};

const KINDS: u8 = 3;
/// Written lazily; its value is a step count.
const LAZY: MetaKind = MetaKind(9);

/// What may be found after a crash.
#[derive(Default)]
struct Expected {
    base: Model,
    steps: Vec<Step>,
    acknowledged: usize,
}

impl Expected {
    /// Checks a reopened log, which becomes the new base.
    fn check(&mut self, wal: &Wal, context: &str) {
        let found = Model::of(wal, KINDS);
        let mut model = self.base.clone();
        for step in &self.steps[..self.acknowledged] {
            model.apply(step);
        }
        let mut rest = self.steps[self.acknowledged..].iter();
        while model != found {
            let Some(step) = rest.next() else {
                panic!(
                    "{context}: acknowledged {} of {:#?}\nfound {found:#?}",
                    self.acknowledged, self.steps
                );
            };
            model.apply(step);
        }
        *self = Self {
            base: model,
            ..Self::default()
        };
    }

    fn latest(&self) -> Model {
        let mut model = self.base.clone();
        self.steps.iter().for_each(|step| model.apply(step));
        model
    }
}

fn call(wal: &Wal, steps: &[Step]) -> Result<Receiver<Result<()>>> {
    let (done, receiver) = ack();
    match &steps[0] {
        Step::Push(_) => {
            let pushed = steps.iter().map(|step| match step {
                Step::Push(entry) => entry.clone(),
                other => panic!("{other:?} in an append"),
            });
            wal.append(pushed.collect(), done)?;
        }
        Step::Truncate(after) => wal.truncate_after(*after, done)?,
        Step::Purge(to) => wal.purge_up_to(*to, done)?,
        Step::Meta(kind, value) => wal.put_meta(*kind, value.clone(), done)?,
    }
    Ok(receiver)
}

/// Runs random calls until they are used up or the disk dies.
fn work(wal: &Wal, expected: &mut Expected, rng: &SimRng, calls: usize, wait_percent: u64) {
    let mut waiting: Vec<(usize, Receiver<Result<()>>)> = Vec::new();
    let mut model = expected.latest();
    let term = 1 + rng.below(1000);
    for _ in 0..calls {
        let steps = random_call(&model, term + rng.below(2), rng);
        let Ok(receiver) = call(wal, &steps) else {
            break;
        };
        steps.iter().for_each(|step| model.apply(step));
        expected.steps.extend(steps);
        assert_eq!(
            wal.state(),
            model.state(),
            "callers see their changes at once"
        );
        waiting.push((expected.steps.len(), receiver));
        if rng.chance(20) {
            let _ = wal.put_meta_lazy(LAZY, expected.steps.len().to_string().into());
        }
        if rng.chance(wait_percent) {
            collect(&mut waiting, expected);
        }
    }
    collect(&mut waiting, expected);
}

fn collect(waiting: &mut Vec<(usize, Receiver<Result<()>>)>, expected: &mut Expected) {
    let mut failed = false;
    for (steps, receiver) in waiting.drain(..) {
        match receiver.recv().expect("every accepted call is answered") {
            Ok(()) => {
                assert!(!failed, "nothing succeeds after a failure");
                expected.acknowledged = steps;
            }
            Err(_) => failed = true,
        }
    }
}

/// Each call waits and nothing runs in the background: the operations are the same each time.
fn scripted(disk: &SimDisk, seed: u64) -> Expected {
    let mut expected = Expected::default();
    let rng = SimRng::new(seed);
    if let Ok((wal, _)) = open(disk, tiny(false)) {
        work(&wal, &mut expected, &rng, 45, 100);
    }
    expected
}

fn assert_unbroken(disk: &SimDisk, context: &str) {
    let names: Vec<u64> = segments(disk)
        .iter()
        .map(|path| u64::from_str_radix(path.file_stem().unwrap().to_str().unwrap(), 16).unwrap())
        .collect();
    assert!(
        names.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "{context}: {names:?}"
    );
}

#[test]
fn crash_at_every_operation() {
    for seed in 0..3 {
        let dry = SimDisk::new();
        scripted(&dry, seed);
        let operations = dry.operations();
        assert!(operations > 80, "{operations} operations");
        for crash in 0..operations {
            let disk = SimDisk::new();
            disk.crash_at(crash);
            let expected = scripted(&disk, seed);
            for image in 0..4 {
                let context = format!("seed {seed}, crash {crash}, image {image}");
                let disk = disk.crash_image(image);
                let mut expected = Expected {
                    base: expected.base.clone(),
                    steps: expected.steps.clone(),
                    acknowledged: expected.acknowledged,
                };
                let (wal, _) =
                    open(&disk, tiny(false)).unwrap_or_else(|e| panic!("{context}: {e}"));
                expected.check(&wal, &context);
                assert_unbroken(&disk, &context);
                // It must also go on from here: what is left of the torn write must not show.
                work(&wal, &mut expected, &SimRng::new(crash), 5, 50);
                drop(wal);
                let (wal, recovered) = open(&disk, tiny(false)).unwrap();
                assert_eq!(recovered.torn_bytes, 0, "{context}");
                assert_eq!(expected.acknowledged, expected.steps.len());
                expected.check(&wal, &context);
            }
        }
    }
}

#[test]
fn many_lives_with_many_deaths() {
    for seed in 0..200 {
        let rng = SimRng::new(seed);
        let mut disk = SimDisk::new();
        let mut expected = Expected::default();
        for life in 0..5 {
            let options = WalOptions {
                spares_max: rng.below(3) as usize,
                ..tiny(rng.chance(50))
            };
            // Small numbers die while opening.
            disk.crash_at(rng.below(90));
            match open(&disk, options) {
                Ok((wal, _)) => {
                    // Removing what was purged may meet the crash without failing the call.
                    if !disk.crashed() {
                        expected.check(&wal, &format!("seed {seed}, life {life}"));
                        work(&wal, &mut expected, &rng, 60, 30);
                    }
                    disk.crash();
                }
                Err(error) => {
                    let crash = matches!(error, Error::Io { .. });
                    assert!(crash, "seed {seed}, life {life}: {error}");
                }
            }
            disk = disk.crash_image(seed * 100 + life);
        }
        let (wal, _) = open(&disk, tiny(true)).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        expected.check(&wal, &format!("seed {seed}, last life"));
    }
}

#[test]
fn a_lazy_value_never_overtakes_the_entries_before_it() {
    for seed in 0..60 {
        let disk = SimDisk::new();
        disk.crash_at(10 + seed);
        if let Ok((wal, _)) = open(&disk, tiny(false)) {
            for index in 1..100u64 {
                let (done, receiver) = ack();
                let entry = entry(index, 1, &[7; 30]);
                if wal.append(vec![entry], done).is_err() {
                    break;
                }
                let _ = wal.put_meta_lazy(LAZY, index.to_string().into());
                if index % 7 == 0 {
                    let _ = receiver.recv();
                }
            }
        }
        let (wal, _) = open(&disk.crash_image(seed), tiny(false)).unwrap();
        let last = wal.state().last.map_or(0, |last| last.index);
        let lazy = wal.meta(LAZY).map_or(0, |value| {
            std::str::from_utf8(&value).unwrap().parse::<u64>().unwrap()
        });
        assert!(lazy <= last, "seed {seed}: {lazy} of {last}");
    }
}

/// The second of two records of a torn batch reached the disk and the first did not. A record
/// of the first one's size, written later, must not bring the second back.
#[test]
fn the_rest_of_a_torn_batch_stays_dead() {
    let options = WalOptions {
        segment_bytes_first: 65536,
        segment_bytes_max: 65536,
        ..tiny(false)
    };
    // Header and first record fill one block, so that padding does not hide the second.
    let first = |byte| entry(1, 1, &[byte; 4096 - 64 - 32]);
    let mut tried = 0;
    for seed in 0..100 {
        let disk = SimDisk::new();
        let (wal, _) = open(&disk, options.clone()).unwrap();
        // Name, size and directory sync of the segment come first, then the write.
        disk.crash_at(disk.operations() + 4);
        let (done, receiver) = ack();
        wal.append(vec![first(1), entry(2, 1, b"second")], done)
            .unwrap();
        receiver.recv().unwrap().unwrap_err();
        let disk = disk.crash_image(seed);
        let Ok((wal, recovered)) = open(&disk, options.clone()) else {
            panic!("seed {seed}")
        };
        if recovered.torn_bytes == 0 {
            continue;
        }
        tried += 1;
        let (done, receiver) = ack();
        wal.append(vec![first(9)], done).unwrap();
        receiver.recv().unwrap().unwrap();
        let (wal, _) = open(&disk.crash_image(0), options.clone()).unwrap();
        assert_eq!(entries(&wal).unwrap(), [first(9)], "seed {seed}");
    }
    assert!(tried > 3, "{tried} of the crashes tore the batch");
}

/// The first write of a segment was torn behind its header: the copies of meta values are not
/// complete, and the segment before is the only one that has them.
#[test]
fn a_segment_without_all_its_copies_was_never_begun() {
    let value = || bytes::Bytes::from(vec![3; 2000]);
    for seed in 0..100 {
        let disk = SimDisk::new();
        let options = WalOptions {
            segment_bytes_first: 4096,
            ..tiny(false)
        };
        let (wal, _) = open(&disk, options.clone()).unwrap();
        wal.put_meta(MetaKind(0), value(), ack().0).unwrap();
        wal.append(vec![entry(1, 1, &[1; 1800])], ack().0).unwrap();
        wal.flush().unwrap();
        disk.crash_at(disk.operations() + 4);
        wal.append(vec![entry(2, 1, &[2; 1000])], ack().0).unwrap();
        wal.flush().unwrap_err();
        let disk = disk.crash_image(seed);
        let (wal, _) = open(&disk, options.clone()).unwrap();
        wal.purge_up_to(at(2, 1), ack().0).unwrap();
        wal.close().unwrap();
        let (wal, _) = open(&disk.crash_image(seed), options).unwrap();
        assert_eq!(wal.meta(MetaKind(0)), Some(value()), "seed {seed}");
    }
}

/// A killed process leaves records in the page cache that were never synced. What the next
/// process finds there it may tell others: it must be durable by then.
#[test]
fn what_was_recovered_after_a_kill_survives_a_power_loss() {
    for seed in 0..20 {
        let disk = SimDisk::new();
        let (wal, _) = open(&disk, tiny(false)).unwrap();
        // Name, size, directory sync and write succeed, the sync does not.
        disk.crash_at(disk.operations() + 4);
        wal.append(vec![entry(1, 1, b"one")], ack().0).unwrap();
        wal.flush().unwrap_err();
        drop(wal);
        disk.restart_process();
        let (wal, _) = open(&disk, tiny(false)).unwrap();
        assert_eq!(entries(&wal).unwrap(), [entry(1, 1, b"one")]);
        let (wal, _) = open(&disk.crash_image(seed), tiny(false)).unwrap();
        assert_eq!(entries(&wal).unwrap(), [entry(1, 1, b"one")], "seed {seed}");
    }
}
