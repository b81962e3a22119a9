//! Keeps the store's history short: every period, what was current one period ago becomes the
//! oldest readable revision. All servers try; a key in the store decides who does it, by the
//! same rule and under the same name as kube-apiserver's.

use std::sync::Arc;

use bytes::Bytes;
use trivet_datastore::{Error, Expect, KeyValue, PutRequest, Revision, WriteOutcome};

use super::Shared;

const KEY: &[u8] = b"compact_rev_key";

/// Compacts every period until the server stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let period = shared.core.config.timings.compaction_period;
    // The key as last seen: when it changed meanwhile, another server has compacted.
    let mut seen: Option<KeyValue> = None;
    let mut target = Revision(0);
    while shared.sleep(period).await {
        let store = &shared.core.config.datastore;
        let expect = seen.as_ref().map_or(Expect::Absent, |pair| {
            Expect::ModRevision(pair.mod_revision)
        });
        let key = Bytes::from_static(KEY);
        let value = Bytes::from(target.to_string());
        let put = PutRequest {
            key: key.clone(),
            value: value.clone(),
            expect,
            lease: None,
        };
        match store.put(put).await {
            Ok(WriteOutcome::Committed { revision, .. }) => {
                if target.0 > 0 {
                    match store.compact(target).await {
                        Ok(()) => tracing::info!(revision = target.0, "compacted the datastore"),
                        // Somebody compacted further, by hand perhaps.
                        Err(Error::Compacted { .. }) => {}
                        Err(error) => {
                            tracing::warn!(%error, "compaction failed and will be tried again");
                        }
                    }
                }
                let (create_revision, version) = seen.as_ref().map_or((revision, 1), |pair| {
                    (pair.create_revision, pair.version + 1)
                });
                seen = Some(KeyValue {
                    key,
                    value,
                    create_revision,
                    mod_revision: revision,
                    version,
                    lease: None,
                });
                target = revision;
            }
            Ok(WriteOutcome::Conflict { revision, current }) => {
                seen = current;
                target = revision;
            }
            Err(error) => tracing::debug!(%error, "compaction waits for the datastore"),
        }
    }
}
