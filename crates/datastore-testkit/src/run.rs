//! Running cases.

use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::time::Duration;

use crate::client::Client;
use crate::subject::{Limits, Subject, Support};

/// How a case ended that did not fail (failing is a panic).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The store keeps the promise.
    Passed,
    /// The subject declared that it does not offer what the case needs.
    NotApplicable(&'static str),
}

/// One promise, checked.
#[derive(Clone, Copy)]
pub struct Case {
    /// The name, as in the test's name.
    pub name: &'static str,
    pub(crate) run: for<'a> fn(&'a mut Bench) -> Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

/// What a case works with.
pub(crate) struct Bench {
    subject: Box<dyn Subject>,
    pub(crate) limits: Limits,
    /// Talks to [`Subject::store`].
    pub(crate) client: Client,
}

impl Bench {
    fn new(subject: Box<dyn Subject>) -> Self {
        let limits = subject.limits();
        let client = Client {
            store: subject.store(),
            patience: limits.patience,
        };
        Self {
            subject,
            limits,
            client,
        }
    }

    pub(crate) async fn reopen(&mut self, stop: crate::Stop) -> Support<()> {
        let reopened = self.subject.reopen(stop).await;
        self.client.store = self.subject.store();
        reopened
    }

    /// Clients of all members, or why there is only one.
    pub(crate) fn members(&self) -> Support<Vec<Client>> {
        match self.subject.members() {
            Support::Missing(reason) => Support::Missing(reason),
            Support::Offered(stores) => {
                assert!(stores.len() > 1, "a store with members has at least two");
                let patience = self.limits.patience;
                let clients = stores.into_iter().map(|store| Client { store, patience });
                Support::Offered(clients.collect())
            }
        }
    }
}

/// The cases by name: what [`conformance!`](crate::conformance) runs, except for the comparison
/// with the model.
#[must_use]
pub fn cases() -> &'static [Case] {
    crate::cases::ALL
}

/// Runs one case on a fresh subject, inside the caller's runtime. Panics when it fails.
pub async fn run_case(case: &Case, subject: Box<dyn Subject>) -> Verdict {
    let mut bench = Bench::new(subject);
    let verdict = (case.run)(&mut bench).await;
    bench.subject.finish().await;
    verdict
}

/// Body of the tests that [`conformance!`](crate::conformance) makes: runs the case of that name
/// in a runtime of its own with two workers.
pub fn run_test<F, Fut, S>(name: &str, factory: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
    S: Subject + 'static,
{
    let case = cases()
        .iter()
        .find(|case| case.name == name)
        .expect("a case has this name");
    let runtime = runtime();
    let verdict = runtime.block_on(async { run_case(case, Box::new(factory().await)).await });
    runtime.shutdown_timeout(Duration::from_secs(5));
    if let Verdict::NotApplicable(reason) = verdict {
        assert!(
            !reason.is_empty(),
            "{name} does not apply, but the subject does not say why"
        );
        report(name, reason);
    }
}

/// A runtime in which clients really run at the same time.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the system has threads for a test")
}

/// Says that a case did not apply, past the test harness, which swallows what passing tests
/// print.
fn report(name: &str, reason: &str) {
    let line = format!("conformance: {name} does not apply: {reason}\n");
    // If standard error is closed there is nobody to tell.
    let _unheard = std::io::stderr().write_all(line.as_bytes());
}
