//! The reference model keeps its own promises.

use std::sync::Arc;

use async_trait::async_trait;
use trivet_datastore::{Datastore, MemoryStore};
use trivet_datastore_testkit::{Stop, Subject, Support};

struct Memory(MemoryStore);

#[async_trait]
impl Subject for Memory {
    fn store(&self) -> Arc<dyn Datastore> {
        Arc::new(self.0.clone())
    }

    fn members(&self) -> Support<Vec<Arc<dyn Datastore>>> {
        Support::Missing("the memory store is not replicated")
    }

    async fn reopen(&mut self, _stop: Stop) -> Support<()> {
        Support::Missing("the memory store forgets everything when it stops")
    }
}

async fn memory() -> Memory {
    Memory(MemoryStore::new())
}

trivet_datastore_testkit::conformance!(memory);
