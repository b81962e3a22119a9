//! Everything that is not a resource: discovery, version, health, OpenAPI, token issuer.

use std::sync::atomic::Ordering;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};
use trivet_kube_schema::discovery::{self, DiscoveryVersion};
use trivet_kube_schema::{Status, openapi};

use crate::body::Body;
use crate::negotiate::{Offer, Shape, negotiate};
use crate::request::RequestInfo;
use crate::respond::{bytes, document};
use crate::server::Core;

/// `application/com.github.proto-openapi.spec.v2@v1.0+protobuf` and its newer spelling.
const OPENAPI_V2_PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// Answers a path outside of resources.
pub(crate) async fn serve(
    core: &Core,
    parts: &Parts,
    info: &RequestInfo,
    path: &str,
) -> Result<Response<Body>, Status> {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Err(Status::method_unknown());
    }
    let headers = &parts.headers;
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match segments.as_slice() {
        [""] => plain(headers, &index()),
        ["version"] => plain(headers, &version(core)),
        ["healthz" | "livez" | "readyz", ..] => Ok(health(core, info, &segments).await),
        ["api"] => discover(headers, true, || {
            discovery::api_versions(&core.config.advertise.to_string())
        }),
        ["apis"] => discover(headers, false, discovery::api_group_list),
        ["api", version] => plain(
            headers,
            &discovery::api_resource_list("", version).ok_or_else(Status::unknown_path)?,
        ),
        ["apis", group] => plain(
            headers,
            &discovery::api_group(group).ok_or_else(Status::unknown_path)?,
        ),
        ["apis", group, version] => plain(
            headers,
            &discovery::api_resource_list(group, version).ok_or_else(Status::unknown_path)?,
        ),
        ["openapi", "v2"] => openapi_v2(headers),
        ["openapi", "v3"] => {
            let index = openapi::v3_index().to_string().into_bytes();
            Ok(cached(headers, "application/json", index, false))
        }
        ["openapi", "v3", "api", version] => openapi_v3(parts, info, "", version),
        ["openapi", "v3", "apis", group, version] => openapi_v3(parts, info, group, version),
        [".well-known", "openid-configuration"] => plain(headers, &issuer(core)),
        ["openid", "v1", "jwks"] => {
            let keys = core.authentication.key.jwks().to_string();
            Ok(bytes(
                StatusCode::OK,
                "application/jwk-set+json",
                keys.into_bytes(),
            ))
        }
        _ => Err(Status::unknown_path()),
    }
}

fn plain(headers: &HeaderMap, value: &Value) -> Result<Response<Body>, Status> {
    let form = negotiate(headers, Offer::Plain)?;
    Ok(document(StatusCode::OK, form.encoding, value))
}

fn index() -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for (group, version) in trivet_kube_schema::group_versions() {
        if !group.is_empty() {
            paths.push(format!("/apis/{group}/{version}"));
        }
    }
    let fixed = [
        "/healthz",
        "/livez",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ];
    paths.extend(fixed.map(str::to_owned));
    json!({"paths": paths})
}

fn version(core: &Core) -> Value {
    let version = &core.config.version;
    let mut numbers = version
        .git_version
        .trim_start_matches('v')
        .split(['.', '+', '-']);
    let (major, minor) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    json!({
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "gitVersion": version.git_version,
        "gitCommit": version.git_commit,
        "gitTreeState": "clean",
        "buildDate": version.build_date,
        // Clients show this field; there is no Go here to name.
        "goVersion": version.compiler,
        "compiler": "rustc",
        "platform": version.platform,
    })
}

fn issuer(core: &Core) -> Value {
    let issuer = &core.authentication.issuer;
    json!({
        "issuer": issuer,
        "jwks_uri": format!("https://{}/openid/v1/jwks", core.config.advertise),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [core.authentication.key.algorithm()],
    })
}

