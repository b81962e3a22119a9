//! The memory store as a backend to choose by name.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;

use super::MemoryStore;
use crate::{Backend, BackendConfig, Datastore, Footprint, ReadOnlyDir, Result};

/// Opens [`MemoryStore`]s. It owns nothing on disk and forgets everything at shutdown.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryBackend;

#[async_trait]
impl Backend for MemoryBackend {
    fn name(&self) -> &str {
        MemoryStore::BACKEND_NAME
    }

    fn replicated(&self) -> bool {
        false
    }

    fn probe(&self, _db_dir: &dyn ReadOnlyDir) -> io::Result<Vec<Footprint>> {
        Ok(Vec::new())
    }

    async fn open(&self, _config: BackendConfig) -> Result<Arc<dyn Datastore>> {
        Ok(Arc::new(MemoryStore::new()))
    }
}
