//! `trivet datastore repair`.

use std::fmt::Write as _;

use serde_json::json;
use trivet_env::Env;
use trivet_store_etcd::{DIR, RepairReport};

use crate::args::{OutputFormat, RepairArgs};
use crate::failure::Failure;
use crate::paths;

pub(crate) fn run(args: &RepairArgs) -> Result<(), Failure> {
    let dir = paths::data_dir(args.data_dir.as_deref())
        .join("server/db")
        .join(DIR);
    let apply = args.yes && !args.dry_run;
    let report = trivet_store_etcd::repair(&Env::real(), &dir, apply).map_err(Failure::other)?;
    match args.output {
        OutputFormat::Json => {
            let json = serde_json::to_string_pretty(&as_json(&report, apply));
            println!("{}", json.map_err(Failure::other)?);
        }
        OutputFormat::Text => print!("{}", text(&report, apply)),
    }
    if report.is_sound() || apply {
        return Ok(());
    }
    Err(Failure::other(anyhow::anyhow!(match report.impossible {
        Some(why) => format!("it cannot be repaired: {why}"),
        None => "nothing was changed; --yes does what is said above".to_owned(),
    })))
}

fn as_json(report: &RepairReport, applied: bool) -> serde_json::Value {
    json!({
        "directory": report.dir,
        "sound": report.is_sound(),
        "applied": applied && !report.is_sound(),
        "damage": report.damage,
        "impossible": report.impossible,
        "checkpoint": { "index": report.checkpoint_index, "revision": report.checkpoint_revision },
        "lastGoodIndex": report.last_good_index,
        "lost": {
            "entries": report.lost_entries,
            "keysOfEntries": report.lost_entries_keys,
            "unknownEntries": report.unknown_entries,
            "keys": report.lost_keys,
            "versions": report.lost_versions.iter()
                .map(|(key, revision)| json!({ "key": key, "revision": revision }))
                .collect::<Vec<_>>(),
        },
        "steps": report.steps,
        "kept": report.kept,
    })
}

fn text(report: &RepairReport, applied: bool) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{}", report.dir.display());
    if report.is_sound() {
        out.push_str("  nothing is damaged\n");
        return out;
    }
    for damage in &report.damage {
        let _ = writeln!(out, "  DAMAGED  {damage}");
    }
    let _ = writeln!(
        out,
        "  kept     the checkpoint of revision {} (log entry {}), and the log up to entry {}",
        report.checkpoint_revision, report.checkpoint_index, report.last_good_index
    );
    if report.lost_entries > 0 {
        let _ = writeln!(
            out,
            "  LOST     {} log entries behind that",
            report.lost_entries
        );
        for key in &report.lost_entries_keys {
            let _ = writeln!(out, "           changes of {key}");
        }
    }
    if report.unknown_entries {
        out.push_str("  LOST     perhaps more entries, of which nothing can be read\n");
    }
    for key in &report.lost_keys {
        let _ = writeln!(out, "  LOST     key {key}: its value cannot be read");
    }
    for (key, revision) in &report.lost_versions {
        let _ = writeln!(out, "  LOST     key {key} as of revision {revision}");
    }
    for step in &report.steps {
        let _ = writeln!(
            out,
            "  {}  {step}",
            if applied { "done   " } else { "to do  " }
        );
    }
    for kept in &report.kept {
        let _ = writeln!(out, "  set aside  {}", kept.display());
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_lost_is_said() {
        let report = RepairReport {
            dir: "/db".into(),
            damage: vec!["a file is damaged at byte 7: x".to_owned()],
            lost_entries: 3,
            lost_entries_keys: vec!["one".to_owned()],
            lost_keys: vec!["two".to_owned()],
            lost_versions: vec![("three".to_owned(), 9)],
            unknown_entries: true,
            steps: vec!["write the log anew".to_owned()],
            ..RepairReport::default()
        };
        let text = text(&report, false);
        for word in [
            "byte 7",
            "3 log entries",
            "one",
            "two",
            "three as of revision 9",
            "perhaps",
            "to do",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert_eq!(as_json(&report, false)["lost"]["keys"][0], "two");
        assert_eq!(as_json(&report, false)["applied"], false);
    }
}
