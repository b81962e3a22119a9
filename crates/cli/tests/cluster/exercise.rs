//! The exercise: one server founds, two join, a worker joins, everybody sees everybody.

use std::time::Duration;

use trivet_harness::wait_for_value;

use crate::support::{STEP, Scenario, kubectls, ready_nodes};

#[test]
fn three_servers_and_an_agent_are_ready_through_every_server() {
    let mut scenario = Scenario::new("exercise");
    let start = std::time::Instant::now();
    scenario.cluster.found().unwrap();
    scenario.cluster.wait_ready(1, STEP).unwrap();
    // Both at once: joins are queued by the cluster.
    scenario.cluster.join(2, 1).unwrap();
    scenario.cluster.join(3, 1).unwrap();
    scenario.cluster.agent(4, 1).unwrap();
    for number in [2, 3] {
        scenario.cluster.wait_ready(number, STEP).unwrap();
    }
    let status = scenario.cluster.status(1).unwrap();
    assert_eq!(status["voters"], 3, "{status:#}");
    for member in status["members"].as_array().unwrap() {
        assert_eq!(member["role"], "voter", "{status:#}");
        let (node, suffix) = member["name"].as_str().unwrap().rsplit_once('-').unwrap();
        assert!(node.starts_with("server-"), "{status:#}");
        assert!(
            suffix.len() == 8 && suffix.bytes().all(|b| b.is_ascii_hexdigit()),
            "{status:#}"
        );
    }

    for kubectl in kubectls() {
        for server in [1, 2, 3] {
            let kubeconfig = scenario.cluster.kubeconfig(server);
            let nodes = wait_for_value("four Ready nodes", STEP, || {
                let table = kubectl.kubectl_ok(
                    &kubeconfig,
                    &scenario.scratch(),
                    &["get", "nodes", "--no-headers"],
                )?;
                let ready = ready_nodes(&table);
                // Roles are set by the servers right after their nodes have registered.
                let as_expected = ready.iter().filter(|(name, roles)| {
                    *roles
                        == if name.starts_with("server-") {
                            "control-plane,etcd"
                        } else {
                            "<none>"
                        }
                });
                anyhow::ensure!(as_expected.count() == 4, "{table}");
                Ok(ready.len())
            })
            .unwrap();
            assert_eq!(nodes, 4, "through server {server}");
        }
    }
    println!(
        "from the first start to four Ready nodes everywhere: {:?}",
        start.elapsed()
    );
    scenario.cluster.stop(Duration::from_secs(20)).unwrap();
}
