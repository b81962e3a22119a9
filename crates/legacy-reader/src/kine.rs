//! The rows of kine: every change as a row, whose number is the revision.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use tempfile::NamedTempFile;

use crate::damage::ReadError;

/// Name of the row that carries the compacted revision.
const COMPACT_KEY: &str = "compact_rev_key";
/// Larger values than this never were; Kubernetes stops at 1.5 MiB.
const MAX_VALUE_BYTES: i32 = 256 << 20;
/// Findings of SQLite's own check that are reported.
const MAX_PROBLEMS: u32 = 10;
/// Seconds that kine gives a key with a time to live when it takes over the older table, which
/// has the moment of expiry instead.
const LEASE_OF_OLD_KEYS: i64 = 15;

/// Which table holds the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// `kine`, since K3s v1.0.
    Kine,
    /// `key_value` of the K3s releases before kine, not taken over by a kine since.
    KeyValue,
}

/// A change as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Revision of the change.
    pub id: i64,
    /// The key.
    pub name: Vec<u8>,
    /// Whether the change created the key.
    pub created: bool,
    /// Whether it deleted the key.
    pub deleted: bool,
    /// Revision of the change that created the key; 0 on that row itself.
    pub create_revision: i64,
    /// Revision of the change before this one, 0 for none.
    pub prev_revision: i64,
    /// Time to live in seconds, 0 for none.
    pub lease: i64,
    /// The value. `None` and nothing mean the same; which it is depends on the driver.
    pub value: Option<Vec<u8>>,
    /// The value before.
    pub old_value: Option<Vec<u8>>,
}

/// A key as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveKey {
    /// The key.
    pub key: Vec<u8>,
    /// Revision of its last change.
    pub mod_revision: i64,
    /// Revision of the change that created it.
    pub create_revision: i64,
    /// Time to live in seconds, 0 for none.
    pub lease: i64,
    /// Its value.
    pub value: Vec<u8>,
}

/// The data in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Rows of the table.
    pub rows: u64,
    /// Keys that exist at the newest revision.
    pub live_keys: u64,
    /// The newest revision.
    pub max_revision: i64,
    /// Revisions up to this one are compacted; 0 for none.
    pub compact_revision: i64,
}

/// A kine database, a copy of its own: nothing here touches where it came from.
#[derive(Debug)]
pub struct Kine {
    connection: Connection,
    image: File,
    schema: Schema,
}

