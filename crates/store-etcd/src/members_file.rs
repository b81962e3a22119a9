//! The `MEMBERS` file: who belonged to the cluster when this member last heard of it
//! (`docs/formats/store.md`).
//!
//! A copy of what the log says, for when the log is lost: it tells whom to ask. It is believed
//! for nothing else.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trivet_env::{Disk, OpenMode};
use trivet_raft_node::Peer;

use crate::engine::Engine;

const MAGIC: &str = "trivet-members 1";
const FILE: &str = "MEMBERS";
const TEMPORARY: &str = "MEMBERS.new";
/// All descriptions together fit one record of the log, which is smaller.
const MAX_BYTES: u64 = 64 << 10;

fn encode(members: &[Peer]) -> String {
    let mut text = format!("{MAGIC}\n");
    for member in members {
        let name: String = member
            .name
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "member {:016x} {} {name}", member.id, member.peer_url);
    }
    let sum = crc32c::crc32c(text.as_bytes());
    let _ = writeln!(text, "crc32c {sum:08x}");
    text
}

fn decode(bytes: &[u8]) -> Option<Vec<Peer>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let end = text.rfind("crc32c ")?;
    let sum = u32::from_str_radix(text[end..].trim_end().strip_prefix("crc32c ")?, 16).ok()?;
    let mut lines = text[..end].lines();
    if sum != crc32c::crc32c(&bytes[..end]) || lines.next()? != MAGIC {
        return None;
    }
    lines
        .map(|line| {
            let mut words = line.strip_prefix("member ")?.splitn(3, ' ');
            Some(Peer {
                id: u64::from_str_radix(words.next()?, 16).ok()?,
                peer_url: words.next()?.to_owned(),
                name: words.next()?.to_owned(),
                client_url: String::new(),
            })
        })
        .collect()
}

/// The members as recorded; none when there is no record that can be used.
pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Vec<Peer> {
    let path = dir.join(FILE);
    let read = || -> io::Result<Vec<u8>> {
        let file = disk.open(&path, OpenMode::Read)?;
        let mut bytes = vec![0; file.size_bytes()?.min(MAX_BYTES) as usize];
        file.read_exact_at(0, &mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => decode(&bytes).unwrap_or_else(|| {
            tracing::warn!(file = %path.display(), "the list of members is damaged");
            Vec::new()
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::warn!(%error, file = %path.display(), "the list of members cannot be read");
            Vec::new()
        }
    }
}

/// Replaces the record in one step, durably.
fn store(disk: &dyn Disk, dir: &Path, members: &[Peer]) -> io::Result<()> {
    let temporary = dir.join(TEMPORARY);
    if disk.exists(&temporary)? {
        disk.remove_file(&temporary)?;
    }
    let file = disk.open(&temporary, OpenMode::CreateNew)?;
    file.write_all_at(0, encode(members).as_bytes())?;
    file.sync_data()?;
    disk.rename(&temporary, &dir.join(FILE))?;
    disk.sync_dir(dir)
}

/// Keeps the record in step with the log.
pub(crate) async fn follow(engine: Arc<Engine>, dir: PathBuf) {
    let mut known = load(&*engine.env.disk, &dir);
    let mut seen = Vec::new();
    loop {
        let members = tokio::select! {
            () = engine.stop.cancelled() => return,
            members = engine.node.members_other_than(&seen) => members,
        };
        seen.clone_from(&members);
        let plain: Vec<Peer> = members
            .into_iter()
            .map(|member| Peer {
                client_url: String::new(),
                ..member
            })
            .collect();
        // One who is not in the list was removed: the last list is the better one to keep.
        if plain == known || !plain.iter().any(|peer| peer.id == engine.member_id) {
            continue;
        }
        let (disk, dir, list) = (engine.env.disk.clone(), dir.clone(), plain.clone());
        let stored = tokio::task::spawn_blocking(move || store(&*disk, &dir, &list)).await;
        match stored {
            Ok(Ok(())) => known = plain,
            Ok(Err(error)) => tracing::warn!(%error, "the list of members is not up to date"),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sample() -> Vec<Peer> {
        [("a", 1), ("b with spaces", 0xfeed)]
            .map(|(name, id)| Peer {
                id,
                name: name.to_owned(),
                peer_url: format!("https://10.0.0.{id}:2380,https://[::1]:2380"),
                client_url: String::new(),
            })
            .to_vec()
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_noticed() {
        let disk = trivet_sim::SimDisk::new();
        disk.create_dir_all(Path::new("/db")).unwrap();
        let dir = Path::new("/db");
        assert_eq!(load(&disk, dir), []);
        store(&disk, dir, &sample()[..1]).unwrap();
        store(&disk, dir, &sample()).unwrap();
        assert_eq!(load(&disk, dir), sample());
        let good = disk.content(&dir.join(FILE));
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_ne!(decode(&bad), Some(sample()), "byte {at}");
            assert_eq!(decode(&good[..at]), None, "cut at {at}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_refused_in_peace(text in ".{0,200}", bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let body = format!("{MAGIC}\n{text}\n");
            let whole = format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()));
            let _ = decode(whole.as_bytes());
            proptest::prop_assert_eq!(decode(&bytes), None);
        }
    }
}
