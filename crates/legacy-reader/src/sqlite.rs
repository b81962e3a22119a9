//! Plain SQLite files of kine, copied into a scratch file with what their write-ahead log adds.
//! SQLite itself never sees the original: opening it would make or change `-shm` and `-wal`.

use std::path::Path;

use trivet_datastore::ReadOnlyDir;

use crate::damage::{Damage, Fault, ReadError};
use crate::image::Image;
use crate::input::Input;
use crate::kine::Kine;
use crate::{snapshot, sqlite_wal};

/// How a rollback journal begins as long as it counts.
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// What a SQLite file holds.
#[derive(Debug)]
pub struct Sqlite {
    /// The kine database; `None` if the file has no such table.
    pub kine: Option<Kine>,
    /// Everything that is not as it should be.
    pub damage: Vec<Damage>,
}

/// Reads the database at `path` below `dir`, and `path`-wal beside it.
pub fn read(dir: &dyn ReadOnlyDir, path: &str, scratch: &Path) -> Result<Sqlite, ReadError> {
    let mut damage = Vec::new();
    let (wal, journal) = (format!("{path}-wal"), format!("{path}-journal"));
    let kine = match load(dir, path, &wal, scratch, &mut damage) {
        Ok(kine) => kine,
        Err(fault) => {
            damage.push(fault.into_damage(path)?);
            None
        }
    };
    let kine = match kine.map(Kine::open).transpose() {
        Ok(kine) => kine.flatten(),
        Err(ReadError::Sqlite(error)) => {
            damage.push(Damage {
                file: path.to_owned(),
                offset: 0,
                what: format!("the database cannot be read: {error}"),
            });
            None
        }
        Err(error) => return Err(error),
    };
    for problem in kine.iter().flat_map(Kine::check) {
        damage.push(Damage {
            file: path.to_owned(),
            offset: 0,
            what: problem,
        });
    }
    let unfinished = dir
        .file_size_bytes(&journal)
        .and_then(|size| match size {
            Some(_) => dir.read(&journal, 0, JOURNAL_MAGIC.len()),
            None => Ok(Vec::new()),
        })
        .map_err(|source| ReadError::Io {
            what: format!("cannot look at {journal}"),
            source,
        })?
        == JOURNAL_MAGIC;
    if unfinished {
        damage.push(Damage {
            file: journal,
            offset: 0,
            what: "a rollback journal: the database may hold half a transaction, and is not used"
                .to_owned(),
        });
        return Ok(Sqlite { kine: None, damage });
    }
    Ok(Sqlite { kine, damage })
}

fn load(
    dir: &dyn ReadOnlyDir,
    path: &str,
    wal: &str,
    scratch: &Path,
    damage: &mut Vec<Damage>,
) -> Result<Option<tempfile::NamedTempFile>, Fault> {
    let mut image = Image::new(scratch)?;
    let mut input = Input::open(dir, path)?.ok_or_else(|| Fault::bad(0, "is no regular file"))?;
    let mut bytes = input.len();
    if bytes > 0 {
        let mut head = [0; 100];
        input.exact(&mut head)?;
        let page_bytes = snapshot::page_bytes(&head)
            .ok_or_else(|| Fault::bad(0, "no header of a SQLite database"))?;
        image.expect_page_bytes(page_bytes, 16)?;
        let odd = bytes % u64::from(page_bytes);
        if odd > 0 {
            damage.push(Damage {
                file: path.to_owned(),
                offset: bytes - odd,
                what: format!("{odd} bytes that are no whole page, left out"),
            });
            bytes -= odd;
        }
        if bytes < head.len() as u64 {
            return Err(Fault::bad(0, "shorter than one page"));
        }
        image.load(&head, &mut input, bytes, 0)?;
    }
    if let Some(mut input) = Input::open(dir, wal)? {
        let length = input.len();
        let result = sqlite_wal::apply(&mut input, length, &mut image, 0);
        if let Err(Fault::Bad { offset, what }) = result {
            image.rollback();
            damage.push(Damage {
                file: wal.to_owned(),
                offset,
                what: format!("{what}; what it adds from there on is left out"),
            });
        } else {
            result?;
        }
    }
    image.finish()
}
