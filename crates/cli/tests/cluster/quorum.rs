//! Two of three are gone: no writes, clear words; one comes back: all is well.

use std::time::Duration;

use trivet_harness::{wait_for, wait_for_value};

use crate::api::Api;
use crate::support::{STEP, Scenario};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::await_holding_lock)] // the scenario's turn is held on purpose
async fn writes_stop_without_a_quorum_and_go_on_with_one() {
    let mut scenario = Scenario::new("quorum");
    scenario.three_servers();
    let api = Api::new(
        &scenario.cluster.kubeconfig(1),
        &scenario.cluster.url(1),
        Duration::from_secs(20),
    );
    api.create_config_map("before", "1").await.unwrap();
    let status = scenario.cluster.status(1).unwrap();
    assert_eq!(status["toleratedFailures"], 1, "{status:#}");

    scenario.cluster.kill(2).unwrap();
    scenario.cluster.kill(3).unwrap();
    wait_for("the loss to be noticed", STEP, || {
        scenario
            .cluster
            .status(1)
            .is_ok_and(|status| status["writable"] == false)
    })
    .unwrap();
    let error = api.create_config_map("refused", "1").await.unwrap_err();
    println!("without a quorum: {error}");
    let status = error.status().expect("an answer, not a hang").as_u16();
    assert!(matches!(status, 429 | 503 | 504), "{error}");
    let report = scenario.cluster.status(1).unwrap();
    assert_eq!(report["voters"], 3, "{report:#}");
    assert_eq!(report["quorum"], 2, "{report:#}");

    scenario.cluster.resume(2).unwrap();
    wait_for_value("writes to go on", STEP, || {
        let created = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(api.create_config_map("after", "1"))
        });
        match created {
            Err(error) if error.status().map(|status| status.as_u16()) != Some(409) => {
                Err(error.into())
            }
            _ => Ok(()),
        }
    })
    .unwrap();
    let names: Vec<String> = api
        .config_maps("")
        .await
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert!(names.contains(&"before".to_owned()), "{names:?}");
}
