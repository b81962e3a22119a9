//! The supervisor: what servers and agents ask of a server besides the Kubernetes API.
//!
//! One router for the whole port: public paths, then the supervisor's own (each with the
//! groups that may call it), then the Kubernetes API.

mod auth;
mod certificates;
mod node_password;
mod report;

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use trivet_datastore::{MemberId, MemberRole};
use trivet_https::{Body, PeerIdentity};
use trivet_join::{DbInfo, DbMember};

use crate::shared::Shared;
use crate::{VERSION, identity, kube};

use auth::{Caller, Refusal, identify};

pub(crate) use auth::{Attempts, GROUP_MASTERS};
pub(crate) use node_password::NodePasswords;
pub(crate) use report::{member_hosts, report, url_host};

/// An answer that is not 2xx, with a text for the caller.
pub(crate) struct Failure(pub(crate) StatusCode, pub(crate) String);

impl Failure {
    fn starting(what: &str) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, format!("starting: {what}"))
    }

    fn forbidden() -> Self {
        Self(StatusCode::FORBIDDEN, "forbidden".to_owned())
    }

    fn internal(what: impl std::fmt::Display) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, what.to_string())
    }
}

type Answer = Result<Response<Body>, Failure>;

/// Keeps the futures of rare and large handlers out of every connection's.
fn boxed<'a>(
    work: impl Future<Output = Answer> + Send + 'a,
) -> std::pin::Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
    Box::pin(work)
}

/// Answers one request on the port.
pub(crate) async fn handle(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    let answer = match path {
        "/ping" => Ok(text("text/plain", "pong")),
        "/cacerts" => Ok(text(
            "text/plain",
            shared.identity.server_ca.cert_pem().to_owned(),
        )),
        _ if path.starts_with("/v1-k3s/")
            || path.starts_with("/v1-trivet/")
            || path.starts_with("/db/") =>
        {
            boxed(supervise(&shared, request)).await
        }
        _ => return kubernetes(&shared, request).await,
    };
    answer.unwrap_or_else(|Failure(status, message)| {
        let mut response = text("text/plain", format!("{message}\n"));
        *response.status_mut() = status;
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"trivet\""),
            );
        }
        response
    })
}

async fn kubernetes(shared: &Shared, request: Request<Incoming>) -> Response<Body> {
    let Some(opened) = shared.opened() else {
        return unavailable();
    };
    let certificate = request
        .extensions()
        .get::<PeerIdentity>()
        .map(|peer| peer.name.clone());
    let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
    kube::KubeApi::handle(&*opened.api, request, certificate).await
}

/// 503 as Kubernetes clients understand it.
fn unavailable() -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "the server is starting", "reason": "ServiceUnavailable", "code": 503,
    });
    let mut response = trivet_https::json(StatusCode::SERVICE_UNAVAILABLE, &status);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn text(content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(trivet_https::full(body));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The supervisor's own paths.
async fn supervise(shared: &Arc<Shared>, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let now = shared.config.env.clock.monotonic();
    let caller =
        identify(&parts, &shared.identity.passwd, &shared.attempts, now).map_err(|refusal| {
            match refusal {
                Refusal::Unauthorized => {
                    Failure(StatusCode::UNAUTHORIZED, "not authorized".to_owned())
                }
                Refusal::TooManyAttempts => Failure(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too many failed attempts; wait a minute".to_owned(),
                ),
            }
        })?;
    let allowed = |condition: bool| {
        if condition {
            Ok(())
        } else {
            Err(Failure::forbidden())
        }
    };
    let get = parts.method == Method::GET;
    match parts.uri.path() {
        "/v1-k3s/server-bootstrap" if get => {
            allowed(caller.is_server())?;
            server_bootstrap(shared).await
        }
        "/db/info" if get => {
            allowed(caller.is_server_or_admin())?;
            db_info(shared).await
        }
        "/v1-trivet/status" if get => {
            allowed(caller.is_server_or_admin())?;
            let local_only = parts.uri.query() == Some("local=true");
            Ok(trivet_https::json(
                StatusCode::OK,
                &report(shared, local_only).await,
            ))
        }
        path if parts.method == Method::DELETE && path.starts_with("/v1-trivet/members/") => {
            allowed(caller.is_server_or_admin())?;
            remove_member(shared, &path["/v1-trivet/members/".len()..]).await
        }
        path if path.starts_with("/v1-k3s/") => {
            allowed(caller.is_node())?;
            for_nodes(shared, &caller, &parts, body).await
        }
        _ => Err(Failure(StatusCode::NOT_FOUND, "not found".to_owned())),
    }
}

async fn for_nodes(shared: &Arc<Shared>, caller: &Caller, parts: &Parts, body: Incoming) -> Answer {
    let get = parts.method == Method::GET;
    match parts.uri.path() {
        "/v1-k3s/client-ca.crt" if get => Ok(text(
            "text/plain",
            shared.identity.client_ca.cert_pem().to_owned(),
        )),
        "/v1-k3s/server-ca.crt" if get => Ok(text(
            "text/plain",
            shared.identity.server_ca.cert_pem().to_owned(),
        )),
        "/v1-k3s/config" if get => {
            // A server that waits for this one to come up must not take its silence for an answer.
            shared
                .opened()
                .ok_or_else(|| Failure::starting("the datastore is not open"))?;
            Ok(trivet_https::json(
                StatusCode::OK,
                &shared.config.settings.to_wire(),
            ))
        }
        "/v1-k3s/apiservers" if get => Ok(trivet_https::json(
            StatusCode::OK,
            &apiservers(shared).await,
        )),
        "/v1-k3s/readyz" if get => match shared.opened() {
            Some(opened) if opened.api.is_ready() => Ok(text("text/plain", "ok")),
            _ => Err(Failure::starting("the Kubernetes API is not ready")),
        },
        _ => certificates::issue(shared, caller, parts, body).await,
    }
}

/// The shared files; only while the cluster can take a member in, so that a server that gets
/// them can go on to join.
async fn server_bootstrap(shared: &Shared) -> Answer {
    let opened = shared
        .opened()
        .ok_or_else(|| Failure::starting("the datastore is not open"))?;
    if opened.store.cluster().is_none() {
        return Err(Failure(
            StatusCode::BAD_REQUEST,
            "this server's datastore cannot be joined".to_owned(),
        ));
    }
    let status = opened.store.status().await.map_err(Failure::internal)?;
    if !status.writable {
        return Err(Failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "the cluster has no quorum".to_owned(),
        ));
    }
    let layout = shared.config.layout.clone();
    let bundle = tokio::task::spawn_blocking(move || identity::bundle(&layout))
        .await
        .map_err(Failure::internal)?
        .map_err(Failure::internal)?;
    Ok(trivet_https::json(StatusCode::OK, &bundle))
}

