//! Ways a log can go that no fixture shows.

use tempfile::TempDir;

use super::build::{
    MemoryDir, Source, batch, configuration, frames, lz4, meta, segment, snapshot, undo,
};
use crate::{Dqlite, dqlite};

fn read(dir: &MemoryDir) -> Dqlite {
    let scratch = TempDir::new().unwrap();
    dqlite::read(dir, "", scratch.path()).unwrap()
}

fn rows(read: &Dqlite) -> Option<u64> {
    read.kine.as_ref().map(|kine| kine.summary().unwrap().rows)
}

fn damage(read: &Dqlite) -> Vec<String> {
    read.damage
        .iter()
        .map(|damage| format!("{}@{}", damage.file, damage.offset))
        .collect()
}

/// Commands that add one row each, in the old or the new style.
fn puts(source: &mut Source, count: usize, old_style: bool) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| {
            source.put(&format!("/registry/x/{n}"), 10);
            let (pages, size) = source.changes();
            if old_style {
                frames(n as u64 + 100, size, true, source.page_bytes, &pages)
            } else {
                frames(0, 0, true, source.page_bytes, &pages)
            }
        })
        .collect()
}

#[test]
fn every_page_size_and_both_styles() {
    for page_bytes in [512, 1024, 4096, 32768, 65536] {
        for old_style in [true, false] {
            let mut source = Source::new(page_bytes);
            let commands = puts(&mut source, 3, old_style);
            let read = read(&MemoryDir::default().with("1-3", segment(&commands)));
            assert_eq!(damage(&read), [""; 0]);
            assert_eq!(rows(&read), Some(3), "{page_bytes}");
            let mut image = Vec::new();
            read.kine.unwrap().write_image(&mut image).unwrap();
            let mut expected = source.file();
            (expected[18], expected[19]) = (1, 1);
            assert!(image == expected);
        }
    }
}

#[test]
fn undone_and_abandoned_transactions_leave_no_trace() {
    let mut source = Source::new(4096);
    let mut commands = puts(&mut source, 2, true);
    let garbage = vec![(1, vec![0xff; 4096]), (2, vec![0xff; 4096])];
    commands.push(frames(7, 0, false, 4096, &garbage));
    commands.push(undo(7));
    // Given up without a word, in the middle of the log.
    commands.push(frames(8, 0, false, 4096, &garbage));
    commands.extend(puts(&mut source, 1, true));
    // Unfinished at the end.
    commands.push(frames(9, 0, false, 4096, &garbage));
    let read = read(&MemoryDir::default().with("open-1", segment(&commands)));
    assert_eq!(damage(&read), [""; 0]);
    assert_eq!(rows(&read), Some(3));
    assert_eq!(read.last_index, 7);
}

#[test]
fn a_spilled_transaction_is_used_when_it_commits() {
    // More than is kept in memory, in many entries, with one page written twice.
    let mut source = Source::new(4096);
    source.put("/registry/big", 12 << 20);
    let (mut pages, size) = source.changes();
    pages.insert(0, (1, vec![0xff; 4096]));
    let mut commands: Vec<_> = pages
        .chunks(500)
        .map(|some| frames(3, 0, false, 4096, &some.to_vec()))
        .collect();
    let unfinished = MemoryDir::default().with("open-1", segment(&commands));
    assert_eq!(rows(&read(&unfinished)), None);
    commands.push(frames(3, size, true, 4096, &Vec::new()));
    let read = read(&MemoryDir::default().with("open-1", segment(&commands)));
    assert_eq!(damage(&read), [""; 0]);
    assert_eq!(rows(&read), Some(1));
}

