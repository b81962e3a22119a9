//! The few calls to the Kubernetes API that a node makes.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use trivet_https::{Client, Error, Result};

/// One line of a watch larger than this is not an Endpoints object.
const LINE_LIMIT_BYTES: usize = 4 << 20;

/// How long a watch lasts before it is opened anew.
const WATCH_SECONDS: u64 = 600;

/// An API client in the name of the node.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    client: Client,
}

impl Api {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// The node object; `None` when it does not exist. Answered from the server's cache.
    pub(crate) async fn node(&self, name: &str) -> Result<Option<Value>> {
        none_if_missing(
            self.client
                .get_json(&format!("/api/v1/nodes/{name}?resourceVersion=0"))
                .await,
        )
    }

    /// Creates the node; `false` when it exists.
    pub(crate) async fn create_node(&self, node: &Value) -> Result<bool> {
        match self
            .client
            .send_json::<Value>(Method::POST, "/api/v1/nodes", "application/json", node)
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.status() == Some(StatusCode::CONFLICT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Merges into labels, annotations and spec.
    pub(crate) async fn patch_node(&self, name: &str, patch: &Value) -> Result<()> {
        self.patch(&format!("/api/v1/nodes/{name}"), patch).await
    }

    /// Merges into the status; conditions by type, so that other parts' conditions stay.
    pub(crate) async fn patch_node_status(&self, name: &str, status: &Value) -> Result<()> {
        self.patch(
            &format!("/api/v1/nodes/{name}/status"),
            &json!({ "status": status }),
        )
        .await
    }

    async fn patch(&self, path: &str, patch: &Value) -> Result<()> {
        self.client
            .send_json::<Value>(
                Method::PATCH,
                path,
                "application/strategic-merge-patch+json",
                patch,
            )
            .await
            .map(drop)
    }

    /// Renews the node's lease, creating it when it is missing. `now` is RFC 3339 with
    /// microseconds.
    pub(crate) async fn renew_lease(
        &self,
        node: &str,
        now: &str,
        duration: Duration,
        owner_uid: Option<&str>,
    ) -> Result<()> {
        let base = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let spec = json!({
            "holderIdentity": node,
            "leaseDurationSeconds": duration.as_secs(),
            "renewTime": now,
        });
        let renewed = self
            .client
            .send_json::<Value>(
                Method::PATCH,
                &format!("{base}/{node}"),
                "application/merge-patch+json",
                &json!({ "spec": spec }),
            )
            .await;
        if none_if_missing(renewed)?.is_some() {
            return Ok(());
        }
        let mut metadata = json!({ "name": node, "namespace": "kube-node-lease" });
        if let Some(uid) = owner_uid {
            metadata["ownerReferences"] =
                json!([{ "apiVersion": "v1", "kind": "Node", "name": node, "uid": uid }]);
        }
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        });
        self.client
            .send_json::<Value>(Method::POST, base, "application/json", &lease)
            .await
            .map(drop)
    }

    /// Follows the cluster's API servers: calls `changed` with every state of the endpoints of
    /// the service `kubernetes`, until the watch ends.
    pub(crate) async fn follow_servers(&self, mut changed: impl FnMut(Vec<String>)) -> Result<()> {
        let path = format!(
            "/api/v1/namespaces/default/endpoints?watch=true&timeoutSeconds={WATCH_SECONDS}\
             &fieldSelector=metadata.name%3Dkubernetes"
        );
        let request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .body(Bytes::new())
            .map_err(|error| Error::Request(error.to_string()))?;
        let response = self.client.send(request).await?;
        if !response.status().is_success() {
            return Err(Error::Request(format!(
                "watching endpoints: {}",
                response.status()
            )));
        }
        let mut body = response.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Error::Request(error.to_string()))?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            pending.extend_from_slice(&data);
            if pending.len() > LINE_LIMIT_BYTES {
                return Err(Error::Request(
                    "watching endpoints: an event is too large".into(),
                ));
            }
            while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                if let Ok(event) = serde_json::from_slice::<Value>(&line)
                    && matches!(event["type"].as_str(), Some("ADDED" | "MODIFIED"))
                {
                    changed(addresses(&event["object"]));
                }
            }
        }
        Ok(())
    }
}

/// `host:port` of every ready address of an Endpoints object.
fn addresses(endpoints: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        for port in subset["ports"].as_array().into_iter().flatten() {
            let Some(port) = port["port"].as_u64() else {
                continue;
            };
            for address in subset["addresses"].as_array().into_iter().flatten() {
                match address["ip"].as_str() {
                    Some(ip) if ip.contains(':') => found.push(format!("[{ip}]:{port}")),
                    Some(ip) => found.push(format!("{ip}:{port}")),
                    None => {}
                }
            }
        }
    }
    found
}

fn none_if_missing<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_become_addresses() {
        let endpoints = json!({ "subsets": [
            { "addresses": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }], "ports": [{ "port": 6443 }] },
            { "notReadyAddresses": [{ "ip": "10.0.0.9" }], "ports": [{ "port": 6443 }] },
        ]});
        assert_eq!(addresses(&endpoints), ["10.0.0.1:6443", "[fd00::1]:6443"]);
        assert!(addresses(&json!({})).is_empty());
    }
}
