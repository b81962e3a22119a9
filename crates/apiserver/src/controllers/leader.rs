//! Which server does the work that only one may do: the holder of a Lease.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use trivet_kube_schema::{ResourceInfo, Status, find, meta};

use super::Shared;
use crate::registry::UpdateTarget;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "trivet-controllers";

struct Candidate {
    shared: Arc<Shared>,
    info: &'static ResourceInfo,
    identity: String,
    duration: Duration,
    /// The Lease's revision as last seen, and since when it has been that.
    seen: Option<(u64, Duration)>,
    /// When this server last renewed, by its own clock.
    renewed: Option<Duration>,
}

/// Takes part in the election until the server stops; then gives the Lease up.
pub(super) async fn run(shared: Arc<Shared>, leads: watch::Sender<bool>) {
    let Some(info) = find("coordination.k8s.io", "v1", "leases") else {
        return;
    };
    if !shared.cache_ready().await {
        return;
    }
    let suffix = shared.core.uid();
    let duration = shared.core.config.timings.controller_lease;
    let identity = format!("{}_{suffix}", shared.core.config.advertise);
    let mut candidate = Candidate {
        shared: Arc::clone(&shared),
        info,
        identity,
        duration,
        seen: None,
        renewed: None,
    };
    // Renewing takes a write of every third period; a lost one is not noticed by anybody.
    let period = (duration * 2 / 5).max(Duration::from_millis(500));
    loop {
        let outcome = candidate.step().await;
        if let Err(status) = &outcome {
            tracing::debug!(
                message = status.message,
                "the controllers' lease could not be written"
            );
        }
        let now = shared.monotonic();
        // Stop a good while before another server can take over.
        let holds = candidate
            .renewed
            .is_some_and(|at| now.saturating_sub(at) < duration * 4 / 5);
        leads.send_if_modified(|leads| {
            let changed = *leads != holds;
            *leads = holds;
            changed
        });
        let pause = if outcome.is_err() {
            period.min(super::RETRY)
        } else {
            period
        };
        if !shared.sleep(pause).await {
            leads.send_replace(false);
            if holds {
                candidate.give_up().await;
            }
            return;
        }
    }
}

impl Candidate {
    fn target(&self) -> UpdateTarget<'static> {
        UpdateTarget {
            info: self.info,
            subresource: None,
            namespace: Some(NAMESPACE),
            name: NAME,
        }
    }

    async fn step(&mut self) -> Result<(), Status> {
        let slot = self.shared.core.slot(self.info)?;
        let now = self.shared.monotonic();
        let Some(entry) = slot.get_named(Some(NAMESPACE), NAME) else {
            let lease = self.lease(json!({"metadata": {"name": NAME}}), None);
            match self.shared.create(self.info, Some(NAMESPACE), lease).await {
                Ok(_) => self.renewed = Some(now),
                // Somebody else was first, or the namespace is not there yet.
                Err(status) if matches!(status.code, 404 | 409) => {}
                Err(status) => return Err(status),
            }
            return Ok(());
        };
        if self
            .seen
            .is_none_or(|(revision, _)| revision != entry.revision)
        {
            self.seen = Some((entry.revision, now));
        }
        let current = entry.value();
        let holder = current
            .pointer("/spec/holderIdentity")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let expired = self
            .seen
            .is_some_and(|(_, at)| now.saturating_sub(at) >= self.duration);
        if holder != self.identity && !holder.is_empty() && !expired {
            self.renewed = None;
            return Ok(());
        }
        let wanted = self.lease(current.clone(), Some(&current));
        // The object carries its resourceVersion: a lost race is a 409.
        let result = self
            .shared
            .update(&self.target(), |lease| *lease = wanted.clone())
            .await;
        match result {
            Ok(_) => self.renewed = Some(now),
            Err(status) if matches!(status.code, 404 | 409) => {}
            Err(status) => return Err(status),
        }
        Ok(())
    }

    fn lease(&self, mut lease: Value, current: Option<&Value>) -> Value {
        let now = meta::rfc3339_micro(self.shared.core.now_micros());
        let get = |field: &str| {
            current
                .and_then(|c| c.pointer(&format!("/spec/{field}")))
                .cloned()
        };
        let same = get("holderIdentity").is_some_and(|h| h == self.identity.as_str());
        let transitions = get("leaseTransitions")
            .and_then(|t| t.as_i64())
            .unwrap_or(0);
        lease["spec"] = json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.duration.as_secs().max(1),
            "acquireTime": get("acquireTime").filter(|_| same).unwrap_or_else(|| json!(now)),
            "renewTime": now,
            "leaseTransitions": if same || current.is_none() { transitions } else { transitions + 1 },
        });
        lease
    }

    /// Lets another server take over at once.
    async fn give_up(&self) {
        let identity = self.identity.clone();
        let target = self.target();
        let released = self.shared.update(&target, |lease| {
            if lease.pointer("/spec/holderIdentity") == Some(&json!(identity)) {
                lease["spec"]["holderIdentity"] = json!("");
            }
        });
        if tokio::time::timeout(Duration::from_secs(1), released)
            .await
            .is_err()
        {
            tracing::debug!("the controllers' lease was not given up in time");
        }
    }
}
