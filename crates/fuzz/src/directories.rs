//! Files on the disk: one of a real directory is mutated, and the whole is opened.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use trivet_datastore::{Datastore, Key, PutRequest};
use trivet_env::Env;
use trivet_legacy_reader::{Directory, dqlite as dqlite_files, sqlite as sqlite_files};
use trivet_store_etcd::{StoreConfig, open};

use crate::Target;
use crate::texts::files;

/// A file's number and its bytes are one input.
struct Image {
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Image {
    fn of(dir: &Path) -> Result<Self> {
        let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
        while let Some(path) = open.pop() {
            if path.is_dir() {
                for entry in fs::read_dir(&path)? {
                    open.push(entry?.path());
                }
            } else {
                let bytes = fs::read(&path)?;
                found.push((path.strip_prefix(dir)?.to_owned(), bytes));
            }
        }
        found.sort();
        anyhow::ensure!(!found.is_empty(), "{} is empty", dir.display());
        Ok(Self { files: found })
    }

    /// Trailing zeros of preallocated files are left out: mutations would be lost in them.
    fn corpus(&self) -> Vec<Vec<u8>> {
        let one = |(number, (_, bytes)): (usize, &(PathBuf, Vec<u8>))| {
            let length = bytes
                .iter()
                .rposition(|&byte| byte != 0)
                .map_or(0, |at| at + 1);
            let mut input = vec![number as u8];
            input.extend_from_slice(&bytes[..length.min(256 * 1024)]);
            input
        };
        self.files.iter().enumerate().map(one).collect()
    }

    /// The directory with the input in the place of one file.
    fn write(&self, dir: &Path, input: &[u8]) {
        let (number, replaced) = input.split_first().unwrap_or((&0, &[]));
        let number = usize::from(*number) % self.files.len();
        for (place, (path, bytes)) in self.files.iter().enumerate() {
            let path = dir.join(path);
            let parent = path.parent().unwrap_or(dir);
            let bytes = if place == number { replaced } else { bytes };
            fs::create_dir_all(parent).expect("a temporary directory takes directories");
            fs::write(&path, bytes).expect("a temporary directory takes files");
        }
    }
}

/// The directory of our store: log, records of consensus, checkpoint, value segments.
pub(crate) fn store() -> Result<Target> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let home = tempfile::tempdir()?;
    runtime.block_on(async {
        let config = StoreConfig::single(Env::real(), home.path().join("store"));
        let store = open(config).await?;
        for number in 0..40 {
            let key = Key::from(format!("key{number}"));
            store
                .put(PutRequest {
                    key,
                    value: vec![number; 200].into(),
                    lease: None,
                    expect: trivet_datastore::Expect::Any,
                })
                .await?;
        }
        store.shutdown().await;
        anyhow::Ok(())
    })?;
    let image = Image::of(&home.path().join("store"))?;
    Ok(Target {
        name: "store-directory",
        corpus: image.corpus(),
        read: Box::new(move |input| {
            let home = tempfile::tempdir().expect("a temporary directory");
            let dir = home.path().join("store");
            image.write(&dir, input);
            runtime.block_on(async {
                let config = StoreConfig::single(Env::real(), dir);
                // Whether it opens is not the question; that it ends is.
                let opening = tokio::time::timeout(Duration::from_secs(4), open(config));
                if let Ok(Ok(store)) = opening.await {
                    store.shutdown().await;
                }
            });
        }),
    })
}

fn unpack(packed: &[u8]) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    let plain = ruzstd::decoding::StreamingDecoder::new(packed)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    tar::Archive::new(plain).unpack(dir.path())?;
    Ok(dir)
}

/// The first archive below a directory of fixtures.
fn fixture(below: &str) -> Result<tempfile::TempDir> {
    const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
    let all = files(below)?;
    let packed = all.iter().find(|bytes| bytes.starts_with(ZSTD));
    unpack(packed.context("no archive")?)
}

fn top(dir: &Path) -> Result<PathBuf> {
    let entries: Vec<_> = fs::read_dir(dir)?.collect::<std::io::Result<_>>()?;
    match &entries[..] {
        [one] if one.path().is_dir() => top(&one.path()),
        _ => Ok(dir.to_owned()),
    }
}

pub(crate) fn dqlite() -> Result<Target> {
    let unpacked = fixture("legacy-reader/tests/fixtures/dqlite")?;
    let image = Image::of(&top(unpacked.path())?)?;
    Ok(Target {
        name: "dqlite",
        corpus: image.corpus(),
        read: Box::new(move |input| {
            let home = tempfile::tempdir().expect("a temporary directory");
            let scratch = tempfile::tempdir().expect("a temporary directory");
            image.write(home.path(), input);
            let dir = Directory::new(home.path());
            std::hint::black_box(dqlite_files::read(&dir, "", scratch.path()).is_ok());
        }),
    })
}

pub(crate) fn sqlite() -> Result<Target> {
    let unpacked = fixture("legacy-reader/tests/fixtures/kine-sqlite")?;
    let image = Image::of(&top(unpacked.path())?)?;
    Ok(Target {
        name: "sqlite",
        corpus: image.corpus(),
        read: Box::new(move |input| {
            let home = tempfile::tempdir().expect("a temporary directory");
            let scratch = tempfile::tempdir().expect("a temporary directory");
            image.write(home.path(), input);
            let dir = Directory::new(home.path());
            std::hint::black_box(sqlite_files::read(&dir, "state.db", scratch.path()).is_ok());
        }),
    })
}
