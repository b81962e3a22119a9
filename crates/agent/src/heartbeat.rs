//! Keeping the node alive in the eyes of the cluster.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use trivet_https::Error;

use crate::api::Api;
use crate::machine::Machine;
use crate::node::{self, NodeConfig};

/// Between two renewals of the lease (Kubernetes' kubelets: 10 s).
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// How long a lease is good for without renewal.
const LEASE_DURATION: Duration = Duration::from_secs(40);

/// One beat: the lease is renewed, and the node is created or corrected where it differs from
/// what it should say.
pub(crate) async fn beat(
    api: &Api,
    config: &NodeConfig,
    machine: &Machine,
    now: SystemTime,
) -> Result<(), Error> {
    let stored = match api.node(&config.name).await? {
        Some(node) => node,
        None => {
            let created = api
                .create_node(&node::object(config, machine, &seconds(now)))
                .await?;
            if created {
                tracing::info!(node = %config.name, "registered the node");
            }
            // Labels and status may have been cut on the way in; the next lines see to it.
            api.node(&config.name).await?.unwrap_or(Value::Null)
        }
    };
    if !node::is_current(&stored, config, machine) {
        let metadata = json!({
            "metadata": {
                "labels": node::labels(config, machine),
                "annotations": node::annotations(config),
            },
        });
        api.patch_node(&config.name, &metadata).await?;
        api.patch_node_status(&config.name, &node::status(config, machine, &seconds(now)))
            .await?;
    }
    let uid = stored["metadata"]["uid"].as_str();
    api.renew_lease(&config.name, &microseconds(now), LEASE_DURATION, uid)
        .await
}

/// RFC 3339 in UTC, whole seconds.
fn seconds(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at)
        .replace_nanosecond(0)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    at.format(&Rfc3339).unwrap_or_default()
}

/// RFC 3339 in UTC with six digits, as leases have it.
fn microseconds(at: SystemTime) -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    OffsetDateTime::from(at).format(format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_kubernetes_forms() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_500_000);
        assert_eq!(seconds(at), "1970-01-01T00:00:01Z");
        assert_eq!(microseconds(at), "1970-01-01T00:00:01.500000Z");
    }
}
