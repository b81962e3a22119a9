//! The tester tested: bugs that it must find.

use crate::disks::Bug;
use crate::rounds;
use crate::single::round;
use crate::three;

async fn found(bug: Bug) {
    let outcome = rounds::run("planted", 60, move |seed| round(seed, bug)).await;
    let what = outcome.expect_err("the planted bug must be found");
    eprintln!("{bug:?}: {}", what.chars().take(200).collect::<String>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_not_synced_is_found() {
    found(Bug::LogNotSynced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_directory_that_is_not_synced_is_found() {
    found(Bug::LogDirectoryNotSynced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_that_are_not_synced_are_found() {
    found(Bug::StateNotSynced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_sometimes_synced_late_is_found() {
    found(Bug::LogSyncedLate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_above_that_are_not_synced_are_found() {
    found(Bug::AncestorsNotSynced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_logs_are_not_synced_is_found() {
    let outcome = rounds::run("planted", 20, |seed| three::round(seed, Bug::LogNotSynced)).await;
    outcome.expect_err("the planted bug must be found");
}
