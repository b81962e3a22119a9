//! Files written and read again, whole and damaged.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use trivet_bbolt::{
    Database, Error, Limits, MAX_KEY_BYTES, PAGE_BYTES, PlanError, Planner, WriteError, Writer,
};

type Tree = BTreeMap<Vec<u8>, Vec<u8>>;
type Content = BTreeMap<Vec<u8>, Tree>;

const LIMITS: Limits = Limits {
    value_bytes: 1 << 24,
};

fn write(content: &Content) -> Vec<u8> {
    let mut planner = Planner::new();
    for (name, entries) in content {
        planner.bucket(name).unwrap();
        for (key, value) in entries {
            planner.entry(key, value.len()).unwrap();
        }
    }
    let plan = planner.finish().unwrap();
    let size = plan.size_bytes();
    let mut writer = Writer::new(plan);
    let mut file = writer.take();
    for (name, entries) in content {
        writer.bucket(name).unwrap();
        for (key, value) in entries {
            writer.entry(key, value).unwrap();
            // Nothing piles up: a page or three long keys per level of the tree, and the entry.
            let most = 3 * (3 * MAX_KEY_BYTES + 2 * PAGE_BYTES) + value.len() + key.len();
            assert!(writer.ready_bytes() <= most);
            file.extend(writer.take());
        }
    }
    writer.finish().unwrap();
    file.extend(writer.take());
    assert_eq!(
        file.len() as u64,
        size,
        "the plan says how long the file is"
    );
    file
}

fn read(file: &[u8]) -> Result<Content, Error> {
    let database = Database::open(file, file.len() as u64, LIMITS)?;
    let mut content = Content::new();
    for bucket in database.buckets()? {
        let entries = content.entry(bucket.name().to_vec()).or_default();
        let mut cursor = database.entries(&bucket);
        while let Some(entry) = cursor.next()? {
            entries.insert(entry.key, entry.value);
        }
    }
    Ok(content)
}

fn numbered(count: u64, value_bytes: usize) -> Tree {
    (0..count)
        .map(|number| {
            let value = vec![number as u8; value_bytes];
            (number.to_be_bytes().to_vec(), value)
        })
        .collect()
}

#[test]
fn every_size_of_tree_is_read_as_it_was_written() {
    for count in (0..40).chain([113, 145, 146, 20_000]) {
        let content = Content::from([(b"key".to_vec(), numbered(count, 10))]);
        assert_eq!(read(&write(&content)).unwrap(), content, "{count} entries");
    }
}

#[test]
fn values_of_every_size_around_a_page_fit() {
    let sizes = (4020..4070).chain([0, 1, 8191, 8192, 65_536, 1 << 20]);
    for size in sizes {
        let content = Content::from([
            (b"empty".to_vec(), Tree::new()),
            (b"key".to_vec(), numbered(3, size)),
        ]);
        assert_eq!(read(&write(&content)).unwrap(), content, "{size} bytes");
    }
}

#[test]
fn long_keys_make_branches_that_go_on() {
    let entries = (0..200u32).map(|number| {
        let mut key = number.to_be_bytes().to_vec();
        key.resize(3000 + (number as usize * 997) % 29_000, 7);
        (key, vec![1])
    });
    let content = Content::from([(b"key".to_vec(), entries.collect())]);
    assert_eq!(read(&write(&content)).unwrap(), content);
}

#[test]
fn no_branch_has_a_single_child() {
    for count in (1..600).step_by(3).chain([9000]) {
        let file = write(&Content::from([(b"b".to_vec(), numbered(count, 1500))]));
        for page in file.chunks(PAGE_BYTES).skip(3) {
            // Pages that go on hold values, which are never 1.
            let (flags, entries) = (page[8], page[10]);
            assert!(flags != 1 || entries > 1, "{count} entries");
        }
    }
}

#[test]
fn a_file_without_buckets_is_a_file() {
    let file = write(&Content::new());
    assert_eq!(file.len(), 4 * PAGE_BYTES);
    assert_eq!(read(&file).unwrap(), Content::new());
}

#[test]
fn what_cannot_be_planned_is_refused() {
    let mut planner = Planner::new();
    assert_eq!(planner.entry(b"a", 1), Err(PlanError::NoBucket));
    planner.bucket(b"b").unwrap();
    planner.entry(b"k", 1).unwrap();
    assert_eq!(planner.entry(b"k", 1), Err(PlanError::Order));
    assert_eq!(planner.entry(b"", 1), Err(PlanError::Size));
    assert_eq!(planner.entry(&[9; 32_769], 1), Err(PlanError::Size));
    assert_eq!(planner.entry(b"l", usize::MAX), Err(PlanError::Size));
    assert_eq!(planner.bucket(b"a"), Err(PlanError::Order));
}

