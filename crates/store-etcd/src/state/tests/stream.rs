//! Snapshot streams and exports.

use std::io;

use trivet_mvcc::RangeOp;

use super::*;

fn chunks(machine: &mut Machine) -> (LogPosition, Vec<Bytes>) {
    let (position, mut source) = machine.snapshot().unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = source.next_chunk().unwrap() {
        assert!(!chunk.is_empty() && chunk.len() <= 1 << 20);
        chunks.push(chunk);
    }
    (position, chunks)
}

fn install(machine: &mut Machine, position: LogPosition, chunks: &[Bytes]) -> io::Result<()> {
    machine.install(position, &mut chunks.iter().cloned().map(Ok))
}

fn filled(seed: u64, entries: u64) -> (SimDisk, Machine, Arc<Shared>) {
    let disk = SimDisk::new();
    let (mut machine, shared) = open_on(&disk).unwrap();
    for batch in workload(seed, entries) {
        machine.apply(&batch).unwrap();
        machine.checkpoint(false).unwrap();
    }
    (disk, machine, shared)
}

#[test]
fn what_is_installed_is_what_was_taken() {
    let (_, mut from, from_shared) = filled(5, 200);
    let (position, whole) = chunks(&mut from);
    let whole: Vec<u8> = whole.concat();
    for size in [1, 7, 1000, usize::MAX] {
        let (disk, mut to, to_shared) = filled(6, 30);
        let pieces: Vec<Bytes> = whole
            .chunks(size.min(whole.len()))
            .map(Bytes::copy_from_slice)
            .collect();
        install(&mut to, position, &pieces).unwrap();
        assert_eq!(dump(&to_shared), dump(&from_shared));
        assert_eq!(to.durable(), position);
        // Both go on in the same way, and a crash right after keeps the new state.
        let (mut reopened, reopened_shared) = open_on(&disk.crash_image(size as u64)).unwrap();
        assert_eq!(dump(&reopened_shared), dump(&from_shared));
        for index in position.index + 1..position.index + 20 {
            let commands = [
                put("more", index.to_string()),
                delete(KeyRange::prefix("/registry/1".into())),
            ];
            let expected = to.apply(&entry(index, &commands)).unwrap();
            assert_eq!(reopened.apply(&entry(index, &commands)).unwrap(), expected);
            to.checkpoint(true).unwrap();
            reopened.checkpoint(false).unwrap();
        }
        assert_eq!(dump(&to_shared), dump(&reopened_shared));
    }
}

#[test]
fn a_snapshot_does_not_see_later_changes() {
    let (_, mut machine, shared) = filled(7, 100);
    let expected = dump(&shared);
    let (position, mut source) = machine.snapshot().unwrap();
    for index in 101..160 {
        let revision = Revision(shared.revision().0);
        apply(
            &mut machine,
            index,
            &[
                put("/registry/1/1", vec![b'n'; 200]),
                Command::Compact { revision },
            ],
        );
        machine.checkpoint(true).unwrap();
    }
    let mut stream = std::iter::from_fn(|| source.next_chunk().transpose());
    let (mut to, to_shared) = open_on(&SimDisk::new()).unwrap();
    to.install(position, &mut stream).unwrap();
    assert_eq!(dump(&to_shared), expected);
}

