//! `trivet cloudinit` as a user calls it: output and exit codes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../cloudinit/tests/fixtures")
        .join(path)
}

fn cloudinit(words: &[&str], files: &[PathBuf]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_trivet"))
        .arg("cloudinit")
        .args(words)
        .args(files)
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn exit_codes_tell_clean_from_wrong_from_unusable() {
    let good = fixture("valid/node2-clean.yaml");
    let warned = fixture("valid/seed-node1-init.yaml");
    let bad = fixture("invalid/seed-node2.yaml");
    let code = |words: &[&str], files: &[PathBuf]| cloudinit(words, files).0;
    assert_eq!(code(&["validate"], std::slice::from_ref(&good)), Some(0));
    assert_eq!(code(&["validate"], std::slice::from_ref(&warned)), Some(0));
    assert_eq!(code(&["validate", "--strict"], &[warned]), Some(1));
    assert_eq!(code(&["validate"], &[good, bad.clone()]), Some(1));
    assert_eq!(code(&["render"], &[bad]), Some(1));
    assert_eq!(code(&["validate"], &[]), Some(2));
    assert_eq!(code(&["validate"], &[fixture("none.yaml")]), Some(2));
    assert_eq!(code(&["validate"], &[fixture("valid")]), Some(2));
}

#[test]
fn findings_are_objects() {
    let file = fixture("invalid/lost-indent.yaml");
    let (code, stdout, _) = cloudinit(&["validate", "--json"], std::slice::from_ref(&file));
    assert_eq!(code, Some(1));
    let findings: Vec<Value> = serde_json::from_str(&stdout).expect("a JSON array");
    assert_eq!(findings.len(), 4);
    let token = &findings[2];
    assert_eq!(token["file"], file.display().to_string());
    assert_eq!((&token["line"], &token["column"]), (&4.into(), &1.into()));
    assert_eq!(token["severity"], "error");
    assert_eq!(token["kind"], "misplaced-key");
    assert_eq!(token["path"], "token");
    assert_eq!(token["move"], "k3os.token");
    assert!(!stdout.contains("abc-def-1"));

    let (code, stdout, _) = cloudinit(&["validate", "--json"], &[fixture("valid/aliases.yaml")]);
    assert_eq!((code, stdout.as_str()), (Some(0), "[]\n"));
}

#[test]
fn a_cluster_is_looked_at_as_a_whole() {
    let files = |case: &str| -> Vec<PathBuf> {
        (1..=3)
            .map(|node| fixture(&format!("cluster/{case}/node{node}.yaml")))
            .collect()
    };
    let (code, stdout, _) = cloudinit(&["cluster", "check"], &files("ok-three-servers"));
    assert_eq!(code, Some(0), "{stdout}");
    let (code, stdout, _) = cloudinit(&["cluster", "check"], &files("token-mismatch"));
    assert_eq!(code, Some(1));
    assert_eq!(stdout.matches("token-mismatch k3os.token").count(), 2);
    assert!(!stdout.contains("SECRET"), "{stdout}");
}

#[test]
fn secrets_are_rendered_only_when_asked_for() {
    let file = [fixture("valid/agent-implicit.yaml")];
    let (code, masked, _) = cloudinit(&["render", "--json"], &file);
    assert_eq!(code, Some(0));
    assert!(!masked.contains("s3cr3t"));
    let (_, text, _) = cloudinit(&["render"], &file);
    assert!(
        text.contains("K3S_TOKEN=") && !text.contains("s3cr3t"),
        "{text}"
    );
    let (_, shown, _) = cloudinit(&["render", "--json", "--show-secrets"], &file);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    let expected = std::fs::read(fixture("valid/agent-implicit.expected.json")).expect("there");
    let expected: Value = serde_json::from_slice(&expected).expect("JSON");
    for key in ["config", "k3s", "ssh"] {
        assert_eq!(shown[key], expected[key], "{key}");
    }
}

/// The places k3OS reads, below another root.
#[test]
fn a_machine_s_sources_are_found_and_explained() {
    let root = tempfile::tempdir().expect("a directory");
    let case = fixture("merge/full-precedence");
    for (from, to) in [
        ("1-system.yaml", "k3os/system/config.yaml"),
        ("2-cmdline.txt", "proc/cmdline"),
        ("3-local.yaml", "var/lib/rancher/k3os/config.yaml"),
        ("4-authorized_keys", "run/config/ssh/authorized_keys"),
        ("4-local_hostname", "run/config/local_hostname"),
        ("5-userdata", "run/config/userdata"),
        (
            "6-config.d-20-b.yaml",
            "var/lib/rancher/k3os/config.d/20-b.yaml",
        ),
        (
            "6-config.d-10-a.yaml",
            "var/lib/rancher/k3os/config.d/10-a.yaml",
        ),
    ] {
        let to = root.path().join(to);
        std::fs::create_dir_all(to.parent().expect("a parent")).expect("created");
        std::fs::copy(case.join(from), to).expect("copied");
    }
    let words = ["merge", "--json", "--explain", "--show-secrets", "--root"];
    let (code, stdout, stderr) = cloudinit(&words, &[root.path().to_owned()]);
    assert_eq!(code, Some(0), "{stderr}");
    let merged: Value = serde_json::from_str(&stdout).expect("JSON");
    let expected = std::fs::read(case.join("expected.json")).expect("there");
    let expected: Value = serde_json::from_slice(&expected).expect("JSON");
    assert_eq!(merged["config"], expected["config"]);
    assert_eq!(merged["k3s"], expected["k3s"]);
    let token = merged["origins"]
        .as_array()
        .and_then(|all| all.iter().find(|origin| origin["path"] == "k3os.token"))
        .expect("the token's origin");
    let file = token["file"].as_str().expect("a name");
    assert!(file.ends_with("run/config/userdata"), "{file}");
    assert_eq!(token["line"], 3);
    assert_eq!(token["replaced"].as_array().map(Vec::len), Some(3));

    let words = ["merge", "--explain", "--root"];
    let (_, text, _) = cloudinit(&words, &[root.path().to_owned()]);
    assert!(text.contains("k3os.modules[\"ten\"]"), "{text}");
    assert!(!text.contains("from-userdata"), "{text}");
}
