//! The real etcdctl against a server's own store, with the certificates that the server wrote.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use trivet_harness::{find_etcdctl, require_clients, wait_for};

use crate::support::{STEP, Scenario};

/// etcdctl against one server of the cluster.
struct Etcdctl<'a> {
    scenario: &'a Scenario,
    program: std::path::PathBuf,
}

impl Etcdctl<'_> {
    fn command(&self, server: u8, line: &str) -> Command {
        let tls = self
            .scenario
            .cluster
            .data_dir(server)
            .join("server/tls/etcd");
        let mut command = Command::new(&self.program);
        command
            .env("ETCDCTL_API", "3")
            .arg(format!(
                "--endpoints=https://{}:2379",
                self.scenario.cluster.address(server)
            ))
            .arg(format!("--cacert={}", tls.join("server-ca.crt").display()))
            .arg(format!("--cert={}", tls.join("client.crt").display()))
            .arg(format!("--key={}", tls.join("client.key").display()))
            .args(line.split_whitespace())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, server: u8, line: &str) -> Output {
        self.command(server, line).output().unwrap()
    }

    fn ok(&self, server: u8, line: &str) -> String {
        let output = self.run(server, line);
        assert!(
            output.status.success(),
            "etcdctl {line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[test]
fn the_real_etcdctl_cannot_tell_the_difference() {
    let Some(client) = find_etcdctl() else {
        assert!(
            !require_clients(),
            "no etcdctl found, and TRIVET_REQUIRE_CLIENTS=1"
        );
        println!("no etcdctl on this machine: the scenario is left out");
        return;
    };
    let mut scenario = Scenario::new("etcd");
    scenario.three_servers();
    let etcdctl = Etcdctl {
        scenario: &scenario,
        program: client.path,
    };

    // Written through one server, read through the others.
    assert_eq!(etcdctl.ok(1, "put colour red").trim(), "OK");
    for server in [1, 2, 3] {
        assert_eq!(etcdctl.ok(server, "get colour").trim(), "colour\nred");
    }
    let members = etcdctl.ok(2, "member list");
    assert_eq!(
        members
            .lines()
            .filter(|line| line.contains("started"))
            .count(),
        3,
        "{members}"
    );
    let status = etcdctl.ok(3, "endpoint status -w json");
    assert!(status.contains("\"raftTerm\""), "{status}");
    assert!(
        etcdctl.ok(1, "endpoint health").is_empty()
            || etcdctl.run(1, "endpoint health").status.success()
    );

    let lease = etcdctl.ok(2, "lease grant 60");
    let id = lease.split_whitespace().nth(1).unwrap().to_owned();
    etcdctl.ok(2, &format!("put --lease={id} session mine"));
    assert!(
        etcdctl
            .ok(3, &format!("lease timetolive {id} --keys"))
            .contains("session")
    );
    etcdctl.ok(1, &format!("lease revoke {id}"));
    assert_eq!(etcdctl.ok(3, "get session").trim(), "");

    let file = scenario.scratch().join("watch.txt");
    let mut watch = etcdctl
        .command(3, "watch --prefix box/ --rev 1")
        .stdout(std::fs::File::create(&file).unwrap())
        .spawn()
        .unwrap();
    etcdctl.ok(1, "put box/a 1");
    etcdctl.ok(2, "put box/b 2");
    etcdctl.ok(1, "del box/a");
    let seen = || std::fs::read_to_string(&file).unwrap_or_default();
    wait_for("the watch to see three events", STEP, || {
        seen()
            .lines()
            .filter(|line| matches!(*line, "PUT" | "DELETE"))
            .count()
            == 3
    })
    .unwrap();
    assert_eq!(
        seen().lines().collect::<Vec<_>>(),
        [
            "PUT", "box/a", "1", "PUT", "box/b", "2", "DELETE", "box/a", ""
        ]
    );
    let _ = watch.kill();
    let _ = watch.wait();

    // Kubernetes' objects are where people with etcdctl in their runbooks look for them.
    assert!(
        etcdctl
            .ok(1, "get /registry/namespaces/default --keys-only")
            .contains("/registry/namespaces/default")
    );

    // Nobody gets in without a certificate.
    let bare = Command::new(&etcdctl.program)
        .env("ETCDCTL_API", "3")
        .arg(format!(
            "--endpoints=https://{}:2379",
            scenario.cluster.address(1)
        ))
        .args([
            "--insecure-skip-tls-verify",
            "--command-timeout=2s",
            "get",
            "colour",
        ])
        .output()
        .unwrap();
    assert!(!bare.status.success());
    scenario.cluster.stop(Duration::from_secs(20)).unwrap();
}
