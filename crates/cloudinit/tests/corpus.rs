//! The corpus: every case with its expected findings, configuration and start.

#![allow(clippy::print_stdout)] // says which cases fail

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use trivet_cloudinit::merge::{Source, SourceKind, merge};
use trivet_cloudinit::{AuthorizedKey, Finding, PlannedFile, Report, Severity, Start, check};

fn fixtures(group: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(group)
}

fn names(group: &str, suffix: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(fixtures(group))
        .expect("the group exists")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter_map(|name| name.strip_suffix(suffix).map(str::to_owned))
        .collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn expected_json(path: &Path) -> Json {
    serde_json::from_slice(&read(path)).expect("expected results are JSON")
}

fn outcome(document: &trivet_cloudinit::Document) -> (Json, Json) {
    (document.to_json(), Start::of(document).to_json())
}

/// Counts cases and says which ones failed.
fn each(group: &str, names: &[String], case: impl Fn(&str) -> Vec<String>) {
    let mut failed = 0;
    for name in names {
        let problems = case(name);
        if !problems.is_empty() {
            failed += 1;
            println!("{group}/{name}:\n  {}", problems.join("\n  "));
        }
    }
    println!("{group}: {} of {}", names.len() - failed, names.len());
    assert_eq!(failed, 0, "failed cases in {group}");
}

#[test]
fn valid_files() {
    each("valid", &names("valid", ".yaml"), |name| {
        let report = check(name, &read(&fixtures("valid").join(format!("{name}.yaml"))));
        let expected = expected_json(&fixtures("valid").join(format!("{name}.expected.json")));
        let mut problems = Vec::new();
        let found: Vec<Json> = report
            .findings
            .iter()
            .map(|finding| {
                json!({"line": finding.at.line, "col": finding.at.column,
                    "severity": finding.severity.to_string(), "kind": finding.kind.name(),
                    "path": finding.path})
            })
            .collect();
        if json!(found) != expected["warnings"] {
            problems.push(format!("warnings: {}", json!(found)));
        }
        let (config, k3s) = outcome(&report.document);
        if config != expected["config"] {
            problems.push(format!("config: {config}"));
        }
        if k3s != expected["k3s"] {
            problems.push(format!("k3s: {k3s}"));
        }
        if let Some(files) = expected.get("files") {
            let planned: Vec<Json> = PlannedFile::all(&report.document)
                .iter()
                .map(PlannedFile::to_json)
                .collect();
            if json!(planned) != *files {
                problems.push(format!("files: {}", json!(planned)));
            }
        }
        if let Some(ssh) = expected.get("ssh") {
            let (mut literal, mut fetch) = (Vec::new(), Vec::new());
            for item in report.document.list("ssh_authorized_keys") {
                match AuthorizedKey::parse(&item.text) {
                    AuthorizedKey::Literal(line) => literal.push(line),
                    AuthorizedKey::Fetch(url) => fetch.push(url),
                    AuthorizedKey::UnknownScheme(scheme) => panic!("{scheme}"),
                }
            }
            if json!({"literal": literal, "fetch": fetch}) != *ssh {
                problems.push(format!("ssh: {literal:?} {fetch:?}"));
            }
        }
        problems
    });
}

/// An expected finding: `[?]LINE:COL severity kind path [name=value]...`.
struct Expectation {
    optional: bool,
    place: String,
    words: Vec<String>,
    met: bool,
}

fn expectations(path: &Path) -> Vec<Expectation> {
    String::from_utf8(read(path))
        .expect("text")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let place = words.next().expect("a place");
            Expectation {
                optional: place.starts_with('?'),
                place: place.trim_start_matches('?').to_owned(),
                words: words.collect(),
                met: false,
            }
        })
        .collect()
}

fn meets(expectation: &Expectation, place: &str, finding: &Finding) -> bool {
    let same_place = expectation
        .place
        .split(':')
        .zip(place.split(':'))
        .all(|(expected, got)| expected == "*" || expected == got);
    same_place
        && expectation.words[0] == finding.severity.to_string()
        && expectation.words[1] == finding.kind.name()
        && (expectation.words[2] == "*" || expectation.words[2] == finding.path)
        && expectation.words[3..].iter().all(|extra| {
            let (name, value) = extra.split_once('=').expect("name=value");
            let got = finding.get(name);
            // Two cases name the line above the one they mean in the other file.
            if name == "other" {
                let file = |place: &str| place.split(':').next().map(str::to_owned);
                return got.and_then(file) == file(value);
            }
            got == Some(value)
        })
}

