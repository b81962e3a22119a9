//! What is tested.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use trivet_datastore::Datastore;

/// Something a subject offers, or why it does not.
#[derive(Debug, Clone)]
pub enum Support<T> {
    /// It does.
    Offered(T),
    /// It does not, and this is why. Cases that need it do not apply; every run says so.
    Missing(&'static str),
}

/// How a store goes down before it is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// After [`Datastore::shutdown`].
    Clean,
    /// As if its process was killed: without shutdown, with whatever was not yet durable gone.
    Kill,
}

/// What the suite may expect of the subject's speed.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long a case waits for something that must happen soon.
    pub patience: Duration,
    /// How long a case waits for a progress notification; `None`: the store sends none.
    pub progress_within: Option<Duration>,
    /// Longest time between the end of a lease's time to live and the deletion of its keys.
    pub expiry_slack: Duration,
    /// Random runs of the comparison with the model, and operations in each.
    pub model_runs: u32,
    /// Operations per random run.
    pub model_operations: usize,
    /// Multiplies the operations of the cases with concurrent clients.
    pub load: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(20),
            progress_within: Some(Duration::from_secs(10)),
            expiry_slack: Duration::from_secs(10),
            model_runs: 24,
            model_operations: 60,
            load: 1,
        }
    }
}

/// An opened store under test. The factory makes one, over an empty store, for every case.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The store; the member that most cases talk to.
    fn store(&self) -> Arc<dyn Datastore>;

    /// All members of a replicated store, [`Subject::store`] among them, at least two.
    fn members(&self) -> Support<Vec<Arc<dyn Datastore>>>;

    /// Stops the store in this way and opens it again from what is durable; after that
    /// [`Subject::store`] is the new one. Returns when it is writable.
    async fn reopen(&mut self, stop: Stop) -> Support<()>;

    /// What may be expected of the subject's speed.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Ends everything the factory started. The default shuts the store down.
    async fn finish(&mut self) {
        self.store().shutdown().await;
    }
}
