//! A small Kubernetes client for load and watches, with the administrator's certificate.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};
use trivet_https::Client;
use trivet_pki::{ALPN_HTTP, Identity, ServerTrust};

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
}

impl Api {
    /// With the credentials of a kubeconfig, against `url`.
    pub(crate) fn new(kubeconfig: &Path, url: &str, timeout: Duration) -> Self {
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        let config: Value = serde_saphyr::from_str(&text).unwrap();
        let decode = |value: &Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
        let ca = decode(&config["clusters"][0]["cluster"]["certificate-authority-data"]);
        let user = &config["users"][0]["user"];
        let chain = decode(&user["client-certificate-data"]);
        let key = String::from_utf8(decode(&user["client-key-data"])).unwrap();
        let identity = Identity::from_pem(&chain, &key).unwrap();
        let tls = trivet_pki::client_config(ServerTrust::Pinned(&ca), Some(&identity), ALPN_HTTP)
            .unwrap();
        let client = Client::builder(url, tls)
            .unwrap()
            .request_timeout(timeout)
            .build()
            .unwrap();
        Self { client }
    }

    pub(crate) async fn get(&self, path: &str) -> trivet_https::Result<Value> {
        self.client.get_json(path).await
    }

    /// Creates a ConfigMap; answers its resourceVersion.
    pub(crate) async fn create_config_map(
        &self,
        name: &str,
        value: &str,
    ) -> trivet_https::Result<u64> {
        let body = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": name },
            "data": { "value": value },
        });
        let created: Value = self
            .client
            .send_json(
                Method::POST,
                "/api/v1/namespaces/default/configmaps",
                "application/json",
                &body,
            )
            .await?;
        Ok(revision(&created))
    }

    /// Names and resourceVersions of every ConfigMap in `default` whose name starts so.
    pub(crate) async fn config_maps(
        &self,
        prefix: &str,
    ) -> trivet_https::Result<Vec<(String, u64)>> {
        let list = self.get("/api/v1/namespaces/default/configmaps").await?;
        Ok(list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|item| (name(item), revision(item)))
            .filter(|(name, _)| name.starts_with(prefix))
            .collect())
    }

    /// Watches the ConfigMaps of `default` from a revision; events go to `seen` until the
    /// stream ends. Answers the last revision seen.
    pub(crate) async fn watch_config_maps(
        &self,
        from: u64,
        mut seen: impl FnMut(&str, String, u64),
    ) -> trivet_https::Result<u64> {
        use http_body_util::BodyExt;
        let request = Request::builder()
            .uri(format!(
                "/api/v1/namespaces/default/configmaps?watch=true&resourceVersion={from}&allowWatchBookmarks=true"
            ))
            .body(Bytes::new())
            .unwrap();
        let mut body = self.client.send(request).await?.into_body();
        let mut pending: Vec<u8> = Vec::new();
        let mut last = from;
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else {
                continue;
            };
            pending.extend_from_slice(&data);
            while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                let kind = event["type"].as_str().unwrap_or_default();
                assert_ne!(kind, "ERROR", "the watch was cut: {event}");
                last = revision(&event["object"]);
                if kind != "BOOKMARK" {
                    seen(kind, name(&event["object"]), last);
                }
            }
        }
        Ok(last)
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}