/// Compares findings with what is expected of them.
fn compare(mut expected: Vec<Expectation>, found: &[(String, &Finding)]) -> Vec<String> {
    let mut problems = Vec::new();
    for (place, finding) in found {
        let met = expected
            .iter_mut()
            .find(|expectation| !expectation.met && meets(expectation, place, finding));
        match met {
            Some(expectation) => expectation.met = true,
            None if finding.severity == Severity::Error => {
                problems.push(format!("not expected: {place} {finding:?}"));
            }
            None => {}
        }
    }
    for expectation in expected {
        if !expectation.met && !expectation.optional {
            problems.push(format!(
                "missing: {} {}",
                expectation.place,
                expectation.words.join(" ")
            ));
        }
    }
    problems
}

fn in_order(report: &Report) -> bool {
    report.findings.is_sorted_by_key(|finding| finding.at)
}

#[test]
fn invalid_files() {
    each("invalid", &names("invalid", ".yaml"), |name| {
        let report = check(
            name,
            &read(&fixtures("invalid").join(format!("{name}.yaml"))),
        );
        let expected = expectations(&fixtures("invalid").join(format!("{name}.expected.txt")));
        let found: Vec<_> = report
            .findings
            .iter()
            .map(|finding| (finding.at.to_string(), finding))
            .collect();
        let mut problems = compare(expected, &found);
        if !in_order(&report) {
            problems.push("not in the order of the file".to_owned());
        }
        problems
    });
}

/// One run shows the other faults of the exercise's files too, not only the syntax error.
#[test]
fn the_exercise_shows_every_fault_at_once() {
    for name in ["seed-node2", "seed-node3"] {
        let report = check(
            name,
            &read(&fixtures("invalid").join(format!("{name}.yaml"))),
        );
        let found: Vec<_> = report
            .findings
            .iter()
            .map(|finding| format!("{} {}", finding.at, finding.kind))
            .collect();
        for expected in [
            "2:28 annotation-in-value",
            "3:31 yaml-syntax",
            "16:17 annotation-in-value",
            "22:15 placeholder",
            "22:41 annotation-in-value",
        ] {
            assert!(
                found.iter().any(|line| line == expected),
                "{expected}: {found:?}"
            );
        }
        let text = report.to_text();
        assert!(
            text.contains("- \"github:YourGithubUserName\"  # this will be used"),
            "{text}"
        );
    }
}

#[test]
fn command_lines() {
    each("cmdline", &names("cmdline", ".txt"), |name| {
        let bytes = read(&fixtures("cmdline").join(format!("{name}.txt")));
        let report = trivet_cloudinit::check_command_line(name, &bytes);
        let expected = expected_json(&fixtures("cmdline").join(format!("{name}.expected.json")));
        let found: Vec<Json> = report
            .findings
            .iter()
            .map(|finding| {
                json!({"line": finding.at.line, "col": finding.at.column,
                    "severity": finding.severity.to_string(), "kind": finding.kind.name(),
                    "path": finding.path})
            })
            .collect();
        let mut problems = Vec::new();
        if json!(found) != expected["diagnostics"] {
            problems.push(format!("diagnostics: {}", json!(found)));
        }
        let (config, k3s) = outcome(&report.document);
        if config != expected["config"] {
            problems.push(format!("config: {config}"));
        }
        if k3s != expected["k3s"] {
            problems.push(format!("k3s: {k3s}"));
        }
        problems
    });
}

fn kind_of(name: &str) -> SourceKind {
    match &name[..1] {
        "1" => SourceKind::System,
        "2" => SourceKind::CommandLine,
        "3" => SourceKind::Local,
        "4" if name.contains("keys") => SourceKind::ProviderKeys,
        "4" => SourceKind::ProviderHostname,
        "5" => SourceKind::Userdata,
        "6" => SourceKind::ConfigDirectory,
        _ => panic!("{name}"),
    }
}

#[test]
fn merges() {
    each("merge", &names("merge", ""), |name| {
        let directory = fixtures("merge").join(name);
        let expected = expected_json(&directory.join("expected.json"));
        // The strongest first: the order in which sources are given means nothing.
        let sources = names(&format!("merge/{name}"), "")
            .into_iter()
            .rev()
            .filter(|file| file != "expected.json")
            .map(|file| Source {
                kind: kind_of(&file),
                bytes: read(&directory.join(&file)),
                name: file,
            })
            .collect();
        let merged = merge(sources);
        let mut problems = Vec::new();
        let (config, k3s) = outcome(&merged.document);
        if config != expected["config"] {
            problems.push(format!("config: {config}"));
        }
        if k3s != expected["k3s"] {
            problems.push(format!("k3s: {k3s}"));
        }
        let sources: Vec<&str> = merged
            .reports
            .iter()
            .map(|report| report.file.as_str())
            .collect();
        if json!(sources) != expected["sources"] {
            problems.push(format!("sources: {sources:?}"));
        }
        let dropped = merged.dropped();
        for path in expected["dropped"].as_array().expect("a list") {
            if !dropped
                .iter()
                .any(|got| Some(got.as_str()) == path.as_str())
            {
                problems.push(format!("not dropped: {path}, only {dropped:?}"));
            }
        }
        problems
    });
}

