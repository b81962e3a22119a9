//! Damaged directories are moved out of the way, not removed: somebody may want to look at them.

use std::io;
use std::path::{Path, PathBuf};

use trivet_env::Disk;

/// So many copies of one directory are kept. A disk that damages more has to be looked at.
pub(crate) const KEPT: u32 = 3;

/// What comes behind the directory's name, before a number.
const MARK: &str = ".damaged-";

/// Where `dir` can be moved to; `None` when as many copies as may be are there.
pub(crate) fn name(disk: &dyn Disk, dir: &Path) -> io::Result<Option<PathBuf>> {
    for number in 1..=KEPT {
        let mut name = dir.as_os_str().to_owned();
        name.push(format!("{MARK}{number}"));
        let path = PathBuf::from(name);
        if !disk.exists(&path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Moves `dir` out of the way, durably, and says where it is now. A missing one is fine.
pub(crate) fn set_aside(disk: &dyn Disk, dir: &Path) -> io::Result<Option<PathBuf>> {
    if !disk.exists(dir)? {
        return Ok(None);
    }
    let Some(to) = name(disk, dir)? else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} has been damaged {KEPT} times before, and the copies are still beside it: look after the disk, and remove the copies that nobody needs",
                dir.display()
            ),
        ));
    };
    disk.rename(dir, &to)?;
    if let Some(parent) = dir.parent() {
        disk.sync_dir(parent)?;
    }
    tracing::warn!(from = %dir.display(), to = %to.display(), "damaged data is set aside");
    Ok(Some(to))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_copies_are_kept_and_none_is_lost() {
        let disk = trivet_sim::SimDisk::new();
        let dir = Path::new("/db/raft");
        assert_eq!(set_aside(&disk, dir).unwrap(), None);
        for number in 1..=KEPT {
            disk.overwrite(&dir.join("log"), &[number as u8]);
            let to = set_aside(&disk, dir).unwrap().unwrap();
            assert!(!disk.exists(dir).unwrap());
            assert_eq!(disk.content(&to.join("log")), [number as u8]);
        }
        disk.overwrite(&dir.join("log"), b"again");
        assert!(set_aside(&disk, dir).is_err());
        assert_eq!(disk.content(&dir.join("log")), b"again");
        let crashed = disk.crash_image(1);
        assert_eq!(crashed.content(Path::new("/db/raft.damaged-2/log")), [2]);
    }
}