#[test]
fn a_second_pass_that_differs_is_noticed() {
    let plan = || {
        let mut planner = Planner::new();
        planner.bucket(b"b").unwrap();
        for number in 0..100u8 {
            planner.entry(&[number], 100).unwrap();
        }
        planner.finish().unwrap()
    };
    assert_eq!(Writer::new(plan()).bucket(b"c"), Err(WriteError::Differs));
    assert_eq!(Writer::new(plan()).finish(), Err(WriteError::Differs));
    let mut writer = Writer::new(plan());
    writer.bucket(b"b").unwrap();
    for number in 0..100u8 {
        writer.entry(&[number], &[0; 200]).unwrap();
    }
    assert_eq!(writer.finish(), Err(WriteError::Differs));
}

fn sample() -> Vec<u8> {
    write(&Content::from([
        (b"key".to_vec(), numbered(3000, 40)),
        (b"meta".to_vec(), numbered(2, 5000)),
    ]))
}

#[test]
fn a_file_that_is_cut_off_is_refused() {
    let file = sample();
    for length in [0, 100, PAGE_BYTES, file.len() / 2, file.len() - 1] {
        let result = read(&file[..length]);
        assert!(
            matches!(result, Err(Error::NotADatabase(_) | Error::CutOff { .. })),
            "{length}: {result:?}"
        );
    }
}

#[test]
fn either_head_is_enough_and_the_newer_one_counts() {
    let good = sample();
    let content = read(&good).unwrap();
    for head in 0..2 {
        let mut file = good.clone();
        file[head * PAGE_BYTES + 40] ^= 1;
        assert_eq!(read(&file).unwrap(), content);
    }
    let mut file = good;
    for head in 0..2 {
        file[head * PAGE_BYTES + 40] ^= 1;
    }
    assert!(matches!(read(&file), Err(Error::NotADatabase(_))));
}

/// Puts a page number into the first branch element of the tree and expects that the walk ends.
#[test]
fn a_tree_that_goes_in_circles_is_noticed() {
    let good = sample();
    let mut circles = 0;
    for page in 3..good.len() / PAGE_BYTES {
        let start = page * PAGE_BYTES;
        // The inside of a value looks otherwise.
        if good[start..start + 8] != (page as u64).to_le_bytes() || good[start + 8] != 1 {
            continue;
        }
        let elements = usize::from(u16::from_le_bytes([good[start + 10], good[start + 11]]));
        for target in [page as u64, page as u64 - 1, 3] {
            // Behind the last one lie the keys.
            for element in [0, 5].into_iter().filter(|element| *element < elements) {
                let mut file = good.clone();
                let at = start + 16 + 16 * element + 8;
                if file[at..at + 8] == target.to_le_bytes() {
                    continue;
                }
                file[at..at + 8].copy_from_slice(&target.to_le_bytes());
                let result = read(&file);
                assert!(
                    matches!(result, Err(Error::Damaged { .. })),
                    "page {page}, element {element} to {target}"
                );
                circles += 1;
            }
        }
    }
    assert!(circles > 5);
}

#[test]
fn a_value_beyond_the_limit_is_refused_before_it_is_read() {
    let file = write(&Content::from([(b"b".to_vec(), numbered(1, 100))]));
    let database = Database::open(&file[..], file.len() as u64, Limits { value_bytes: 99 });
    let database = database.unwrap();
    let bucket = database.bucket(b"b").unwrap().unwrap();
    let result = database.entries(&bucket).next();
    assert!(
        matches!(
            result,
            Err(Error::ValueTooLarge {
                value_bytes: 100,
                max_bytes: 99,
                ..
            })
        ),
        "{result:?}"
    );
}

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(48)
    }
}

fn any_content() -> impl Strategy<Value = Content> {
    let key = prop::collection::vec(any::<u8>(), 1..40);
    let value = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..60),
        2 => prop::collection::vec(any::<u8>(), 3000..9000),
    ];
    let name = prop::collection::vec(any::<u8>(), 1..8);
    prop::collection::btree_map(name, prop::collection::btree_map(key, value, 0..100), 0..5)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_content_comes_back(content in any_content()) {
        prop_assert_eq!(read(&write(&content)).unwrap(), content);
    }

    #[test]
    fn damage_never_panics(
        content in any_content(),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = write(&content);
        for (place, byte) in places {
            let at = place.index(file.len());
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        // Reading ends, with whatever result.
        drop(read(&file));
    }

    #[test]
    fn damaged_tables_never_panic(
        content in any_content(),
        page in any::<prop::sample::Index>(),
        at in 0..64usize,
        bytes in prop::collection::vec(any::<u8>(), 1..16),
    ) {
        let mut file = write(&content);
        let page = page.index(file.len() / PAGE_BYTES);
        let start = page * PAGE_BYTES + at;
        file[start..start + bytes.len()].copy_from_slice(&bytes);
        drop(read(&file));
    }
}
