//! The seam to the Kubernetes API.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value;
use trivet_apiserver::{
    ApiConfig, ApiServer, ClientCertificate, Limits, NetworkConfig, ServiceAccountConfig, Timings,
    VersionInfo,
};
use trivet_datastore::Datastore;
use trivet_https::Body;
use trivet_pki::PeerName;

use crate::config::Config;
use crate::identity::Identity;
use crate::supervisor::GROUP_MASTERS;
use crate::{StartError, VERSION};

/// Largest answer of the API to a call from within.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// What the supervisor needs of the Kubernetes API.
#[async_trait]
pub(crate) trait KubeApi: Send + Sync + 'static {
    /// Answers one request of a client with this certificate.
    async fn handle(&self, request: Request<Body>, certificate: Option<PeerName>)
    -> Response<Body>;
}

#[async_trait]
impl KubeApi for ApiServer {
    async fn handle(
        &self,
        request: Request<Body>,
        certificate: Option<PeerName>,
    ) -> Response<Body> {
        let certificate = certificate.map(|name| ClientCertificate {
            common_name: name.common_name,
            organizations: name.organizations,
        });
        Self::handle(self, request, certificate)
            .await
            .map(|body| body.map_err(|never| match never {}).boxed_unsync())
    }
}

/// A call from within, as an administrator. Failures to read the answer are 500.
pub(crate) async fn call(
    api: &dyn KubeApi,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> (StatusCode, Value) {
    let failed = (StatusCode::INTERNAL_SERVER_ERROR, Value::Null);
    let bytes = body.map_or_else(Bytes::new, |value| value.to_string().into());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(trivet_https::full(bytes));
    let Ok(request) = request else { return failed };
    let caller = PeerName {
        common_name: "system:k3s-supervisor".to_owned(),
        organizations: vec![GROUP_MASTERS.to_owned()],
    };
    let (parts, body) = api.handle(request, Some(caller)).await.into_parts();
    match read(body).await {
        Some(bytes) => (
            parts.status,
            serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        ),
        None => failed,
    }
}

/// The whole body, unless it is too large or breaks off. Not `trivet_https::collect`: the
/// compiler cannot prove that its future is `Send` for a body of boxed errors.
async fn read(mut body: Body) -> Option<Bytes> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            if bytes.len() + data.len() > ANSWER_BYTES_MAX {
                return None;
            }
            bytes.extend_from_slice(&data);
        }
    }
    Some(bytes.freeze())
}

/// The API over an open store. Does no I/O.
pub(crate) fn api_server(
    config: &Config,
    identity: &Identity,
    datastore: Arc<dyn Datastore>,
    port: u16,
) -> Result<Arc<ApiServer>, StartError> {
    let settings = &config.settings;
    let service_cidr = settings
        .service_cidr
        .first()
        .and_then(|text| {
            let (address, prefix) = text.split_once('/')?;
            Some((address.parse().ok()?, prefix.parse().ok()?))
        })
        .ok_or_else(|| StartError::Api("--service-cidr is not an address range".to_owned()))?;
    let advertise = (
        config.advertise_address.unwrap_or_else(|| config.node_ip()),
        config.advertise_port.unwrap_or(port),
    );
    ApiServer::new(ApiConfig {
        datastore,
        env: config.env.clone(),
        version: VersionInfo {
            git_version: VERSION.to_owned(),
            git_commit: String::new(),
            build_date: String::new(),
            compiler: "rustc".to_owned(),
            platform: platform(),
        },
        advertise: advertise.into(),
        network: NetworkConfig {
            service_cidr,
            cluster_domain: settings.cluster_domain.clone(),
        },
        root_ca_pem: identity.server_ca.cert_pem().to_owned(),
        service_accounts: ServiceAccountConfig {
            signing_key_pem: identity.service_key.expose().to_owned(),
            issuer: format!("https://kubernetes.default.svc.{}", settings.cluster_domain),
        },
        authenticators: Vec::new(),
        limits: Limits::default(),
        timings: Timings::default(),
    })
    .map_err(|error| StartError::Api(error.to_string()))
}

/// `linux/amd64` and the like, in Go's names.
fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{arch}", std::env::consts::OS)
}
