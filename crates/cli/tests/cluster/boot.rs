//! A power cut of everything, and machines that come back in any order.

use std::time::{Duration, Instant};

use trivet_harness::wait_for;

use crate::api::Api;
use crate::support::{STEP, Scenario};

/// Between the starts of two machines.
const GAP: Duration = Duration::from_secs(2);

/// From the second start on, service must be back within this time.
const BACK: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::await_holding_lock)] // the scenario's turn is held on purpose
async fn boots_in_every_order() {
    let mut scenario = Scenario::new("boot");
    scenario.three_servers();
    scenario.cluster.agent(4, 1).unwrap();
    let mut written = Vec::new();
    let orders: [[u8; 3]; 6] = [
        [1, 2, 3],
        [1, 3, 2],
        [2, 1, 3],
        [2, 3, 1],
        [3, 1, 2],
        [3, 2, 1],
    ];
    for (round, order) in orders.into_iter().enumerate() {
        let api = Api::new(
            &scenario.cluster.kubeconfig(1),
            &scenario.cluster.url(order[0]),
            Duration::from_secs(10),
        );
        let name = format!("round-{round}");
        api.create_config_map(&name, "x").await.unwrap();
        written.push(name);

        // In the last round the agent loses its power as well, and comes back first.
        let with_agent = round + 1 == orders.len();
        for number in [1, 2, 3] {
            scenario.cluster.kill(number).unwrap();
        }
        if with_agent {
            scenario.cluster.kill(4).unwrap();
            scenario.cluster.agent(4, 1).unwrap();
        }

        scenario.cluster.resume(order[0]).unwrap();
        let log_before = scenario.cluster.node(order[0]).unwrap().log().len();
        wait_for("a line that says for whom it waits", STEP, || {
            let log = scenario.cluster.node(order[0]).unwrap().log();
            log[log_before.min(log.len())..].contains("waiting")
        })
        .unwrap();
        tokio::time::sleep(GAP).await;
        let second = Instant::now();
        scenario.cluster.resume(order[1]).unwrap();
        wait_for("service after the second start", BACK, || {
            scenario
                .cluster
                .status(order[0])
                .is_ok_and(|status| status["ready"] == true)
                && scenario
                    .cluster
                    .status(order[1])
                    .is_ok_and(|status| status["ready"] == true)
        })
        .unwrap_or_else(|error| panic!("{error}: {}", scenario.cluster.log_tail(order[0])));
        println!(
            "order {order:?}: back {:?} after the second start",
            second.elapsed()
        );
        tokio::time::sleep(GAP).await;
        scenario.cluster.resume(order[2]).unwrap();
        scenario.cluster.wait_ready(order[2], STEP).unwrap();
        for number in order {
            assert!(
                scenario.cluster.node(number).unwrap().try_wait().is_none(),
                "server {number} ended"
            );
            let api = Api::new(
                &scenario.cluster.kubeconfig(1),
                &scenario.cluster.url(number),
                Duration::from_secs(10),
            );
            let names: Vec<String> = api
                .config_maps("round-")
                .await
                .unwrap()
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            assert_eq!(names, written, "through server {number}");
        }
    }
    assert!(
        scenario.cluster.node(4).unwrap().try_wait().is_none(),
        "the agent ended"
    );
}