#[test]
fn a_damaged_or_cut_stream_leaves_the_old_state() {
    let (_, mut from, _) = filled(8, 20);
    let (position, whole) = chunks(&mut from);
    let whole = whole.concat();
    let (_, mut to, to_shared) = filled(9, 40);
    let before = dump(&to_shared);
    for at in (0..whole.len()).step_by(3) {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        assert!(
            install(&mut to, position, &[damaged.into()]).is_err(),
            "byte {at}"
        );
        let cut = Bytes::copy_from_slice(&whole[..at]);
        assert!(install(&mut to, position, &[cut]).is_err(), "cut at {at}");
    }
    let longer = [&whole[..], b"x"].concat();
    assert!(install(&mut to, position, &[longer.into()]).is_err());
    let failing = [
        Ok(Bytes::copy_from_slice(&whole[..50])),
        Err(io::Error::other("gone")),
    ];
    assert!(to.install(position, &mut failing.into_iter()).is_err());
    assert_eq!(dump(&to_shared), before);
    // The old state is still of use.
    apply(&mut to, 41, &[put("a", "b")]);
    to.checkpoint(true).unwrap();
    install(&mut to, position, &[whole.into()]).unwrap();
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None,
        ..proptest::prelude::ProptestConfig::with_cases(128)
    })]

    /// A stream or a checkpoint of any bytes, or of good ones with a piece replaced.
    #[test]
    fn no_bytes_from_outside_make_it_panic(
        noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120),
        at in proptest::prelude::any::<proptest::sample::Index>(),
        cuts in proptest::collection::vec(1..40usize, 1..20),
    ) {
        let (disk, mut machine, _) = filled(11, 8);
        let (position, good) = chunks(&mut machine);
        let good: Vec<u8> = good.concat();
        let mut spoilt = good.clone();
        let place = at.index(good.len());
        let end = (place + noise.len()).min(good.len());
        spoilt.splice(place..end, noise.iter().copied());
        for stream in [&noise, &spoilt] {
            let mut rest = stream.as_slice();
            let mut pieces = Vec::new();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                pieces.push(Bytes::copy_from_slice(piece));
                rest = behind;
            }
            let (mut other, shared) = open_on(&SimDisk::new()).unwrap();
            let before = dump(&shared);
            if install(&mut other, position, &pieces).is_err() {
                proptest::prop_assert_eq!(dump(&shared), before);
            } else {
                proptest::prop_assert_eq!(stream, &good);
            }
        }
        machine.checkpoint(true).unwrap();
        drop(machine);
        let mut checkpoints: Vec<PathBuf> = disk
            .files()
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "ckpt"))
            .collect();
        checkpoints.sort();
        let path = checkpoints.pop().unwrap();
        // Nothing to fall back to.
        for older in checkpoints {
            trivet_env::Disk::remove_file(&disk, &older).unwrap();
        }
        let mut checkpoint = disk.content(&path);
        let place = at.index(checkpoint.len());
        let end = (place + noise.len()).min(checkpoint.len());
        let untouched = checkpoint[place..end] == noise[..];
        checkpoint.splice(place..end, noise.iter().copied());
        disk.overwrite(&path, &checkpoint);
        proptest::prop_assert!(untouched || open_on(&disk).is_err());
        disk.overwrite(&path, &noise);
        proptest::prop_assert!(open_on(&disk).is_err());
    }
}

#[test]
fn a_crash_while_installing_leaves_the_old_or_the_new_state() {
    let (_, mut from, from_shared) = filled(10, 120);
    let (position, whole) = chunks(&mut from);
    let (disk, mut to, to_shared) = filled(11, 40);
    to.checkpoint(true).unwrap();
    let (old, new) = (dump(&to_shared), dump(&from_shared));
    drop((to, to_shared));
    let (mut old_seen, mut new_seen) = (0, 0);
    for crash in 0.. {
        let disk = disk.crash_image(0);
        let (mut to, _) = open_on(&disk).unwrap();
        disk.crash_at(disk.operations() + crash);
        let done = install(&mut to, position, &whole);
        for seed in 0..3 {
            let (_, shared) = open_on(&disk.crash_image(seed)).unwrap();
            let found = dump(&shared);
            assert!(
                found == new || (found == old && done.is_err()),
                "crash at {crash}, image {seed}"
            );
            *(if found == new {
                &mut new_seen
            } else {
                &mut old_seen
            }) += 1;
        }
        if !disk.crashed() {
            break;
        }
    }
    assert!(old_seen > 0 && new_seen > 0);
}

#[tokio::test]
async fn an_export_is_of_one_revision() {
    let (_, mut machine, shared) = filled(12, 100);
    for index in 101..3300 {
        apply(&mut machine, index, &[put(format!("many/{index}"), "v")]);
    }
    let expected = shared.range(&RangeOp::new(KeyRange::all())).await.unwrap();
    let old_revision = shared.revision();
    let mut export = shared.export(None).unwrap();
    assert_eq!(export.revision(), old_revision);
    assert_eq!(export.leases(), shared.leases());
    let (mut pairs, mut pages, mut index) = (Vec::new(), 0, 3300);
    while let Some(page) = export.next_page().await.unwrap() {
        pairs.extend(page);
        pages += 1;
        let revision = shared.revision();
        apply(
            &mut machine,
            index,
            &[
                delete(KeyRange::all()),
                put("x", "y"),
                Command::Compact { revision },
            ],
        );
        machine.checkpoint(true).unwrap();
        index += 1;
    }
    assert!(pages > 1);
    assert_eq!(pairs, expected.items);
    let hash = shared.hash(None).await.unwrap();
    assert_eq!(
        (hash.revision, hash.compact_revision),
        (shared.revision(), shared.compact_revision())
    );
    assert!(shared.hash(Some(Revision(1))).await.is_err());
}
