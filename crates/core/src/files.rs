//! Small files, written whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use crate::StartError;

/// Mode of secrets, and of everything that is not said to be public.
pub(crate) const PRIVATE: u32 = 0o600;

/// Largest file that is read here.
const SIZE_BYTES_MAX: u64 = 1 << 20;

/// The bytes of a file, `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, StartError> {
    let read = || {
        let mut bytes = Vec::new();
        if File::open(path)?
            .take(SIZE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)? as u64
            > SIZE_BYTES_MAX
        {
            return Err(io::Error::other("the file is too large"));
        }
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(source) => Err(StartError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The text of a file, `None` when there is none.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, StartError> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| StartError::File {
            path: path.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, "the file is not text"),
        })
}

/// Replaces a file: after a crash it has either the old or the new content. Missing
/// directories are created (0700). A file that already has this content and mode is left alone.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), StartError> {
    let same = fs::symlink_metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o7777 == mode)
        && read(path)?.is_some_and(|old| old == content);
    if same {
        return Ok(());
    }
    let write = || {
        let dir = path
            .parent()
            .ok_or_else(|| io::Error::other("the path names no file"))?;
        create_dir(dir)?;
        let temporary = temporary_name(path);
        let result = (|| {
            // A leftover of a crash; never somebody else's, because the directory is ours.
            let _ = fs::remove_file(&temporary);
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(PRIVATE)
                .open(&temporary)?;
            file.write_all(content)?;
            file.set_permissions(Permissions::from_mode(mode))?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        })();
        if result.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        result?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|source| StartError::File {
        path: path.to_owned(),
        source,
    })
}

/// Makes `path` a symbolic link to `target` in the same directory.
pub(crate) fn link(path: &Path, target: &str) -> Result<(), StartError> {
    if fs::read_link(path).is_ok_and(|current| current == Path::new(target)) {
        return Ok(());
    }
    let link = || {
        let temporary = temporary_name(path);
        let _ = fs::remove_file(&temporary);
        symlink(target, &temporary)?;
        fs::rename(&temporary, path)
    };
    link().map_err(|source| StartError::File {
        path: path.to_owned(),
        source,
    })
}

/// Creates a directory and its missing parents, mode 0700.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn temporary_name(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_with_their_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, b"one", PRIVATE).unwrap();
        write(&path, b"two", 0o644).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o644
        );
        assert_eq!(
            fs::metadata(path.parent().unwrap())
                .unwrap()
                .permissions()
                .mode()
                & 0o7777,
            0o700
        );
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn links_and_files_replace_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let (token, node) = (dir.path().join("token"), dir.path().join("node-token"));
        write(&token, b"t", PRIVATE).unwrap();
        link(&node, "token").unwrap();
        link(&node, "token").unwrap();
        assert_eq!(read(&node).unwrap().unwrap(), b"t");
        write(&node, b"n", PRIVATE).unwrap();
        assert_eq!(read(&token).unwrap().unwrap(), b"t");
        assert_eq!(read(&node).unwrap().unwrap(), b"n");
    }
}
