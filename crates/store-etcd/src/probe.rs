//! Recognising data by content, without writing anything.

use std::io;
use std::path::PathBuf;

use trivet_datastore::{Footprint, ReadOnlyDir};

use crate::backend::{DIR, NAME};
use crate::format::{self, Format};
use crate::import::UNFINISHED;
use crate::open::RAFT_DIR;

/// The name under which K3s's own embedded etcd is reported: nobody's backend here.
pub const K3S_ETCD: &str = "k3s-etcd";

/// The name under which an interrupted import is reported.
pub const UNFINISHED_IMPORT: &str = "unfinished-import";

const WAL_DIR: &str = "etcd/member/wal";
const DB_FILE: &str = "etcd/member/snap/db";

pub(crate) fn probe(dir: &dyn ReadOnlyDir) -> io::Result<Vec<Footprint>> {
    let found = own(dir)?.into_iter().chain(unfinished(dir)?);
    Ok(found.chain(k3s(dir)?).collect())
}

fn own(dir: &dyn ReadOnlyDir) -> io::Result<Option<Footprint>> {
    if !dir.is_dir(DIR)? {
        return Ok(None);
    }
    let path = format!("{DIR}/{}", format::FILE);
    let footprint = |description: String| {
        Some(Footprint {
            backend: NAME.to_owned(),
            path: PathBuf::from(DIR),
            description,
        })
    };
    if dir.file_size_bytes(&path)?.is_none() {
        // Nothing is written before FORMAT; without it the directory is empty, or not ours to judge.
        let entries = dir.read_dir(DIR)?;
        return Ok(match entries.iter().any(|name| name == RAFT_DIR) {
            true => footprint("a Trivet etcd store without its FORMAT file".to_owned()),
            false => None,
        });
    }
    let bytes = dir.read(&path, 0, format::MAX_BYTES)?;
    Ok(match Format::decode(&bytes) {
        Ok(found) if found.backend != NAME => None,
        Ok(found) => {
            let state = if found.ready {
                ""
            } else {
                ", not yet a member"
            };
            footprint(format!(
                "a Trivet etcd store: member {:x} of cluster {:x}{state}",
                found.member_id, found.cluster_id
            ))
        }
        Err(_) if !bytes.starts_with(format::MAGIC.as_bytes()) => None,
        Err(problem) => footprint(format!(
            "a Trivet store whose FORMAT file is not usable: {problem}"
        )),
    })
}

/// What an interrupted import left. Nobody's data, but whoever began it wants to know before
/// another store is founded here.
fn unfinished(dir: &dyn ReadOnlyDir) -> io::Result<Option<Footprint>> {
    Ok(dir.is_dir(UNFINISHED)?.then(|| Footprint {
        backend: UNFINISHED_IMPORT.to_owned(),
        path: PathBuf::from(UNFINISHED),
        description: "an import that did not finish: run it again, or remove this directory"
            .to_owned(),
    }))
}

fn k3s(dir: &dyn ReadOnlyDir) -> io::Result<Option<Footprint>> {
    let wal = if dir.is_dir(WAL_DIR)? {
        dir.read_dir(WAL_DIR)?
    } else {
        Vec::new()
    };
    let segments: Vec<String> = wal
        .into_iter()
        .filter(|name| name.ends_with(".wal"))
        .map(|name| format!("{WAL_DIR}/{name}"))
        .collect();
    let db_bytes = dir.file_size_bytes(DB_FILE)?;
    if segments.is_empty() && db_bytes.is_none() {
        return Ok(None);
    }
    let mut genuine = false;
    let mut total = db_bytes.unwrap_or(0);
    for segment in &segments {
        total += dir.file_size_bytes(segment)?.unwrap_or(0);
        genuine = genuine || is_wal_head(&dir.read(segment, 0, 10)?);
    }
    if db_bytes.is_some() {
        genuine = genuine || is_bbolt_head(&dir.read(DB_FILE, 0, 20)?);
    }
    let doubt = if genuine {
        ""
    } else {
        ", by the names of its files"
    };
    Ok(Some(Footprint {
        backend: K3S_ETCD.to_owned(),
        path: PathBuf::from("etcd"),
        description: format!(
            "an etcd member directory as K3s makes it ({} MiB{doubt})",
            total.div_ceil(1 << 20)
        ),
    }))
}

/// Every etcd log segment begins with a record of type 4 (checksum) behind an 8-byte frame.
fn is_wal_head(bytes: &[u8]) -> bool {
    matches!(bytes, [_, _, _, _, _, _, _, _, 0x08, 0x04, ..])
}

/// The magic number of a bbolt meta page, behind its 16-byte page header.
fn is_bbolt_head(bytes: &[u8]) -> bool {
    bytes.get(16..20) == Some(&0xED0C_DAED_u32.to_le_bytes())
}
