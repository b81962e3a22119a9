//! Trees as they lie below `server/`, good and strange.

use std::fs;

use tempfile::TempDir;
use trivet_datastore::Backend;
use trivet_legacy_reader::survey::{Finding, Kind, survey};
use trivet_legacy_reader::{Directory, LegacyProbe};

use crate::support::{fixture, inventory};

fn of(findings: &[Finding], kind: Kind) -> Option<&Finding> {
    findings.iter().find(|finding| finding.kind == kind)
}

#[test]
fn every_layout() {
    let layouts = fixture("dqlite/layouts");
    let cases = layouts.expected.as_object().unwrap();
    assert_eq!(cases.len(), 16);
    let before = inventory(layouts.root.path());
    for (case, expected) in cases {
        let dir = Directory::new(layouts.root.path().join(case).join("db"));
        let scratch = TempDir::new().unwrap();
        let found = survey(&dir, scratch.path()).unwrap();
        let dqlite = of(&found, Kind::K3sDqlite);
        let lines: Vec<_> = found.iter().map(Finding::describe).collect();
        assert_eq!(
            dqlite.is_some(),
            expected["k3s_dqlite_marker"].as_bool().unwrap(),
            "{case}: {lines:?}"
        );
        // SQLite and etcd of K3s block too; the file speaks of dqlite alone.
        let blocks = found.iter().any(|finding| finding.blocks);
        match expected["guard_must_block"].as_bool() {
            Some(block) => assert_eq!(
                blocks,
                block || matches!(case.as_str(), "sqlite-only" | "etcd-only"),
                "{case}: {lines:?}"
            ),
            None => assert!(blocks, "{case}"),
        }
        let has_rows = matches!(
            case.as_str(),
            "dqlite"
                | "dqlite-set-aside"
                | "dqlite-and-sqlite"
                | "dqlite-and-etcd"
                | "dqlite-symlink"
                | "dqlite-no-metadata"
                | "dqlite-short-metadata"
        );
        if let Some(dqlite) = dqlite {
            assert_eq!(dqlite.path, "state.dqlite");
            assert_eq!(dqlite.summary.is_some(), has_rows, "{case}: {lines:?}");
            assert_eq!(
                dqlite.damage.is_empty(),
                case != "dqlite-unknown-format",
                "{case}: {lines:?}"
            );
            if let Some(summary) = dqlite.summary {
                assert!(summary.live_keys > 0 && summary.max_revision > 0, "{case}");
            }
        }
        let sqlite = of(&found, Kind::K3sSqlite);
        assert_eq!(
            sqlite.map(|finding| (finding.stale, finding.summary.is_some())),
            match case.as_str() {
                "sqlite-only" => Some((false, true)),
                "dqlite-and-sqlite" => Some((true, true)),
                _ => None,
            },
            "{case}: {lines:?}"
        );
        assert_eq!(
            of(&found, Kind::K3sEtcd).is_some(),
            case.ends_with("etcd") || case == "etcd-only",
            "{case}: {lines:?}"
        );
        assert_eq!(
            of(&found, Kind::OtherDqlite).is_some(),
            matches!(case.as_str(), "foreign-dqlite" | "dqlite-symlink"),
            "{case}: {lines:?}"
        );
        // The guard sees exactly what blocks.
        let footprints = LegacyProbe::new(scratch.path()).probe(&dir).unwrap();
        assert_eq!(
            footprints.len(),
            found.iter().filter(|finding| finding.blocks).count()
        );
    }
    assert_eq!(before, inventory(layouts.root.path()));
}

#[test]
fn what_is_said() {
    let layouts = fixture("dqlite/layouts");
    let say = |case: &str| -> Vec<String> {
        let dir = Directory::new(layouts.root.path().join(case).join("db"));
        let scratch = TempDir::new().unwrap();
        survey(&dir, scratch.path())
            .unwrap()
            .iter()
            .map(|finding| format!("{}: {}", finding.path, finding.describe()))
            .collect()
    };
    for (case, lines) in [
        ("empty-db", &[][..]),
        (
            "dqlite-never-started",
            &["state.dqlite: a dqlite database of K3s 1.0 to 1.18 that was never started"],
        ),
        (
            "dqlite-bootstrapped-only",
            &[
                "state.dqlite: a dqlite database of K3s 1.0 to 1.18 in which nothing was ever written",
            ],
        ),
        (
            "dqlite-empty-directory",
            &["state.dqlite: the empty directory of a dqlite database of K3s 1.0 to 1.18"],
        ),
        (
            "state.dqlite-is-a-file",
            &[
                "state.dqlite: no directory, in the place where K3s 1.0 to 1.18 keeps its dqlite database",
            ],
        ),
    ] {
        assert_eq!(say(case), lines, "{case}");
    }
    let aside = &say("dqlite-set-aside")[0];
    assert!(
        aside.contains("set aside by K3s in state.dqlite/.backup-1580000000 with "),
        "{aside}"
    );
    let stale = &say("dqlite-and-sqlite")[0];
    assert!(
        stale.contains("the copy from before K3s moved to dqlite, with "),
        "{stale}"
    );
}

#[test]
fn a_dangling_link_and_a_damaged_file_count() {
    let dir = TempDir::new().unwrap();
    let scratch = TempDir::new().unwrap();
    let found = survey(&Directory::new(dir.path().join("db")), scratch.path()).unwrap();
    assert_eq!(found, []);
    std::os::unix::fs::symlink("nowhere", dir.path().join("state.dqlite")).unwrap();
    fs::write(dir.path().join("state.db"), vec![7; 5000]).unwrap();
    let found = survey(&Directory::new(dir.path()), scratch.path()).unwrap();
    let blocking: Vec<_> = found
        .iter()
        .filter(|finding| finding.blocks)
        .map(|finding| finding.path.as_str())
        .collect();
    assert_eq!(blocking, ["state.db", "state.dqlite"]);
}
