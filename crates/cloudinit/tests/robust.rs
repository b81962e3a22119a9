//! Hostile input: no panic, and no more time than the size explains.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use trivet_cloudinit::merge::{Source, SourceKind, merge, overlay};
use trivet_cloudinit::{PlannedFile, Report, Severity, Start, check, check_command_line, cluster};

/// Everything that can be asked about a file.
fn exercise(bytes: &[u8]) -> Report {
    let report = check("f", bytes);
    let _ = report.to_text();
    let _ = report.to_json();
    let _ = report.document.to_json();
    let _ = Start::of(&report.document).to_json();
    let _ = PlannedFile::all(&report.document);
    let _ = check_command_line("c", bytes).to_text();
    let source = |kind| Source {
        kind,
        name: "s".to_owned(),
        bytes: bytes.to_vec(),
    };
    let merged = merge(vec![
        source(SourceKind::System),
        source(SourceKind::CommandLine),
        source(SourceKind::Userdata),
        source(SourceKind::ProviderKeys),
        source(SourceKind::ProviderHostname),
    ]);
    let _ = merged.dropped();
    let _ = overlay(&[("a".to_owned(), bytes.to_vec())]);
    let mut reports = vec![check("a", bytes), check("b", bytes)];
    cluster::check(&mut reports);
    report
}

/// Pieces of configurations, so that random files get past the parser.
fn fragment() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "k3os:\n",
        "  token: ",
        "  k3s_args:\n",
        "  - server\n",
        "  - --cluster-init\n",
        "  - --token\n",
        "  server_url: ",
        "https://h:6443\n",
        "hostname: ",
        "write_files:\n",
        "- path: /a\n",
        "  content: ",
        "  encoding: gz+b64\n",
        "&a ",
        "*a",
        "<<: *a\n",
        "\"",
        "'",
        "(x)",
        " (x)\n",
        "\u{201c}",
        "\u{201d}\n",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "\n",
        "\t",
        "# c\n",
        "---\n",
        "yes\n",
        "1\n",
        "~\n",
        "!!binary ",
        "|\n",
        "k3os.labels.a=b ",
        "k3os.install.debug ",
        "  labels: {a: 1}\n",
        "  sysctls: {a.b: x}\n",
        "<ip>",
        "192.168.1.X",
        "\r\n",
        "  environment: {A: b}\n",
        "é",
        "ssh_authorized_keys: [",
        "github:x",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_explained(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        exercise(&bytes);
    }

    #[test]
    fn arbitrary_text_is_explained(text in "\\PC{0,200}") {
        exercise(text.as_bytes());
    }

    #[test]
    fn shuffled_configurations_are_explained(pieces in proptest::collection::vec(fragment(), 0..40)) {
        let text = pieces.concat();
        let report = exercise(text.as_bytes());
        // Every finding lies in the file.
        let lines: Vec<&str> = text.split('\n').collect();
        for finding in &report.findings {
            prop_assert!(finding.at.line >= 1 && finding.at.line <= lines.len() + 1, "{finding:?}");
        }
        prop_assert!(report.findings.is_sorted_by_key(|finding| finding.at));
    }
}

#[test]
fn a_megabyte_of_anything_takes_bounded_time() {
    let megabyte = 1 << 20;
    let fill = |unit: &str| unit.repeat(megabyte / unit.len());
    let distinct = |prefix: &str| {
        let mut text = String::from(prefix);
        let mut number = 0;
        while text.len() < megabyte - 40 {
            text.push_str(&format!("    key{number}: v\n"));
            number += 1;
        }
        text
    };
    let merging = {
        let mut text = String::from("a: &a\n");
        for number in 0..20_000 {
            text.push_str(&format!("  k{number}: v\n"));
        }
        text.push_str("write_files:\n");
        while text.len() < megabyte - 20 {
            text.push_str("- <<: *a\n");
        }
        text
    };
    let cases = [
        ("brackets", fill("[")),
        ("braces", fill("{a: ")),
        ("dashes", fill("- ")),
        ("questions", fill("? ")),
        ("one long line", fill("x")),
        ("one long key", format!("{}: x", "x".repeat(megabyte - 4))),
        (
            "unclosed quote",
            format!("a: \"{}", "x\n".repeat(megabyte / 2 - 4)),
        ),
        ("unknown keys", distinct("k3os:\n")),
        ("labels", distinct("k3os:\n  labels:\n")),
        ("merge keys", merging),
        ("text after quotes", fill("- \"a\" (b)\n")),
        ("anchors", fill("- &a x\n")),
        ("tabs", fill("\ta: b\n")),
        ("words", fill("k3os.a=b ")),
        (
            "deepening",
            (0..1400)
                .map(|depth| format!("{}a:\n", " ".repeat(depth)))
                .collect(),
        ),
        (
            "arguments",
            format!("k3os:\n  k3s_args:\n{}", "  - --tls-san\n".repeat(60_000)),
        ),
    ];
    for (name, text) in cases {
        assert!(text.len() <= megabyte, "{name}");
        let start = Instant::now();
        let report = check(name, text.as_bytes());
        let _ = report.to_text();
        let _ = Start::of(&report.document);
        let took = start.elapsed();
        println!("{name}: {took:?}, {} findings", report.findings.len());
        // Unoptimised and beside other tests; quadratic time would be minutes.
        assert!(took < Duration::from_secs(20), "{name} took {took:?}");
    }
    let report = check("too large", fill("# ").repeat(2).as_bytes());
    assert_eq!(report.count(Severity::Error), 1);
}

#[test]
fn secrets_are_not_shown() {
    for text in [
        "k3os:\n  token: swordfish: x\n  password: *swordfish\n  k3s_args:\n  - \"--token=swordfish\" (x)\n",
        "k3os:\n  token: \"swordfish\" (x)\n  wifi:\n  - name: a\n     pass: swordfish\n",
        "k3os:\n\ttoken: swordfish (x)\n   password: \"swordfish\n",
        "k3os: {token: swordfish, environment: {A_TOKEN: swordfish, A_TOKEN: swordfish}, x\n",
        "token swordfish\nk3os: x\n",
    ] {
        let report = check("f", text.as_bytes());
        assert!(report.has_errors());
        let shown = format!("{}{report:?}", report.to_text());
        assert!(!shown.contains("swordfish"), "{shown}");
    }
    let text = "k3os:\n  token: \"swordfish $x\"\n  token: swordfish2\n  pasword: swordfish3\n  wifi:\n  - name: n\n    password: swordfish4 \n    extra: 1\n  k3s_args: [server, --tokn, --token=swordfish5, --agent-token, swordfish6, --x]\n  environment: {MY_SECRET: swordfish7}\ntoken: swordfish8\n";
    let report = check("f", text.as_bytes());
    assert!(report.has_errors());
    let shown = report.to_text();
    assert!(!shown.contains("swordfish"), "{shown}");
    let json = serde_json::to_string(&report.to_json()).unwrap();
    assert!(!json.contains("swordfish"), "{json}");
}