#[test]
fn compressed_snapshots() {
    let mut source = Source::new(4096);
    puts(&mut source, 5, true);
    let data = snapshot(&source.file(), &[]);
    let tail = segment(&puts(&mut source, 2, true));
    let dir = |data: Vec<u8>| {
        MemoryDir::default()
            .with("snapshot-1-50-9", data)
            .with("snapshot-1-50-9.meta", meta())
            .with("open-1", tail.clone())
    };
    for data in [data.clone(), lz4(&data)] {
        let read = read(&dir(data));
        assert_eq!(damage(&read), [""; 0]);
        assert_eq!(rows(&read), Some(7));
        assert_eq!((read.last_index, read.last_term), (52, 1));
        assert_eq!(read.snapshot.as_deref(), Some("snapshot-1-50-9"));
    }
    let mut bad = lz4(&data);
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    let read = read(&dir(bad));
    assert!(damage(&read)[0].starts_with("snapshot-1-50-9@"));
    assert_eq!(read.snapshot, None);
}

#[test]
fn the_older_snapshot_serves_when_the_newest_is_damaged() {
    let mut source = Source::new(4096);
    puts(&mut source, 4, true);
    let old = snapshot(&source.file(), &[]);
    let first = segment(&puts(&mut source, 3, true));
    let new = snapshot(&source.file(), &[]);
    let second = segment(&puts(&mut source, 2, true));
    let mut cut = new.clone();
    cut.truncate(new.len() - 1);
    // The index decides, not the clock of the machine.
    let dir = MemoryDir::default()
        .with("snapshot-1-4-900", old)
        .with("snapshot-1-4-900.meta", meta())
        .with("snapshot-1-7-100", cut)
        .with("snapshot-1-7-100.meta", meta())
        .with("0000000000000005-0000000000000007", first)
        .with("8-9", second);
    let used = read(&dir);
    assert_eq!(used.snapshot.as_deref(), Some("snapshot-1-4-900"));
    assert_eq!(
        damage(&used),
        [format!("snapshot-1-7-100@{}", new.len() - 1)]
    );
    assert_eq!(rows(&used), Some(9));
    let mut without = dir.clone();
    without.0.remove("0000000000000005-0000000000000007");
    let used = read(&without);
    assert_eq!(rows(&used), Some(4));
    assert_eq!(damage(&used)[1..], ["8-9@0"]);
}

#[test]
fn gaps_and_wrong_counts_end_the_log() {
    let mut source = Source::new(4096);
    let commands = puts(&mut source, 6, true);
    let gap = MemoryDir::default()
        .with("1-2", segment(&commands[..2]))
        .with("4-5", segment(&commands[3..5]))
        .with("open-1", segment(&commands[5..]))
        .with("open-2", vec![0; 4096]);
    let used = read(&gap);
    assert_eq!((rows(&used), used.last_index), (Some(2), 2));
    assert_eq!(damage(&used), ["4-5@0", "open-1@0"]);
    let short = MemoryDir::default().with("1-7", segment(&commands));
    let used = read(&short);
    assert_eq!((rows(&used), used.last_index), (Some(6), 6));
    assert_eq!(damage(&used).len(), 1);
    let late = MemoryDir::default().with("3-6", segment(&commands[2..]));
    let used = read(&late);
    assert_eq!(rows(&used), None);
    assert_eq!(damage(&used), ["3-6@0"]);
}

#[test]
fn half_a_batch_is_never_used() {
    let mut source = Source::new(4096);
    let commands = puts(&mut source, 3, true);
    let entries: Vec<_> = std::iter::once((3, configuration()))
        .chain(std::iter::once((2, vec![0; 8])))
        .chain(commands.into_iter().map(|command| (1, command)))
        .collect();
    let mut whole = 1_u64.to_le_bytes().to_vec();
    whole.extend(batch(&entries));
    let used = read(&MemoryDir::default().with("open-1", whole.clone()));
    assert_eq!((rows(&used), used.last_index), (Some(3), 5));
    assert_eq!(used.servers[0].address, "10.0.0.11:6443");
    for cut in [9, 20, 40, 100, whole.len() / 2, whole.len() - 1] {
        let used = read(&MemoryDir::default().with("open-1", whole[..cut].to_vec()));
        assert_eq!(rows(&used), None);
        assert_eq!(damage(&used), ["open-1@8"], "{cut}");
    }
}
