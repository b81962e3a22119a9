//! Agents: they outlive the server they were configured with, and their death is noticed.

use std::time::{Duration, Instant};

use serde_json::Value;
use trivet_harness::wait_for;

use crate::api::Api;
use crate::support::{STEP, Scenario};

async fn ready(api: &Api, node: &str) -> Option<String> {
    let node: Value = api.get(&format!("/api/v1/nodes/{node}")).await.ok()?;
    let conditions = node["status"]["conditions"].as_array()?;
    let ready = conditions
        .iter()
        .find(|condition| condition["type"] == "Ready")?;
    ready["status"].as_str().map(str::to_owned)
}

async fn wait_ready(api: &Api, node: &str, wanted: &str, deadline: Duration) -> Duration {
    let start = Instant::now();
    loop {
        let found = ready(api, node).await;
        if found.as_deref() == Some(wanted) {
            return start.elapsed();
        }
        assert!(
            start.elapsed() < deadline,
            "node {node} is {found:?}, not {wanted}, after {deadline:?}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::await_holding_lock)] // the scenario's turn is held on purpose
async fn an_agent_outlives_its_server_and_its_own_death_is_noticed() {
    let mut scenario = Scenario::new("agents");
    scenario.three_servers();
    scenario.cluster.agent(4, 1).unwrap();
    let api = Api::new(
        &scenario.cluster.kubeconfig(2),
        &scenario.cluster.url(2),
        Duration::from_secs(10),
    );
    wait_ready(&api, "agent-4", "True", STEP).await;
    let state = scenario
        .cluster
        .data_dir(4)
        .join("agent/etc/k3s-agent-load-balancer.json");
    let (two, three) = (scenario.cluster.address(2), scenario.cluster.address(3));
    wait_for("the agent to know every server", STEP, || {
        std::fs::read_to_string(&state)
            .is_ok_and(|text| text.contains(&two) && text.contains(&three))
    })
    .unwrap();

    // The configured server dies; the agent restarts without it.
    scenario.cluster.kill(1).unwrap();
    scenario.cluster.kill(4).unwrap();
    let took = wait_ready(&api, "agent-4", "Unknown", Duration::from_secs(45)).await;
    println!("a dead agent is noticed after {took:?}");
    assert!(
        took <= Duration::from_secs(40),
        "noticed only after {took:?}"
    );
    scenario.cluster.agent(4, 1).unwrap();
    let took = wait_ready(&api, "agent-4", "True", Duration::from_secs(30)).await;
    println!("back after {took:?}, without the configured server");
}
