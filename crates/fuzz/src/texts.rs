//! What people and API clients write.

use std::path::{Path, PathBuf};

use anyhow::Result;
use trivet_join::{BootstrapToken, Token};
use trivet_kube_schema::codec::{self, MediaType};
use trivet_kube_schema::quantity::Quantity;
use trivet_kube_schema::selector::LabelSelector;

use crate::Target;

fn crates() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// Every file below a directory of the workspace's crates.
pub(crate) fn files(below: &str) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let mut open = vec![crates().join(below)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let mut entries = std::fs::read_dir(&path)?
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<std::io::Result<Vec<_>>>()?;
            // The order of a directory is the disk's; a seed must mean the same everywhere.
            entries.sort();
            open.extend(entries);
        } else {
            found.push(std::fs::read(&path)?);
        }
    }
    anyhow::ensure!(!found.is_empty(), "no real inputs below {below}");
    Ok(found)
}

pub(crate) fn cloud_init() -> Result<Target> {
    Ok(Target {
        name: "cloud-init",
        corpus: files("cloudinit/tests/fixtures")?,
        read: Box::new(|input| {
            std::hint::black_box(trivet_cloudinit::check("input", input));
            std::hint::black_box(trivet_cloudinit::check_command_line("input", input));
        }),
    })
}

pub(crate) fn tokens() -> Result<Target> {
    let full = format!("K10{}::server:0123456789abcdef", "0f".repeat(32));
    let corpus = ["secret", "abcdef.0123456789abcdef", "user:password", &full];
    Ok(Target {
        name: "tokens",
        corpus: corpus.map(|text| text.as_bytes().to_vec()).to_vec(),
        read: Box::new(|input| {
            let text = String::from_utf8_lossy(input);
            std::hint::black_box(Token::parse(&text).is_ok());
            std::hint::black_box(BootstrapToken::parse(&text).is_some());
        }),
    })
}

pub(crate) fn bodies() -> Result<Target> {
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"b","labels":{"x":"y"},"creationTimestamp":"2024-01-02T03:04:05Z"},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"100m","memory":"1Gi"}}}]}}"#;
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: n}\ndata: {k: dg==}\nstringData:\n  - no\n";
    // Magic, then the envelope: type, and an object with a name.
    let mut protobuf = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x05\x0a\x03\x0a\x01a".to_vec();
    protobuf.extend([0x1a, 0, 0x22, 0]);
    Ok(Target {
        name: "kubernetes-bodies",
        corpus: vec![pod.into(), secret.into(), protobuf],
        read: Box::new(|input| {
            for media in [MediaType::Json, MediaType::Yaml, MediaType::Protobuf] {
                std::hint::black_box(codec::decode(input, media).is_ok());
            }
        }),
    })
}

pub(crate) fn selectors() -> Result<Target> {
    let corpus = [
        "a=b,c!=d",
        "x in (1,2), !y, z notin (q)",
        "1.5Gi",
        "-100m",
        "12e6",
    ];
    Ok(Target {
        name: "selectors",
        corpus: corpus.map(|text| text.as_bytes().to_vec()).to_vec(),
        read: Box::new(|input| {
            let text = String::from_utf8_lossy(input);
            std::hint::black_box(LabelSelector::parse(&text).is_ok());
            std::hint::black_box(Quantity::parse(&text).is_ok());
        }),
    })
}
