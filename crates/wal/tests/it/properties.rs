//! Random calls, reopening in between, against the model; and arbitrary bytes as files.

use proptest::collection::vec;
use proptest::prelude::*;
use trivet_sim::{SimDisk, SimRng};
use trivet_wal::Wal;

use crate::model::{Model, Step, random_call};
use crate::support::{DIR, ack, open, segments, tiny};

fn run(wal: &Wal, steps: &[Step]) {
    let (done, receiver) = ack();
    match &steps[0] {
        Step::Push(_) => {
            let entries = steps.iter().filter_map(|step| match step {
                Step::Push(entry) => Some(entry.clone()),
                _ => None,
            });
            wal.append(entries.collect(), done).unwrap();
        }
        Step::Truncate(after) => wal.truncate_after(*after, done).unwrap(),
        Step::Purge(to) => wal.purge_up_to(*to, done).unwrap(),
        Step::Meta(kind, value) => wal.put_meta(*kind, value.clone(), done).unwrap(),
    }
    drop(receiver);
}

/// Every question has the model's answer.
fn compare(wal: &Wal, model: &Model) {
    assert_eq!(&Model::of(wal, 3), model);
    assert_eq!(wal.state(), model.state());
    for index in 0..model.next().unwrap_or(0) + 3 {
        let entry = model.entries.get(&index);
        let purged = model.purged.filter(|purged| purged.index == index);
        let term = entry
            .map(|entry| entry.term)
            .or(purged.map(|purged| purged.term));
        assert_eq!(wal.term_at(index), term, "term of {index}");
        assert_eq!(
            wal.read(index..index + 1, 0).ok(),
            entry.map(|entry| vec![entry.clone()])
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model(seed in any::<u64>(), reopen in vec(any::<bool>(), 60), ahead in any::<bool>()) {
        let disk = SimDisk::new();
        let rng = SimRng::new(seed);
        let mut model = Model::default();
        let (mut wal, _) = open(&disk, tiny(ahead)).unwrap();
        for (number, reopen) in reopen.into_iter().enumerate() {
            for _ in 0..3 {
                let steps = random_call(&model, 1 + number as u64 / 4, &rng);
                run(&wal, &steps);
                steps.iter().for_each(|step| model.apply(step));
                prop_assert_eq!(wal.state(), model.state());
            }
            if reopen && number % 4 == 0 {
                wal.close().unwrap();
                let (next, recovered) = open(&disk, tiny(ahead)).unwrap();
                prop_assert_eq!(recovered.state, model.state());
                prop_assert_eq!(recovered.torn_bytes, 0);
                wal = next;
            }
            compare(&wal, &model);
        }
        // Purged segments go: what is left is in proportion to what is there.
        wal.purge_up_to(
            trivet_wal::Position { index: model.next().unwrap_or(0) + 100, term: 1 },
            ack().0,
        ).unwrap();
        wal.close().unwrap();
        prop_assert!(segments(&disk).len() <= 2, "{:?}", segments(&disk));
    }

    #[test]
    fn arbitrary_files_never_panic(files in vec((0u8..8, vec(any::<u8>(), 0..300)), 0..6)) {
        let disk = SimDisk::new();
        let (wal, _) = open(&disk, tiny(false)).unwrap();
        wal.append(vec![crate::support::entry(1, 1, b"one")], ack().0).unwrap();
        wal.close().unwrap();
        drop(wal);
        let names = ["log.id", "0000000000000001.wal", "0000000000000002.wal",
            "0000000000000007.wal", "ffffffffffffffff.wal", "0000000000000003.spare", "preparing", "other"];
        for (name, content) in files {
            disk.overwrite(&std::path::Path::new(DIR).join(names[name as usize]), &content);
        }
        // Opening may fail; it may not panic, and what it opens must work.
        if let Ok((wal, recovered)) = open(&disk, tiny(true)) {
            let next = recovered.state.last.map_or(0, |last| last.index + 1);
            let (done, receiver) = ack();
            wal.append(vec![crate::support::entry(next, 9, b"next")], done).unwrap();
            receiver.recv().unwrap().unwrap();
        }
    }

    #[test]
    fn a_valid_file_with_arbitrary_changes_never_panics(seed in any::<u64>(), changes in 1usize..40) {
        let disk = SimDisk::new();
        let rng = SimRng::new(seed);
        let (wal, _) = open(&disk, tiny(false)).unwrap();
        for index in 0..60 {
            wal.append(vec![crate::support::entry(index, 1, &[1; 50])], ack().0).unwrap();
        }
        wal.close().unwrap();
        drop(wal);
        let files = segments(&disk);
        for _ in 0..changes {
            let path = &files[rng.below(files.len() as u64) as usize];
            let mut content = disk.content(path);
            let at = rng.below(content.len() as u64) as usize;
            match rng.below(4) {
                0 => content.truncate(at),
                1 => content[at] = rng.below(256) as u8,
                2 => {
                    // A whole sector turns into something else.
                    let sector = at / 512 * 512;
                    let end = (sector + 512).min(content.len());
                    content[sector..end].reverse();
                }
                _ => {
                    let end = (at + 64).min(content.len());
                    content[at..end].fill(0);
                }
            }
            if content.is_empty() {
                content.push(0);
            }
            disk.overwrite(path, &content);
        }
        if let Ok((wal, recovered)) = open(&disk, tiny(false))
            && recovered.state.last.is_some()
        {
            let _ = crate::support::entries(&wal);
        }
    }
}
