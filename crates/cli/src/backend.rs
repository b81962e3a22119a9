//! The one place where a backend's name becomes a backend.

use std::sync::Arc;

use trivet_datastore::{Backend, MemoryBackend};
use trivet_store_etcd::EtcdBackend;

use crate::args::DatastoreKind;

/// The chosen backend.
pub(crate) fn chosen(kind: DatastoreKind) -> Arc<dyn Backend> {
    match kind {
        DatastoreKind::Etcd => Arc::new(EtcdBackend::default()),
        DatastoreKind::Memory => Arc::new(MemoryBackend),
    }
}

/// Every backend: each recognises its own data, whichever is chosen.
pub(crate) fn all() -> Vec<Arc<dyn Backend>> {
    [DatastoreKind::Etcd, DatastoreKind::Memory]
        .map(chosen)
        .into()
}
