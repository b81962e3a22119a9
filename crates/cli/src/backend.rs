//! The one place where a backend's name becomes a backend.

use std::sync::Arc;

use trivet_datastore::{Backend, MemoryBackend};
use trivet_legacy_reader::LegacyProbe;
use trivet_store_etcd::EtcdBackend;

use crate::args::DatastoreKind;
use crate::paths;

/// The chosen backend.
pub(crate) fn chosen(kind: DatastoreKind) -> Arc<dyn Backend> {
    match kind {
        DatastoreKind::Etcd => Arc::new(EtcdBackend::default()),
        DatastoreKind::Memory => Arc::new(MemoryBackend),
    }
}

/// Every backend, and what recognises the data of old K3s servers: each is asked whether data
/// is its own, whichever is chosen.
pub(crate) fn all() -> Vec<Arc<dyn Backend>> {
    vec![
        chosen(DatastoreKind::Etcd),
        chosen(DatastoreKind::Memory),
        Arc::new(LegacyProbe::new(paths::scratch())),
    ]
}