async fn db_info(shared: &Shared) -> Answer {
    let opened = shared
        .opened()
        .ok_or_else(|| Failure::starting("the datastore is not open"))?;
    let Some(cluster) = opened.store.cluster() else {
        return Err(Failure(
            StatusCode::BAD_REQUEST,
            "this server's datastore has no members".to_owned(),
        ));
    };
    let status = cluster.status().await.map_err(Failure::internal)?;
    let members = status
        .members
        .into_iter()
        .map(|member| DbMember {
            id: member.id.0,
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            is_learner: member.role == MemberRole::Learner,
        })
        .collect();
    Ok(trivet_https::json(StatusCode::OK, &DbInfo { members }))
}

/// Removes a member by its identity (hexadecimal) or name.
async fn remove_member(shared: &Shared, which: &str) -> Answer {
    let opened = shared
        .opened()
        .ok_or_else(|| Failure::starting("the datastore is not open"))?;
    let Some(cluster) = opened.store.cluster() else {
        return Err(Failure(
            StatusCode::BAD_REQUEST,
            "this server's datastore has no members".to_owned(),
        ));
    };
    let status = cluster.status().await.map_err(Failure::internal)?;
    let id = u64::from_str_radix(which, 16).ok().map(MemberId);
    let Some(member) = status
        .members
        .iter()
        .find(|member| Some(member.id) == id || member.name == which)
    else {
        return Err(Failure(
            StatusCode::NOT_FOUND,
            "no member has this name or identity".to_owned(),
        ));
    };
    cluster
        .remove_member(member.id)
        .await
        .map_err(|error| Failure(StatusCode::CONFLICT, error.to_string()))?;
    tracing::info!(member = %member.name, "member removed on request");
    Ok(trivet_https::json(
        StatusCode::OK,
        &json!({ "removed": member.name, "version": VERSION }),
    ))
}

/// `host:port` of every server: the endpoints of Service `kubernetes` and the members.
async fn apiservers(shared: &Shared) -> Vec<String> {
    let mut servers = Vec::new();
    let port = shared
        .config
        .advertise_port
        .unwrap_or_else(|| shared.local.port());
    if let Some(opened) = shared.opened() {
        if opened.api.is_ready() {
            let path = "/api/v1/namespaces/default/endpoints/kubernetes";
            let (_, endpoints) = kube::call(&*opened.api, Method::GET, path, None).await;
            servers.extend(endpoint_addresses(&endpoints));
        }
        servers.extend(
            member_hosts(&opened)
                .await
                .into_iter()
                .map(|host| format!("{host}:{port}")),
        );
    }
    if servers.is_empty() {
        let address = shared
            .config
            .advertise_address
            .unwrap_or_else(|| shared.config.node_ip());
        servers.push(std::net::SocketAddr::new(address, port).to_string());
    }
    servers.sort();
    servers.dedup();
    servers
}

fn endpoint_addresses(endpoints: &serde_json::Value) -> Vec<String> {
    let mut found = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let port = subset["ports"][0]["port"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok());
        let Some(port) = port else { continue };
        for address in subset["addresses"].as_array().into_iter().flatten() {
            if let Some(ip) = address["ip"].as_str().and_then(|ip| ip.parse().ok()) {
                found.push(std::net::SocketAddr::new(ip, port).to_string());
            }
        }
    }
    found
}
