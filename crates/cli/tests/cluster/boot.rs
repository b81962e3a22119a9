//! A power cut of everything, and machines that come back in any order.

use std::time::{Duration, Instant};

use trivet_harness::wait_for;

use crate::api::Api;
use crate::support::{STEP, Scenario};

/// Between the starts of two machines.
const GAP: Duration = Duration::from_secs(1);

/// From the second start on, service must be back within this time.
const BACK: Duration = Duration::from_secs(15);

const ORDERS: [[u8; 3]; 6] = [
    [1, 2, 3],
    [1, 3, 2],
    [2, 1, 3],
    [2, 3, 1],
    [3, 1, 2],
    [3, 2, 1],
];

/// The last renewal of the agent's lease.
async fn heartbeat(api: &Api) -> Option<String> {
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/agent-4";
    let lease = api.get(path).await.ok()?;
    lease["spec"]["renewTime"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::await_holding_lock)] // the scenario's turn is held on purpose
async fn boots_in_every_order() {
    let mut scenario = Scenario::new("boot");
    scenario.three_servers();
    scenario.cluster.agent(4, 1).unwrap();
    let mut written = Vec::new();
    for all_four in [false, true] {
        for order in ORDERS {
            let api = api(&scenario, order[0]);
            let name = format!("round-{}", written.len());
            api.create_config_map(&name, "x").await.unwrap();
            written.push(name);
            written.sort();
            let before = heartbeat(&api).await;
            boot(&mut scenario, order, all_four).await;
            for number in order {
                assert!(
                    scenario.cluster.node(number).unwrap().try_wait().is_none(),
                    "server {number} ended"
                );
                let found = self::api(&scenario, number)
                    .config_maps("round-")
                    .await
                    .unwrap();
                let names: Vec<String> = found.into_iter().map(|(name, _)| name).collect();
                assert_eq!(names, written, "through server {number}");
            }
            let api = self::api(&scenario, order[0]);
            let start = Instant::now();
            while heartbeat(&api).await == before {
                assert!(
                    start.elapsed() < STEP,
                    "the agent's heartbeat did not come back"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert!(
                scenario.cluster.node(4).unwrap().try_wait().is_none(),
                "the agent ended"
            );
        }
    }
}

fn api(scenario: &Scenario, server: u8) -> Api {
    Api::new(
        &scenario.cluster.kubeconfig(1),
        &scenario.cluster.url(server),
        Duration::from_secs(10),
    )
}

/// Power off and on. The agent, when it is cut too, comes back first.
async fn boot(scenario: &mut Scenario, order: [u8; 3], all_four: bool) {
    for number in [1, 2, 3] {
        scenario.cluster.kill(number).unwrap();
    }
    if all_four {
        scenario.cluster.kill(4).unwrap();
        scenario.cluster.agent(4, 1).unwrap();
    }
    let log_before = std::fs::metadata(scenario.cluster.log_path(order[0]))
        .unwrap()
        .len() as usize;
    scenario.cluster.resume(order[0]).unwrap();
    wait_for("a line that says for whom it waits", STEP, || {
        let log = scenario.cluster.node(order[0]).unwrap().log();
        log.get(log_before..)
            .is_some_and(|new| new.contains("not running: server-"))
    })
    .unwrap();
    tokio::time::sleep(GAP).await;
    let second = Instant::now();
    scenario.cluster.resume(order[1]).unwrap();
    wait_for("service after the second start", BACK, || {
        order[..2].iter().all(|&number| {
            scenario
                .cluster
                .status(number)
                .is_ok_and(|status| status["ready"] == true)
        })
    })
    .unwrap_or_else(|error| panic!("{error}: {}", scenario.cluster.log_tail(order[0])));
    println!(
        "order {order:?}, all four: {all_four}: back {:?} after the second start",
        second.elapsed()
    );
    tokio::time::sleep(GAP).await;
    scenario.cluster.resume(order[2]).unwrap();
    scenario.cluster.wait_ready(order[2], STEP).unwrap();
}
