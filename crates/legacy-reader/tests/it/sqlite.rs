//! Plain SQLite files as kine writes them.

use std::fs;

use tempfile::TempDir;
use trivet_legacy_reader::{Directory, LiveKey, Schema, sqlite};

use crate::support::{assert_rows, fixture, inventory};

fn check(name: &str) {
    let fixture = fixture(&format!("kine-sqlite/{name}"));
    let scratch = TempDir::new().unwrap();
    let before = inventory(fixture.root.path());
    let dir = Directory::new(fixture.root.path().join("db"));
    let read = sqlite::read(&dir, "state.db", scratch.path()).unwrap();
    assert_eq!(before, inventory(fixture.root.path()), "the source changed");
    assert_eq!(read.damage, []);
    assert_rows(&read.kine.unwrap(), &fixture.expected);
}

#[test]
fn k3s_1_18() {
    check("k3s-1.18");
}

#[test]
fn k3s_1_18_wal() {
    check("k3s-1.18-wal");
}

#[test]
fn kine_0_5_indexes() {
    check("kine-0.5-indexes");
}

#[test]
fn kine_newest() {
    check("kine-newest");
}

/// The table of K3s before kine.
#[test]
fn key_value_table() {
    let dir = TempDir::new().unwrap();
    let connection = rusqlite::Connection::open(dir.path().join("state.db")).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE key_value (name INTEGER, value BLOB, create_revision INTEGER, revision INTEGER, \
             ttl INTEGER, version INTEGER, del INTEGER, old_value BLOB, id INTEGER PRIMARY KEY AUTOINCREMENT, \
             old_revision INTEGER);
             INSERT INTO key_value VALUES ('/a', x'01', 1, 1, 0, 1, 0, NULL, NULL, 0);
             INSERT INTO key_value VALUES ('/b', x'02', 2, 2, 0, 1, 0, NULL, NULL, 0);
             INSERT INTO key_value VALUES ('/a', x'03', 1, 3, 1600000000, 2, 0, x'01', NULL, 1);
             INSERT INTO key_value VALUES ('/b', x'', 2, 4, 0, 2, 1, x'02', NULL, 2);",
        )
        .unwrap();
    drop(connection);
    let read = sqlite::read(&Directory::new(dir.path()), "state.db", dir.path()).unwrap();
    let kine = read.kine.unwrap();
    assert_eq!(kine.schema(), Schema::KeyValue);
    let summary = kine.summary().unwrap();
    assert_eq!(
        (summary.rows, summary.live_keys, summary.max_revision),
        (4, 1, 4)
    );
    let mut live = Vec::new();
    kine.for_each_live(|key| {
        live.push(key);
        Ok(())
    })
    .unwrap();
    let only = LiveKey {
        key: b"/a".to_vec(),
        mod_revision: 3,
        create_revision: 1,
        lease: 15,
        value: vec![3],
    };
    assert_eq!(live, [only]);
}

/// With a journal in play the file itself may hold half a transaction.
#[test]
fn hot_journal_is_not_read_past() {
    let fixture = fixture("kine-sqlite/k3s-1.18");
    let db = fixture.root.path().join("db");
    fs::write(
        db.join("state.db-journal"),
        [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7, 0, 0, 0, 1],
    )
    .unwrap();
    let scratch = TempDir::new().unwrap();
    let read = sqlite::read(&Directory::new(&db), "state.db", scratch.path()).unwrap();
    assert!(read.kine.is_none());
    assert_eq!(read.damage[0].file, "state.db-journal");
}
