//! How many rounds, with which seeds, several at a time.

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use trivet_env::Rng;
use trivet_sim::SimRng;

/// Rounds at a time: most of a round is waiting for elections.
const AT_ONCE: usize = 8;

/// No round takes this long.
const ROUND_LIMIT: Duration = Duration::from_secs(60);

/// Whether there is time.
pub(crate) fn full() -> bool {
    std::env::var("TRIVET_TEST_PROFILE").is_ok_and(|profile| profile == "full")
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text:?}")),
    )
}

/// Runs rounds, each with a seed of its own, until all are done or one fails. Answers with the
/// first failure and how to repeat it.
pub(crate) async fn run<F, Fut>(test: &str, rounds: u64, round: F) -> Result<(), String>
where
    F: Fn(u64) -> Fut,
    Fut: Future<Output = Result<(), String>> + Send + 'static,
{
    let seed = number("TRIVET_TEST_SEED").unwrap_or_else(|| trivet_env::RealRng.next_u64() >> 16);
    let only = number("TRIVET_TEST_ROUND");
    let seeds = (0..rounds).map(|number| {
        let number = only.unwrap_or(number);
        // As good as unrelated to that of the neighbours.
        let own = SimRng::new(seed.wrapping_add(number)).next_u64();
        let running = tokio::spawn(tokio::time::timeout(ROUND_LIMIT, round(own)));
        async move {
            let outcome = match running.await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err("it never ends".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            outcome.map_err(|what| {
                // Values are long and say nothing beyond their first bytes.
                let what = what.replace("xxxxxxxxxx", "");
                format!(
                    "{what}\nto repeat: TRIVET_TEST_SEED={seed} TRIVET_TEST_ROUND={number} cargo test -p trivet-store-etcd --test power_loss {test}"
                )
            })
        }
    });
    let mut outcomes = futures_util::stream::iter(seeds).buffer_unordered(AT_ONCE);
    while let Some(outcome) = outcomes.next().await {
        outcome?;
    }
    Ok(())
}
