//! Foreign data in the way: refused before anything is written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use trivet_harness::Process;

use crate::support::{STEP, Scenario};

#[test]
fn foreign_datastores_are_never_touched() {
    let scenario = Scenario::new("guard");
    let cases: [(&str, &str, &[u8]); 3] = [
        (
            "etcd/member/wal/0000000000000000-0000000000000000.wal",
            "etcd",
            b"wal",
        ),
        ("state.db", "state.db", b"SQLite format 3\0"),
        (
            "state.dqlite/metadata1",
            "dqlite",
            &[1, 0, 0, 0, 0, 0, 0, 0],
        ),
    ];
    for (place, (file, word, content)) in cases.into_iter().enumerate() {
        let number = 20 + place as u8;
        let db = scenario.cluster.data_dir(number).join("server/db");
        let path = db.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let mut command = scenario.cluster.server_command(number);
        command.arg("--cluster-init");
        let log = scenario.scratch().join(format!("guard-{number}.log"));
        let mut process = Process::start(&mut command, &log).unwrap();
        let status = process
            .wait(STEP)
            .unwrap_or_else(|error| panic!("{error}: {}", process.log()));
        assert_eq!(status.code(), Some(3), "{}", process.log());
        assert!(process.log().contains(word), "{}", process.log());
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!(
            fs::read_dir(&db).unwrap().count(),
            1,
            "something was written beside {file}"
        );
        assert!(
            !scenario
                .cluster
                .data_dir(number)
                .join("server/tls")
                .exists()
        );
    }
}

/// Unpacks what a real server left behind.
fn unpack(fixture: &str, into: &Path) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../legacy-reader/tests/fixtures")
        .join(fixture)
        .join("data.tar.zst");
    let packed = File::open(path).unwrap();
    let plain = ruzstd::decoding::StreamingDecoder::new(packed).unwrap();
    fs::create_dir_all(into).unwrap();
    tar::Archive::new(plain).unpack(into).unwrap();
}

/// Everything below a directory: mode, owner, time, size, content.
fn inventory(root: &Path) -> BTreeMap<PathBuf, (u32, u32, i64, i64, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let content = metadata.is_file().then(|| fs::read(&path).unwrap());
        let facts = (
            metadata.mode(),
            metadata.uid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            content,
        );
        found.insert(path, facts);
    }
    found
}

#[test]
fn genuine_dqlite_is_refused_whatever_the_flags() {
    let scenario = Scenario::new("guard-dqlite");
    let number = 30;
    let data_dir = scenario.cluster.data_dir(number);
    unpack("dqlite/k3s-1.0-migrated", &data_dir.join("server"));
    let before = inventory(&data_dir);
    let forms: [&[&str]; 4] = [
        &[],
        &["--cluster-init"],
        &["--server", "https://127.0.0.1:1", "--token", "secret"],
        &["--cluster-init", "--datastore", "memory"],
    ];
    for form in forms {
        let mut command = scenario.cluster.server_command(number);
        command.args(form);
        let log = scenario.scratch().join("guard-dqlite.log");
        let mut process = Process::start(&mut command, &log).unwrap();
        let status = process
            .wait(STEP)
            .unwrap_or_else(|error| panic!("{error}: {}", process.log()));
        let said = process.log();
        assert_eq!(status.code(), Some(3), "{form:?}: {said}");
        for word in [
            "state.dqlite (k3s-dqlite: ",
            "51 live keys up to revision 164",
            "state.db (k3s-sqlite: ",
            "the copy from before K3s moved to dqlite",
            "Nothing was changed",
            "K3s 1.18 is the last that runs on dqlite",
            "server/db.set-aside'",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(before == inventory(&data_dir), "{form:?} changed something");
    }
}

/// Every strange tree that the guard must stop at, and stores of K3s's that are not dqlite.
#[test]
fn every_layout_is_left_alone() {
    let scenario = Scenario::new("guard-layouts");
    let trees = scenario.scratch().join("layouts");
    unpack("dqlite/layouts", &trees);
    let mut cases = 0;
    for entry in fs::read_dir(&trees).unwrap() {
        let case = entry.unwrap().path();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        // A server may start beside these.
        if matches!(name.as_str(), "empty-db" | "foreign-dqlite") {
            continue;
        }
        cases += 1;
        let number = 40;
        let data_dir = scenario.cluster.data_dir(number);
        fs::create_dir_all(&data_dir).unwrap();
        fs::rename(&case, data_dir.join("server")).unwrap();
        let before = inventory(&data_dir);
        let refused_flag: &[&str] = &["--cluster-init", "--cluster-reset"];
        for (form, code) in [(&["--cluster-init"][..], 3), (&[], 3), (refused_flag, 2)] {
            let mut command = scenario.cluster.server_command(number);
            command.args(form);
            let log = scenario.scratch().join("guard-layouts.log");
            let mut process = Process::start(&mut command, &log).unwrap();
            let status = process
                .wait(STEP)
                .unwrap_or_else(|error| panic!("{name}: {error}: {}", process.log()));
            let said = process.log();
            assert_eq!(status.code(), Some(code), "{name} {form:?}: {said}");
            assert!(before == inventory(&data_dir), "{name}: changed");
        }
        fs::remove_dir_all(&data_dir).unwrap();
    }
    assert_eq!(cases, 14);
}

fn inspect(dir: &Path) -> (Option<i32>, serde_json::Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_trivet"))
        .args(["datastore", "inspect", "-o", "json"])
        .arg(dir)
        .output()
        .unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), json)
}

#[test]
fn old_datastores_can_be_inspected() {
    let scratch = tempfile::tempdir().unwrap();
    let data_dir = scratch.path().join("good");
    unpack("dqlite/k3s-1.0-migrated", &data_dir.join("server"));
    let before = inventory(&data_dir);
    for dir in ["", "server/db", "server/db/state.dqlite"] {
        let (code, json) = inspect(&data_dir.join(dir));
        assert_eq!(code, Some(0), "{json}");
        assert_eq!(json["kind"], "k3s-dqlite");
        assert_eq!(json["rows"], 144);
        assert_eq!(json["live_keys"], 51);
        assert_eq!(json["max_revision"], 164);
        assert_eq!(json["compact_revision"], 43);
        assert_eq!(json["damage"], serde_json::json!([]));
    }
    let (_, json) = inspect(&data_dir);
    assert_eq!(json["others"][0]["kind"], "k3s-sqlite");
    assert_eq!(json["others"][0]["stale"], true);
    let (code, json) = inspect(&data_dir.join("server/db/state.db"));
    assert_eq!((code, &json["kind"]), (Some(0), &"k3s-sqlite".into()));
    assert!(before == inventory(&data_dir));

    let damaged = scratch.path().join("damaged");
    unpack("dqlite/k3s-1.18-torn-short", &damaged);
    let (code, json) = inspect(&damaged.join("db"));
    assert_eq!(code, Some(1));
    assert_eq!(json["rows"], 131);
    assert_eq!(json["damage"][0]["file"], "state.dqlite/open-1");
    assert_eq!(json["damage"][0]["offset"], 2_546_192);

    fs::create_dir(scratch.path().join("empty")).unwrap();
    let (code, json) = inspect(&scratch.path().join("empty"));
    assert_eq!((code, &json["kind"]), (Some(0), &"none".into()));
    assert_eq!(inspect(&scratch.path().join("nowhere")).0, Some(1));
}
