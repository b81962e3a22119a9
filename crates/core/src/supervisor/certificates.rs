//! Certificates for agents.

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{Method, StatusCode};
use hyper::body::Incoming;
use trivet_join::headers;
use trivet_pki::{LeafRequest, Secret, Usage};

use super::auth::{Caller, GROUP_NODES};
use super::node_password::Refusal;
use super::{Answer, Failure, text};
use crate::config::is_node_name;
use crate::shared::Shared;

/// Largest certificate request.
const CSR_BYTES_MAX: usize = 64 << 10;

/// Most addresses of one node.
const NODE_IPS_MAX: usize = 16;

/// Longest node password.
const PASSWORD_BYTES_MAX: usize = 1024;

/// POST with a DER request signs the caller's key; GET uses a key that all agents share and
/// hands it out as well (old agents do that).
pub(super) async fn issue(
    shared: &Arc<Shared>,
    caller: &Caller,
    parts: &Parts,
    body: Incoming,
) -> Answer {
    let (request, key_file) = match parts.uri.path() {
        "/v1-k3s/serving-kubelet.crt" => {
            let node = node(shared, caller, parts).await?;
            let mut ips = node.ips;
            ips.push([127, 0, 0, 1].into());
            let request = LeafRequest {
                common_name: node.name.clone(),
                organization: None,
                usage: Usage::Server,
                dns: vec![node.name, "localhost".to_owned()],
                ips,
            };
            (request, "serving-kubelet.key")
        }
        "/v1-k3s/client-kubelet.crt" => {
            let node = node(shared, caller, parts).await?;
            (
                client(format!("system:node:{}", node.name), Some(GROUP_NODES)),
                "client-kubelet.key",
            )
        }
        "/v1-k3s/client-kube-proxy.crt" => (
            client("system:kube-proxy".to_owned(), None),
            "client-kube-proxy.key",
        ),
        "/v1-k3s/client-k3s-controller.crt" => (
            client("system:k3s-controller".to_owned(), None),
            "client-k3s-controller.key",
        ),
        _ => return Err(Failure(StatusCode::NOT_FOUND, "not found".to_owned())),
    };
    let ca = match request.usage {
        Usage::Client => &shared.identity.client_ca,
        Usage::Server | Usage::ServerAndClient => &shared.identity.server_ca,
    };
    let now = shared.config.env.clock.wall();
    match parts.method {
        Method::POST => {
            let csr = trivet_https::collect(body, CSR_BYTES_MAX)
                .await
                .map_err(|error| Failure(StatusCode::BAD_REQUEST, error.to_string()))?;
            let pem = ca
                .sign_request(&csr, &request, now)
                .map_err(|error| Failure(StatusCode::BAD_REQUEST, error.to_string()))?;
            Ok(text("text/plain", pem))
        }
        Method::GET => {
            let path = shared.config.layout.tls(key_file);
            let key = tokio::task::spawn_blocking(move || trivet_pki::load_pem(&path))
                .await
                .map_err(Failure::internal)?
                .map_err(Failure::internal)?;
            let key = Secret::new(
                String::from_utf8(key).map_err(|_| Failure::internal("the key is not text"))?,
            );
            let leaf = ca
                .issue_for_key(&request, key.expose(), now)
                .map_err(Failure::internal)?;
            Ok(text(
                "text/plain",
                format!("{}{}", leaf.cert_pem, key.expose()),
            ))
        }
        _ => Err(Failure(
            StatusCode::METHOD_NOT_ALLOWED,
            "method not allowed".to_owned(),
        )),
    }
}

fn client(common_name: String, organization: Option<&str>) -> LeafRequest {
    LeafRequest {
        common_name,
        organization: organization.map(str::to_owned),
        usage: Usage::Client,
        dns: Vec::new(),
        ips: Vec::new(),
    }
}

struct Node {
    name: String,
    ips: Vec<IpAddr>,
}

/// Who the node is, once it has shown its password.
async fn node(shared: &Arc<Shared>, caller: &Caller, parts: &Parts) -> Result<Node, Failure> {
    let bad = |message: &str| Failure(StatusCode::BAD_REQUEST, message.to_owned());
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    };
    let name = header(headers::NODE_NAME)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| bad("node name not set"))?;
    let password = header(headers::NODE_PASSWORD)
        .filter(|text| !text.is_empty())
        .ok_or_else(|| bad("node password not set"))?;
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(bad("node password is too long"));
    }
    let name = name.to_lowercase();
    if !is_node_name(&name) {
        return Err(bad("node name is not valid"));
    }
    if caller.node_name().is_some_and(|own| own != name) {
        return Err(Failure(
            StatusCode::FORBIDDEN,
            "the certificate is another node's".to_owned(),
        ));
    }
    let mut ips = Vec::new();
    for part in header(headers::NODE_IP)
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|p| !p.is_empty())
    {
        ips.push(part.parse().map_err(|_| bad("node address is not valid"))?);
    }
    if ips.len() > NODE_IPS_MAX {
        return Err(bad("too many node addresses"));
    }
    let opened = shared.opened().filter(|opened| opened.api.is_ready());
    let opened = opened.ok_or_else(|| Failure::starting("the Kubernetes API is not ready"))?;
    let password = Secret::new(password);
    match shared
        .passwords
        .ensure(&*opened.api, &*shared.config.env.rng, &name, &password)
        .await
    {
        Ok(()) => Ok(Node { name, ips }),
        Err(Refusal::Mismatch) => {
            tracing::warn!(node = %name, "node password rejected: another machine has this node name");
            Err(Failure(
                StatusCode::FORBIDDEN,
                "node password rejected".to_owned(),
            ))
        }
        Err(Refusal::Unavailable(reason)) => Err(Failure(StatusCode::SERVICE_UNAVAILABLE, reason)),
    }
}