/// `/api` and `/apis`, aggregated where the client asks for it. The content type repeats the
/// parameters: clients tell the two documents apart by it.
fn discover(
    headers: &HeaderMap,
    core_group: bool,
    plain: impl Fn() -> Value,
) -> Result<Response<Body>, Status> {
    let form = negotiate(headers, Offer::Discovery)?;
    let mut response = match form.shape {
        Shape::Discovery(version) => {
            let kind = if version == "v2" {
                DiscoveryVersion::V2
            } else {
                DiscoveryVersion::V2Beta1
            };
            let body = discovery::aggregated(core_group, kind)
                .to_string()
                .into_bytes();
            let content_type = format!(
                "application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
            );
            cached(headers, &content_type, body, false)
        }
        _ => document(StatusCode::OK, form.encoding, &plain()),
    };
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn openapi_v2(headers: &HeaderMap) -> Result<Response<Body>, Status> {
    let accepted: Vec<String> = headers
        .get_all(http::header::ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|clause| {
            clause
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase()
        })
        .collect();
    for clause in &accepted {
        if OPENAPI_V2_PROTOBUF.contains(&clause.as_str()) {
            return Ok(cached(
                headers,
                OPENAPI_V2_PROTOBUF[1],
                openapi::v2_protobuf(),
                false,
            ));
        }
        if matches!(
            clause.as_str(),
            "application/json" | "*/*" | "application/*"
        ) {
            break;
        }
    }
    if accepted.is_empty()
        || accepted
            .iter()
            .any(|c| matches!(c.as_str(), "application/json" | "*/*" | "application/*"))
    {
        return Ok(cached(
            headers,
            "application/json",
            openapi::v2_json(),
            false,
        ));
    }
    let all: Vec<&str> = OPENAPI_V2_PROTOBUF
        .into_iter()
        .chain(["application/json"])
        .collect();
    Err(Status::not_acceptable(&all))
}

fn openapi_v3(
    parts: &Parts,
    info: &RequestInfo,
    group: &str,
    version: &str,
) -> Result<Response<Body>, Status> {
    let body = openapi::v3_document(group, version).ok_or_else(Status::unknown_path)?;
    // With the hash of this very document in the address, it can be kept for ever.
    let immutable = info
        .query
        .text("hash")
        .is_some_and(|hash| openapi::etag(body).contains(hash));
    Ok(cached(&parts.headers, "application/json", body, immutable))
}

/// A document with an ETag, or 304 when the client has it.
fn cached(
    headers: &HeaderMap,
    content_type: &str,
    body: impl Into<bytes::Bytes>,
    immutable: bool,
) -> Response<Body> {
    let body: bytes::Bytes = body.into();
    let etag = openapi::etag(&body);
    let etag = if etag.starts_with('"') {
        etag
    } else {
        format!("\"{etag}\"")
    };
    let known = headers
        .get(IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|known| {
            known
                .split(',')
                .any(|k| k.trim() == etag || k.trim() == "*")
        });
    let mut response = if known {
        let mut response = bytes(StatusCode::NOT_MODIFIED, content_type, bytes::Bytes::new());
        response.headers_mut().remove(CONTENT_TYPE);
        response
    } else {
        bytes(StatusCode::OK, content_type, body)
    };
    if let Ok(value) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(ETAG, value);
    }
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept"));
    if immutable {
        response
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    response
}

/// `/healthz`, `/livez` and `/readyz`, whole or one check of it.
async fn health(core: &Core, info: &RequestInfo, segments: &[&str]) -> Response<Body> {
    let kind = segments.first().copied().unwrap_or_default();
    let mut checks: Vec<(&str, bool)> = vec![("ping", true)];
    // A server that waits for its peers is alive and not ready.
    if kind != "livez" {
        let quorum =
            tokio::time::timeout(std::time::Duration::from_secs(2), core.newest_revision());
        checks.push(("etcd", quorum.await.is_ok_and(|r| r.is_ok())));
        checks.push(("informer-sync", core.cache.is_ready()));
        checks.push((
            "poststarthook/bootstrap",
            core.bootstrapped.load(Ordering::Acquire),
        ));
    }
    if kind == "readyz" {
        checks.push(("shutdown", !core.stop.is_cancelled()));
    }
    let only = segments.get(1..).unwrap_or_default().join("/");
    let excluded: Vec<&str> = info.query.all("exclude").collect();
    if !only.is_empty() {
        checks.retain(|(name, _)| *name == only);
        if checks.is_empty() {
            return bytes(
                StatusCode::NOT_FOUND,
                "text/plain; charset=utf-8",
                "404 page not found\n",
            );
        }
    }
    let mut text = String::new();
    let mut healthy = true;
    for (name, good) in checks {
        if excluded.contains(&name) {
            text.push_str(&format!("[+]{name} excluded: ok\n"));
        } else if good {
            text.push_str(&format!("[+]{name} ok\n"));
        } else {
            healthy = false;
            text.push_str(&format!("[-]{name} failed: reason withheld\n"));
        }
    }
    let verbose = info.query.flag("verbose").unwrap_or(false);
    let (code, body) = match (healthy, verbose) {
        (true, false) => (StatusCode::OK, "ok".to_owned()),
        (true, true) => (StatusCode::OK, format!("{text}{kind} check passed\n")),
        (false, _) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{text}{kind} check failed\n"),
        ),
    };
    let mut response = bytes(code, "text/plain; charset=utf-8", body.into_bytes());
    let headers = response.headers_mut();
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}
