//! Directories written by real dqlite servers.

use serde_json::Value;
use tempfile::TempDir;
use trivet_legacy_reader::{Directory, Dqlite, dqlite};

use crate::support::{Fixture, assert_rows, fixture, inventory};

fn read(fixture: &Fixture) -> Dqlite {
    let scratch = TempDir::new().unwrap();
    let before = inventory(fixture.root.path());
    let dir = Directory::new(fixture.root.path().join("db"));
    let read = dqlite::read(&dir, "state.dqlite", scratch.path()).unwrap();
    assert_eq!(before, inventory(fixture.root.path()), "the source changed");
    assert_eq!(
        std::fs::read_dir(scratch.path()).unwrap().count(),
        0,
        "scratch files stayed behind"
    );
    read
}

/// Compares with `expected.json`; returns the damage as `file@offset`.
fn check(name: &str) -> Vec<String> {
    let fixture = fixture(&format!("dqlite/{name}"));
    let read = read(&fixture);
    let expected = &fixture.expected;
    let raft = &expected["raft"]["db/state.dqlite"];
    assert_rows(read.kine.as_ref().unwrap(), expected);
    assert_eq!(
        read.databases,
        [expected["database"].as_str().unwrap().to_owned()]
    );
    assert_eq!(read.last_index, raft["last_index"].as_u64().unwrap());
    // Where the newest snapshot is damaged, "raft" names the one that is not used.
    if read
        .damage
        .iter()
        .all(|damage| !damage.file.contains("snapshot"))
    {
        assert_eq!(read.snapshot.as_deref(), raft["snapshot"]["file"].as_str());
    }
    let newest = raft["metadata"]
        .as_object()
        .unwrap()
        .values()
        .max_by_key(|metadata| metadata["version"].as_u64())
        .unwrap();
    let metadata = read.metadata.unwrap();
    assert_eq!(
        serde_json::json!({
            "version": metadata.version,
            "term": metadata.term,
            "voted_for": metadata.voted_for,
        }),
        *newest
    );
    assert_eq!(
        read.node_id,
        Some(match name {
            "k3s-1.0-joined" => 3_810_358_016_083_437_419,
            _ => 1,
        })
    );
    let pages = &raft["databases"][0];
    assert_eq!(
        read.kine.as_ref().unwrap().image_bytes().unwrap(),
        pages["pages"].as_u64().unwrap() * pages["page_size"].as_u64().unwrap()
    );
    let servers: Vec<(u64, &str, bool)> = raft["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|server: &Value| {
            (
                server["id"].as_u64().unwrap(),
                server["address"].as_str().unwrap(),
                server["role"] == "voter",
            )
        })
        .collect();
    let found: Vec<(u64, &str, bool)> = read
        .servers
        .iter()
        .map(|server| (server.id, server.address.as_str(), server.voter))
        .collect();
    assert_eq!(found, servers);
    read.damage
        .iter()
        .map(|damage| {
            assert!(!damage.what.is_empty());
            format!(
                "{}@{}",
                damage.file.trim_start_matches("state.dqlite/"),
                damage.offset
            )
        })
        .collect()
}

macro_rules! fixtures {
    ($($test:ident $name:literal: $damage:expr;)*) => {$(
        #[test]
        fn $test() {
            let damage: &[&str] = &$damage;
            assert_eq!(check($name), damage);
        }
    )*};
}

fixtures! {
    k3s_1_0_migrated "k3s-1.0-migrated": [];
    k3s_1_0_snapshot_tail "k3s-1.0-snapshot-tail": [];
    k3s_1_0_joined "k3s-1.0-joined": [];
    k3s_1_0_to_1_18 "k3s-1.0-to-1.18": [];
    k3s_1_17_pruned "k3s-1.17-pruned": [];
    k3s_1_18_open "k3s-1.18-open": [];
    k3s_1_18_closed "k3s-1.18-closed": [];
    k3s_1_18_snapshot_tail "k3s-1.18-snapshot-tail": [];
    k3s_1_18_snapshot_small "k3s-1.18-snapshot-small": [];
    k3s_1_18_spilled_tx "k3s-1.18-spilled-tx": [];
    dqlite_1_11_open "dqlite-1.11-open": [];
    dqlite_1_11_closed "dqlite-1.11-closed": [];
    torn_blocks "k3s-1.18-torn-blocks": ["open-1@2579232"];
    torn_short "k3s-1.18-torn-short": ["open-1@2546192"];
    badcrc_open "k3s-1.18-badcrc-open": ["open-1@1610112"];
    badcrc_closed "k3s-1.18-badcrc-closed": [
        "0000000000000002-0000000000000098@875024",
        "0000000000000099-0000000000000160@0",
    ];
    badcrc_snapshot_meta "k3s-1.18-badcrc-snapshot-meta": ["snapshot-1-100-3327901.meta@16"];
    short_snapshot "k3s-1.18-short-snapshot": ["snapshot-1-100-3327901@1077840"];
}
