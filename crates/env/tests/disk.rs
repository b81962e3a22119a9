//! The real file system behind the interface.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use trivet_env::{Clock, Disk, Env, OpenMode, RealClock, RealDisk, RealRng, Rng};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path)
        .expect("exists")
        .permissions()
        .mode()
        & 0o777
}

#[test]
fn files_and_directories_are_private() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let deep = dir.path().join("a/b");
    RealDisk.create_dir_all(&deep).expect("creates parents");
    RealDisk
        .create_dir_all(&deep)
        .expect("an existing one is fine");
    let path = deep.join("f");
    RealDisk.open(&path, OpenMode::CreateNew).expect("creates");
    assert_eq!(
        (mode(&deep), mode(&dir.path().join("a")), mode(&path)),
        (0o700, 0o700, 0o600)
    );
}

#[test]
fn open_modes_are_kept() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = dir.path().join("f");
    let kind = |mode| RealDisk.open(&path, mode).err().map(|e| e.kind());
    assert_eq!(kind(OpenMode::Read), Some(ErrorKind::NotFound));
    assert_eq!(kind(OpenMode::ReadWrite), Some(ErrorKind::NotFound));
    assert_eq!(kind(OpenMode::CreateNew), None);
    assert_eq!(kind(OpenMode::CreateNew), Some(ErrorKind::AlreadyExists));
    let file = RealDisk.open(&path, OpenMode::Read).expect("opens");
    assert!(file.write_all_at(0, b"x").is_err());
}

#[test]
fn positioned_reads_and_writes() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = dir.path().join("f");
    let file = RealDisk.open(&path, OpenMode::CreateNew).expect("creates");
    file.write_all_at(4, b"data").expect("writes");
    file.sync_data().expect("syncs");
    assert_eq!(file.size_bytes().expect("has a size"), 8);
    let mut buffer = [1; 8];
    file.read_exact_at(0, &mut buffer).expect("reads");
    assert_eq!(&buffer, b"\0\0\0\0data");
    assert_eq!(file.read_at(8, &mut buffer).expect("end of file"), 0);
    let error = file.read_exact_at(4, &mut buffer).expect_err("too short");
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    file.set_size(2).expect("cuts");
    file.set_size(6).expect("grows");
    file.read_exact_at(0, &mut buffer[..6]).expect("reads");
    assert_eq!(&buffer[..6], [0; 6]);
}

#[test]
fn names_change_and_are_listed_in_order() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = |name: &str| dir.path().join(name);
    for name in ["c", "a", "b"] {
        RealDisk
            .open(&path(name), OpenMode::CreateNew)
            .expect("creates");
    }
    RealDisk.rename(&path("c"), &path("a")).expect("replaces");
    RealDisk.sync_dir(dir.path()).expect("syncs");
    assert_eq!(RealDisk.read_dir(dir.path()).expect("lists"), ["a", "b"]);
    RealDisk.remove_file(&path("b")).expect("removes");
    assert!(!RealDisk.exists(&path("b")).expect("asks"));
    assert!(RealDisk.exists(&path("a")).expect("asks"));
}

#[test]
fn random_bytes_differ() {
    let (mut one, mut two) = ([0; 32], [0; 32]);
    RealRng.fill(&mut one);
    RealRng.fill(&mut two);
    assert_ne!(one, two);
    assert_ne!(RealRng.next_u64(), RealRng.next_u64());
}

#[test]
fn monotonic_time_starts_at_zero_and_grows() {
    let clock = RealClock::default();
    let first = clock.monotonic();
    assert!(clock.monotonic() >= first && first.as_secs() < 5);
    assert!(clock.wall() > std::time::UNIX_EPOCH);
}

#[tokio::test(start_paused = true)]
async fn monotonic_time_follows_a_paused_runtime() {
    let env = Env::real();
    let before = env.clock.monotonic();
    tokio::time::advance(std::time::Duration::from_secs(100)).await;
    assert_eq!((env.clock.monotonic() - before).as_secs(), 100);
}

#[test]
fn a_locked_file_is_locked_once() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = dir.path().join("LOCK");
    let held = RealDisk.lock(&path).expect("nobody has it");
    assert_eq!(mode(&path), 0o600);
    let refused = RealDisk.lock(&path).expect_err("it is held");
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);
    drop(held);
    RealDisk.lock(&path).expect("it is free again");
    let nowhere = RealDisk.lock(&dir.path().join("x/LOCK"));
    assert_eq!(
        nowhere.expect_err("no directory").kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn the_space_of_a_file_system_is_known() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let space = RealDisk.space(dir.path()).expect("it can be asked");
    let space = space.expect("it is known");
    assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
    assert!(RealDisk.space(&dir.path().join("missing")).is_err());
}
