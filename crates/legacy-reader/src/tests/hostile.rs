//! Arbitrary bytes: reading ends, without a panic, and never invents data silently.

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use tempfile::TempDir;

use super::build::{MemoryDir, Source, batch, frames, lz4, meta, segment, snapshot};
use crate::{dqlite, sqlite};

/// A healthy directory: a snapshot, a closed and an open segment.
static HEALTHY: LazyLock<MemoryDir> = LazyLock::new(|| {
    let mut source = Source::new(512);
    let mut one = |transaction: u64| {
        source.put("/registry/x", 10);
        let (pages, size) = source.changes();
        (frames(transaction, size, true, 512, &pages), source.file())
    };
    let commands: Vec<_> = (0..6).map(&mut one).collect();
    let log = |range: std::ops::Range<usize>| -> Vec<Vec<u8>> {
        commands[range].iter().map(|(c, _)| c.clone()).collect()
    };
    let mut open = segment(&log(4..6));
    open.resize(open.len() + 200, 0);
    MemoryDir::default()
        .with(
            "metadata1",
            [[1; 8], [2; 8], [3; 8], [0; 8]]
                .map(|w: [u8; 8]| u64::from(w[0]).to_le_bytes())
                .concat(),
        )
        .with("1-4", segment(&log(0..4)))
        .with("open-1", open)
        .with("snapshot-1-2-7", snapshot(&commands[1].1, &[]))
        .with("snapshot-1-2-7.meta", meta())
});

fn rows(dir: &MemoryDir) -> (Option<u64>, usize) {
    let scratch = TempDir::new().unwrap();
    match dqlite::read(dir, "", scratch.path()) {
        Ok(read) => {
            // Whatever the pages hold, looking at the rows must end too.
            let rows = read.kine.and_then(|kine| {
                let _ = kine.for_each_row(|_| Ok(()));
                let _ = kine.for_each_live(|_| Ok(()));
                kine.summary().ok().map(|summary| summary.rows)
            });
            (rows, read.damage.len())
        }
        Err(_) => (None, 1),
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let format = prop_oneof![Just(1_u64), Just(0), any::<u64>()];
    (format, prop::collection::vec(any::<u8>(), 0..600)).prop_map(|(format, rest)| {
        let mut bytes = format.to_le_bytes().to_vec();
        bytes.extend(rest);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_of_noise(files in prop::collection::vec((0..7_usize, bytes()), 1..5)) {
        let names = ["1-4", "2-3", "open-1", "open-2", "snapshot-1-2-3", "snapshot-1-2-3.meta", "metadata1"];
        let dir = files.into_iter().fold(MemoryDir::default(), |dir, (name, bytes)| dir.with(names[name], bytes));
        rows(&dir);
    }

    /// Checksums hold, the content is noise.
    #[test]
    fn commands_of_noise(kind in 0..5_u8, body in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut command = vec![1, kind, 0, 0, 0, 0, 0, 0];
        command.extend(body);
        let mut log = 1_u64.to_le_bytes().to_vec();
        log.extend(batch(&[(1, command)]));
        rows(&MemoryDir::default().with("open-1", log));
    }

    #[test]
    fn pages_of_noise(
        size in prop_oneof![0..10_u32, any::<u32>()],
        numbers in prop::collection::vec(prop_oneof![0..10_u64, any::<u64>()], 1..4),
        noise in prop::collection::vec((0..512_usize, any::<u8>()), 1..40),
    ) {
        let mut source = Source::new(512);
        source.put("/registry/x", 2000);
        let (mut pages, _) = source.changes();
        let count = pages.len();
        for (place, (at, byte)) in noise.into_iter().enumerate() {
            pages[place % count].1[at] = byte;
        }
        for (place, number) in numbers.into_iter().enumerate() {
            pages[place % count].0 = number;
        }
        let log = segment(&[frames(1, size, true, 512, &pages)]);
        rows(&MemoryDir::default().with("open-1", log));
    }

    #[test]
    fn snapshots_of_noise(data in bytes(), compressed in any::<bool>()) {
        let data = if compressed { lz4(&data) } else { data };
        rows(&MemoryDir::default().with("snapshot-1-2-3", data).with("snapshot-1-2-3.meta", meta()));
    }

    #[test]
    fn sqlite_files_of_noise(main in bytes(), wal in bytes(), genuine in any::<bool>()) {
        let main = if genuine { Source::new(512).file() } else { main };
        let dir = MemoryDir::default().with("state.db", main).with("state.db-wal", wal);
        let scratch = TempDir::new().unwrap();
        let _ = sqlite::read(&dir, "state.db", scratch.path());
    }

    /// The log has checksums: a changed byte in it is noticed or makes no difference.
    #[test]
    fn one_changed_byte(file in 0..4_usize, place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let names = ["1-4", "open-1", "snapshot-1-2-7.meta", "snapshot-1-2-7"];
        let mut dir = HEALTHY.clone();
        let bytes = dir.0.get_mut(names[file]).unwrap();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let (found, damage) = rows(&dir);
        if damage == 0 && names[file] != "snapshot-1-2-7" {
            prop_assert_eq!(found, Some(6));
        }
    }

    /// The end of the last segment may be missing; anything else is noticed.
    #[test]
    fn cut_files(file in 0..4_usize, place in any::<prop::sample::Index>()) {
        let names = ["1-4", "open-1", "snapshot-1-2-7.meta", "snapshot-1-2-7"];
        let mut dir = HEALTHY.clone();
        let bytes = dir.0.get_mut(names[file]).unwrap();
        let place = place.index(bytes.len());
        bytes.truncate(place);
        let (found, damage) = rows(&dir);
        if damage == 0 && names[file] != "open-1" {
            prop_assert_eq!(found, Some(6));
        }
    }
}

#[test]
fn the_healthy_one_is_healthy() {
    assert_eq!(rows(&HEALTHY), (Some(6), 0));
}

#[test]
fn without_room_for_scratch_files_it_is_an_error() {
    let error = dqlite::read(&*HEALTHY, "", Path::new("/proc/none")).unwrap_err();
    assert!(error.to_string().contains("/proc/none"), "{error}");
}
