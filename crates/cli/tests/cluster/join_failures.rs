//! Everything that can be wrong with a join: its own message, a non-zero exit, nothing written.

use std::path::Path;
use std::process::{Command, Output};

use trivet_harness::Process;

use crate::support::{STEP, Scenario};

/// Runs a command that must fail on its own, and whose data directory must stay empty.
fn refused(scenario: &Scenario, command: &mut Command, number: u8) -> String {
    let log = scenario.scratch().join(format!("refused-{number}.log"));
    let _ = std::fs::remove_file(&log);
    let mut process = Process::start(command, &log).unwrap();
    let status = process
        .wait(STEP)
        .unwrap_or_else(|error| panic!("{error}: {}", process.log()));
    let text = process.log();
    assert!(!status.success(), "it succeeded: {text}");
    let dir = scenario.cluster.data_dir(number).join("server");
    assert!(!dir.exists(), "{} was written: {text}", dir.display());
    println!(
        "exit {:?}: {}",
        status.code(),
        text.lines().last().unwrap_or_default()
    );
    text
}

fn join(scenario: &Scenario, number: u8) -> Command {
    let mut command = scenario.cluster.server_command(number);
    command.args(["--server", &scenario.cluster.url(1), "--join-timeout", "3"]);
    command
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn every_wrong_join_has_its_own_message() {
    let mut scenario = Scenario::new("join");
    let mut found = scenario.cluster.server_command(1);
    found.args(["--cluster-init", "--agent-token", "agents-only"]);
    scenario.cluster.start(1, &mut found).unwrap();
    scenario.cluster.wait_ready(1, STEP).unwrap();
    let token = std::fs::read_to_string(scenario.cluster.data_dir(1).join("server/token")).unwrap();
    let token = token.trim();

    let text = refused(&scenario, join(&scenario, 2).env_remove("K3S_TOKEN"), 2);
    contains(&text, &["token is required"]);

    let text = refused(&scenario, join(&scenario, 2).env("K3S_TOKEN", "wrong"), 2);
    contains(&text, &["refused the token"]);
    assert!(
        !text.contains("wrong\""),
        "the token is in the output: {text}"
    );

    let text = refused(
        &scenario,
        join(&scenario, 2).env("K3S_TOKEN", "agents-only"),
        2,
    );
    contains(&text, &["agent token"]);

    let (_, credentials) = token.split_once("::").unwrap();
    let foreign = format!("K10{}::{credentials}", "0".repeat(64));
    let text = refused(&scenario, join(&scenario, 2).env("K3S_TOKEN", foreign), 2);
    contains(&text, &["does not match the token", "nothing was sent"]);

    let mut unreachable = scenario.cluster.server_command(2);
    unreachable.args(["--server", &scenario.cluster.url(9), "--join-timeout", "3"]);
    let text = refused(&scenario, &mut unreachable, 2);
    contains(&text, &["unreachable", &scenario.cluster.address(9)]);

    let mut differing = join(&scenario, 2);
    differing.args([
        "--agent-token",
        "agents-only",
        "--cluster-cidr",
        "10.99.0.0/16",
    ]);
    let text = refused(&scenario, &mut differing, 2);
    contains(&text, &["--cluster-cidr", "10.99.0.0/16", "10.42.0.0/16"]);

    let mut duplicate = join(&scenario, 2);
    duplicate.args(["--agent-token", "agents-only", "--node-name", "server-1"]);
    let text = refused(&scenario, &mut duplicate, 2);
    contains(&text, &["server-1"]);

    // And the right one still works.
    let mut right = join(&scenario, 2);
    right.args(["--agent-token", "agents-only"]);
    scenario.cluster.start(2, &mut right).unwrap();
    scenario.cluster.wait_ready(2, STEP).unwrap();
}

#[test]
fn another_clusters_token_is_refused() {
    let mut scenario = Scenario::new("foreign");
    scenario.cluster.found().unwrap();
    scenario.cluster.wait_ready(1, STEP).unwrap();
    let mut other = scenario.cluster.server_command(5);
    other.arg("--cluster-init");
    scenario.cluster.start(5, &mut other).unwrap();
    scenario.cluster.wait_ready(5, STEP).unwrap();
    let token = std::fs::read_to_string(scenario.cluster.data_dir(5).join("server/token")).unwrap();
    let text = refused(
        &scenario,
        join(&scenario, 2).env("K3S_TOKEN", token.trim()),
        2,
    );
    contains(&text, &["belongs to another cluster"]);
}

#[test]
fn a_wiped_first_server_does_not_found_a_second_cluster() {
    let mut scenario = Scenario::new("wiped");
    scenario.three_servers();
    scenario.cluster.kill(1).unwrap();
    std::fs::remove_dir_all(scenario.cluster.data_dir(1).join("server")).unwrap();
    let mut again = scenario.cluster.server_command(1);
    again.arg("--cluster-init");
    let text = refused(&scenario, &mut again, 1);
    contains(&text, &["--server https://"]);

    // The way out that the message names works once the cluster has noticed the loss.
    trivet_harness::wait_for("the loss to be noticed", STEP, || {
        scenario.cluster.status(2).is_ok_and(|status| {
            status["members"].as_array().is_some_and(|members| {
                members
                    .iter()
                    .any(|m| m["node"] == "server-1" && m["reachable"] == false)
            })
        })
    })
    .unwrap();
    let mut rejoin = scenario.cluster.server_command(1);
    rejoin.args(["--server", &scenario.cluster.url(2)]);
    scenario.cluster.start(1, &mut rejoin).unwrap();
    scenario.cluster.wait_ready(1, STEP).unwrap();
}

#[test]
fn wrong_flags_and_settings_are_explained() {
    let scenario = Scenario::new("flags");
    let run = |arguments: &[&str]| -> Output {
        Command::new(&scenario.cluster.options().binary)
            .args(arguments)
            .env_remove("K3S_TOKEN")
            .output()
            .unwrap()
    };
    let output = run(&["server", "--cluster-inti"]);
    assert_eq!(output.status.code(), Some(2));
    contains(
        &String::from_utf8_lossy(&output.stderr),
        &["--cluster-init"],
    );

    let config = scenario.scratch().join("config.yaml");
    std::fs::write(&config, "cluster-inti: true\n").unwrap();
    let output = run(&["server", "--config", &config.display().to_string()]);
    assert_eq!(output.status.code(), Some(2));
    contains(
        &String::from_utf8_lossy(&output.stderr),
        &["line 1", "cluster-init"],
    );

    let output = run(&["agent", "--server", "https://127.0.0.1:6443"]);
    assert_eq!(output.status.code(), Some(2));
    contains(
        &String::from_utf8_lossy(&output.stderr),
        &["token is required"],
    );

    let output = run(&["status", "--data-dir", "/nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!Path::new("/nowhere").exists());
}