impl Kine {
    /// `None` if the database has no table of kine's. The file loses its name, and goes with
    /// the value.
    pub(crate) fn open(file: NamedTempFile) -> Result<Option<Self>, ReadError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file.path(), flags)?;
        let image = file.into_file();
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)?;
        // The database comes from outside: its schema is data, not a program to run.
        connection.execute_batch(
            "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0;",
        )?;
        let has = |table: &str| -> Result<bool, rusqlite::Error> {
            connection
                .prepare("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1")?
                .exists([table])
        };
        let filled = |table: &str| -> Result<bool, rusqlite::Error> {
            connection
                .prepare(&format!("SELECT 1 FROM {table} LIMIT 1"))?
                .exists([])
        };
        let (kine, older) = (has("kine")?, has("key_value")?);
        // Kine takes the older table over when it starts and its own is empty.
        let schema = match (kine, older) {
            (false, false) => return Ok(None),
            (false, true) => Schema::KeyValue,
            (true, true) if !filled("kine")? && filled("key_value")? => Schema::KeyValue,
            (true, _) => Schema::Kine,
        };
        Ok(Some(Self {
            connection,
            image,
            schema,
        }))
    }

    /// Which table the data is in.
    pub fn schema(&self) -> Schema {
        self.schema
    }

    /// What SQLite's own check finds: pages, indexes, uniqueness. Empty if all is well.
    pub(crate) fn check(&self) -> Vec<String> {
        let look = || -> Result<Vec<String>, rusqlite::Error> {
            let mut statement = self
                .connection
                .prepare(&format!("PRAGMA integrity_check({MAX_PROBLEMS})"))?;
            let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
            lines.collect()
        };
        match look() {
            Ok(lines) if lines == ["ok"] => Vec::new(),
            Ok(lines) => lines,
            Err(error) => vec![error.to_string()],
        }
    }

    /// Counts.
    pub fn summary(&self) -> Result<Summary, ReadError> {
        let one = |sql: &str| -> Result<i64, rusqlite::Error> {
            let mut statement = self.connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            Ok(match rows.next()? {
                Some(row) => row.get::<_, Option<i64>>(0)?.unwrap_or(0),
                None => 0,
            })
        };
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        let summary = match self.schema {
            Schema::Kine => Summary {
                rows: count(one("SELECT COUNT(*) FROM kine")?),
                live_keys: count(one(&format!("SELECT COUNT(*) {LIVE}"))?),
                max_revision: one("SELECT MAX(id) FROM kine")?,
                compact_revision: one(&format!(
                    "SELECT prev_revision FROM kine WHERE name = '{COMPACT_KEY}' ORDER BY id DESC LIMIT 1"
                ))?,
            },
            Schema::KeyValue => Summary {
                rows: count(one("SELECT COUNT(*) FROM key_value")?),
                live_keys: count(one(&format!("SELECT COUNT(*) {OLD_LIVE}"))?),
                max_revision: one("SELECT MAX(revision) FROM key_value")?,
                compact_revision: 0,
            },
        };
        Ok(summary)
    }

    /// Every row, by ascending revision.
    pub fn for_each_row(
        &self,
        mut each: impl FnMut(Row) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let sql = match self.schema {
            Schema::Kine => {
                "SELECT id, name, created, deleted, create_revision, prev_revision, lease, value, old_value \
                 FROM kine ORDER BY id"
                    .to_owned()
            }
            Schema::KeyValue => format!(
                "SELECT revision, name, create_revision = revision, del, create_revision, old_revision, \
                 CASE WHEN ttl > 0 THEN {LEASE_OF_OLD_KEYS} ELSE 0 END, value, old_value \
                 FROM key_value ORDER BY revision, id"
            ),
        };
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            each(Row {
                id: integer(row.get_ref(0)?),
                name: bytes(row.get_ref(1)?).unwrap_or_default(),
                created: integer(row.get_ref(2)?) != 0,
                deleted: integer(row.get_ref(3)?) != 0,
                create_revision: integer(row.get_ref(4)?),
                prev_revision: integer(row.get_ref(5)?),
                lease: integer(row.get_ref(6)?),
                value: bytes(row.get_ref(7)?),
                old_value: bytes(row.get_ref(8)?),
            })?;
        }
        Ok(())
    }

    /// Every key that exists at the newest revision, by name.
    pub fn for_each_live(
        &self,
        mut each: impl FnMut(LiveKey) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let sql = match self.schema {
            Schema::Kine => format!(
                "SELECT name, id, CASE WHEN created = 1 THEN id ELSE create_revision END, lease, value \
                 {LIVE} ORDER BY name"
            ),
            Schema::KeyValue => format!(
                "SELECT name, revision, create_revision, \
                 CASE WHEN ttl > 0 THEN {LEASE_OF_OLD_KEYS} ELSE 0 END, value {OLD_LIVE} ORDER BY name"
            ),
        };
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            each(LiveKey {
                key: bytes(row.get_ref(0)?).unwrap_or_default(),
                mod_revision: integer(row.get_ref(1)?),
                create_revision: integer(row.get_ref(2)?),
                lease: integer(row.get_ref(3)?),
                value: bytes(row.get_ref(4)?).unwrap_or_default(),
            })?;
        }
        Ok(())
    }

    /// Size of the database in bytes.
    pub fn image_bytes(&self) -> Result<u64, ReadError> {
        let metadata = self.image.metadata().map_err(image_error)?;
        Ok(metadata.len())
    }

    /// Writes the database out: one ordinary SQLite file with everything in it.
    pub fn write_image(&self, to: &mut dyn Write) -> Result<(), ReadError> {
        let mut from = ReadFrom {
            file: &self.image,
            at: 0,
        };
        io::copy(&mut from, to).map(|_| ()).map_err(image_error)
    }
}

/// From where live keys are selected. The extra row of compaction is no key.
const LIVE: &str = "FROM kine WHERE deleted = 0 AND name <> 'compact_rev_key' \
     AND id IN (SELECT MAX(id) FROM kine GROUP BY name)";
const OLD_LIVE: &str = "FROM key_value WHERE COALESCE(del, 0) = 0 \
     AND id IN (SELECT MAX(id) FROM key_value GROUP BY name)";

struct ReadFrom<'a> {
    file: &'a File,
    at: u64,
}

impl Read for ReadFrom<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(buffer, self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

fn image_error(source: io::Error) -> ReadError {
    ReadError::Io {
        what: "cannot copy the database".to_owned(),
        source,
    }
}

/// SQLite's columns take any type.
fn integer(value: ValueRef<'_>) -> i64 {
    match value {
        ValueRef::Integer(number) => number,
        _ => 0,
    }
}

fn bytes(value: ValueRef<'_>) -> Option<Vec<u8>> {
    match value {
        ValueRef::Null => None,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.to_vec()),
        // A name of digits alone, in a column declared INTEGER.
        ValueRef::Integer(number) => Some(number.to_string().into_bytes()),
        ValueRef::Real(number) => Some(number.to_string().into_bytes()),
    }
}
