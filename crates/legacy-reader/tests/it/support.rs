//! Fixtures: unpacked trees, what must come out of them, and that nothing in them changes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use serde_json::Value;
use tempfile::TempDir;
use trivet_legacy_reader::{Kine, Summary};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// An unpacked fixture.
pub(crate) struct Fixture {
    pub(crate) root: TempDir,
    pub(crate) expected: Value,
}

/// Unpacks `<family>/<name>`.
pub(crate) fn fixture(path: &str) -> Fixture {
    let source = fixtures().join(path);
    let root = TempDir::new().unwrap();
    let packed = File::open(source.join("data.tar.zst")).unwrap();
    let plain = ruzstd::decoding::StreamingDecoder::new(packed).unwrap();
    tar::Archive::new(plain).unpack(root.path()).unwrap();
    let expected = ["expected.json", "cases.json"]
        .iter()
        .find_map(|name| fs::read(source.join(name)).ok())
        .unwrap();
    Fixture {
        root,
        expected: serde_json::from_slice(&expected).unwrap(),
    }
}

/// Every file below a directory: type, mode, times and content.
pub(crate) fn inventory(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_file() {
                sha256(&fs::read(&path).unwrap())
            } else if metadata.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                open.push(path.clone());
                String::new()
            };
            let line = format!(
                "{:o} {}.{} {} {content}",
                metadata.mode(),
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ino()
            );
            found.insert(path, line);
        }
    }
    found
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn blob(value: Option<&[u8]>) -> Value {
    let Some(bytes) = value else {
        return Value::Null;
    };
    let mut blob = serde_json::json!({ "len": bytes.len(), "sha256": sha256(bytes) });
    if bytes.len() <= 64 {
        blob["base64"] = base64::engine::general_purpose::STANDARD
            .encode(bytes)
            .into();
    }
    blob
}

/// Compares rows, live keys and counts with what a server answered.
pub(crate) fn assert_rows(kine: &Kine, expected: &Value) {
    let count = |key: &str| expected[key].as_u64().unwrap();
    let summary = Summary {
        rows: count("row_count"),
        live_keys: count("live_count"),
        max_revision: count("max_revision") as i64,
        compact_revision: count("compact_revision") as i64,
    };
    assert_eq!(kine.summary().unwrap(), summary);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut rows = Vec::new();
    kine.for_each_row(|row| {
        rows.push(serde_json::json!({
            "id": row.id,
            "name": text(&row.name),
            "created": i64::from(row.created),
            "deleted": i64::from(row.deleted),
            "create_revision": row.create_revision,
            "prev_revision": row.prev_revision,
            "lease": row.lease,
            "value": blob(row.value.as_deref()),
            "old_value": blob(row.old_value.as_deref()),
        }));
        Ok(())
    })
    .unwrap();
    let wanted = expected["rows"].as_array().unwrap();
    for (found, wanted) in rows.iter().zip(wanted) {
        assert_eq!(found, wanted);
    }
    assert_eq!(rows.len(), wanted.len());
    let mut live = Vec::new();
    kine.for_each_live(|key| {
        let mut value = blob(Some(&key.value));
        value.as_object_mut().unwrap().remove("base64");
        live.push(serde_json::json!({
            "key": text(&key.key),
            "mod_revision": key.mod_revision,
            "create_revision": key.create_revision,
            "lease": key.lease,
            "value": value,
        }));
        Ok(())
    })
    .unwrap();
    let mut wanted = expected["live"].as_array().unwrap().clone();
    for key in &mut wanted {
        if let Some(value) = key["value"].as_object_mut() {
            value.remove("base64");
        }
    }
    assert_eq!(live, wanted);
}