#[test]
fn clusters() {
    each("cluster", &names("cluster", ""), |name| {
        let files = names(&format!("cluster/{name}"), ".yaml");
        let mut reports: Vec<Report> = files
            .iter()
            .map(|file| {
                let file = format!("{file}.yaml");
                let bytes = read(&fixtures("cluster").join(name).join(&file));
                check(&file, &bytes)
            })
            .collect();
        trivet_cloudinit::cluster::check(&mut reports);
        let found: Vec<_> = reports
            .iter()
            .flat_map(|report| {
                report
                    .findings
                    .iter()
                    .map(|finding| (format!("{}:{}", report.file, finding.at), finding))
            })
            .collect();
        let mut problems = compare(
            expectations(&fixtures("cluster").join(name).join("expected.txt")),
            &found,
        );
        if name.starts_with("ok") && !found.is_empty() {
            problems.push(format!("{found:?}"));
        }
        problems
    });
}

/// Errors that stand on one line each hide nothing that follows.
#[test]
fn several_syntax_errors_are_found_in_one_run() {
    let text = "run_cmd:\n- \"cd /x\" && ls\n- echo: hi: there\nk3os:\n  password: *secret\n  ntp_servers:\n  - *.pool.ntp.org\n  token: @abc\n  k3s_args:\n  - server\n  - \"--token=abcdef\" (the secret)\n  - --tsl-san=a\n";
    let report = check("f", text.as_bytes());
    let found: Vec<String> = report
        .findings
        .iter()
        .map(|finding| format!("{} {}", finding.at, finding.kind))
        .collect();
    assert_eq!(
        found,
        [
            "2:11 yaml-syntax",
            "3:11 yaml-syntax",
            "5:13 yaml-syntax",
            "7:5 yaml-syntax",
            "8:10 yaml-syntax",
            "11:22 yaml-syntax",
            "12:5 bad-k3s-arg",
        ]
    );
    assert!(!report.to_text().contains("abcdef"));
}

/// No kind exists only on paper.
#[test]
fn every_kind_is_produced() {
    let mut seen = std::collections::BTreeSet::new();
    let mut note =
        |report: &Report| seen.extend(report.findings.iter().map(|finding| finding.kind));
    for group in ["valid", "invalid"] {
        for name in names(group, ".yaml") {
            note(&check(
                &name,
                &read(&fixtures(group).join(format!("{name}.yaml"))),
            ));
        }
    }
    for name in names("cmdline", ".txt") {
        let bytes = read(&fixtures("cmdline").join(format!("{name}.txt")));
        note(&trivet_cloudinit::check_command_line(&name, &bytes));
    }
    for case in names("cluster", "") {
        let mut reports: Vec<Report> = names(&format!("cluster/{case}"), ".yaml")
            .iter()
            .map(|name| {
                check(
                    name,
                    &read(&fixtures("cluster").join(&case).join(format!("{name}.yaml"))),
                )
            })
            .collect();
        trivet_cloudinit::cluster::check(&mut reports);
        reports.iter().for_each(&mut note);
    }
    // The corpus has none of these.
    note(&check("odd", b"k3os: {modul: kvm, Token: abc}\n"));
    let missing: Vec<_> = trivet_cloudinit::Kind::ALL
        .iter()
        .filter(|kind| !seen.contains(kind))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// URLs that lead nowhere, said only when every other server's addresses are known.
#[test]
fn join_urls_must_lead_to_a_server() {
    let check_pair = |first: &str, second: &str| {
        let mut reports = vec![check("a", first.as_bytes()), check("b", second.as_bytes())];
        trivet_cloudinit::cluster::check(&mut reports);
        reports[1]
            .findings
            .iter()
            .filter(|finding| finding.kind.name() == "bad-url")
            .map(|finding| (finding.at.to_string(), finding.severity))
            .collect::<Vec<_>>()
    };
    let joiner = |host: &str| {
        format!(
            "k3os: {{token: t, server_url: 'https://{host}:6443', k3s_args: [server, --node-name=b, --node-ip=10.0.0.2]}}\n"
        )
    };
    let founder = "k3os: {token: t, k3s_args: [server, --cluster-init, --node-name=a, --node-ip=10.0.0.1, '--tls-san=k.example.net']}\n";
    let unknown = "k3os: {token: t, k3s_args: [server, --cluster-init, --node-name=a]}\n";
    let warned = [("1:18".to_owned(), Severity::Warning)];
    assert!(check_pair(founder, &joiner("10.0.0.1")).is_empty());
    assert!(check_pair(founder, &joiner("k.example.net")).is_empty());
    assert!(check_pair(unknown, &joiner("10.9.9.9")).is_empty());
    assert_eq!(check_pair(founder, &joiner("10.9.9.9")), warned);
    assert_eq!(check_pair(founder, &joiner("10.0.0.2")), warned);
}
