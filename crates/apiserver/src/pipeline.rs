//! The filters every request passes, in order: panic isolation, size limits, request info,
//! requests in flight, authentication, authorization, timeout, dispatch.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use trivet_kube_schema::status::AccessTarget;
use trivet_kube_schema::{Status, Verb, find};

use crate::auth::{Attributes, UserInfo, authorize};
use crate::body::Body;
use crate::config::ClientCertificate;
use crate::request::{RequestInfo, ResourceRequest, Target};
use crate::respond;
use crate::server::{ApiServer, Core};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of a request, not read yet.
pub(crate) type Incoming = UnsyncBoxBody<Bytes, BoxError>;

/// One request on its way through the server.
pub(crate) struct Call {
    pub(crate) parts: Parts,
    pub(crate) info: RequestInfo,
    pub(crate) user: UserInfo,
    pub(crate) body: Incoming,
    /// Counts the request as in flight while it lives.
    pub(crate) slot: InFlight,
}

/// A place among the requests in flight, given back on drop.
pub(crate) struct InFlight {
    core: Arc<Core>,
    gauge: fn(&Core) -> &AtomicUsize,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        (self.gauge)(&self.core).fetch_sub(1, Ordering::AcqRel);
    }
}

impl ApiServer {
    /// Answers one request. Never fails and never panics; the body of a watch is produced while
    /// it is read.
    ///
    /// `certificate` is what the TLS layer verified about the client, if anything.
    pub async fn handle<B>(
        &self,
        request: Request<B>,
        certificate: Option<ClientCertificate>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let body = body.map_err(Into::into).boxed_unsync();
        let audit_id = self.core.uid();
        let head = parts.method == Method::HEAD;
        let work = Box::pin(serve(Arc::clone(&self.core), parts, body, certificate));
        let mut response = match AssertUnwindSafe(work).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                tracing::error!(audit_id, "a request handler panicked");
                respond::status(&Status::internal(
                    "this request caused a panic on the server",
                ))
            }
        };
        if head {
            *response.body_mut() = Body::empty();
        }
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&audit_id) {
            headers.insert("audit-id", value);
        }
        headers
            .entry(CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-cache, private"));
        // Clients only check that the flow control headers are there.
        headers.insert(
            "x-kubernetes-pf-flowschema-uid",
            HeaderValue::from_static("trivet"),
        );
        headers.insert(
            "x-kubernetes-pf-prioritylevel-uid",
            HeaderValue::from_static("trivet"),
        );
        response
    }
}

async fn serve(
    core: Arc<Core>,
    parts: Parts,
    body: Incoming,
    certificate: Option<ClientCertificate>,
) -> Response<Body> {
    let result = match admit(&core, parts, body, certificate).await {
        Ok(call) => {
            let read = call.info.is_read();
            let limit = core.config.limits.request_timeout;
            let answer = tokio::time::timeout(limit, dispatch(&core, call)).await;
            answer.unwrap_or_else(|_| Err(timed_out(read)))
        }
        Err(status) => Err(status),
    };
    result.unwrap_or_else(|status| respond::status(&status))
}

fn timed_out(read: bool) -> Status {
    let text = "request did not complete within the allotted timeout";
    let mut status = Status::timeout(text, 1);
    if !read {
        // The write may have happened: a client must look before it repeats it.
        status.details = None;
    }
    status
}

/// Everything that is decided before the body is looked at.
async fn admit(
    core: &Arc<Core>,
    parts: Parts,
    body: Incoming,
    certificate: Option<ClientCertificate>,
) -> Result<Call, Status> {
    let limits = &core.config.limits;
    let target = parts.uri.path_and_query().map_or(0, |t| t.as_str().len());
    if target > limits.target_bytes_max {
        return Err(refused(
            StatusCode::URI_TOO_LONG,
            "the request target is too long",
        ));
    }
    let headers: usize = parts
        .headers
        .iter()
        .map(|(n, v)| n.as_str().len() + v.len())
        .sum();
    if headers > limits.header_bytes_max {
        let code = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(refused(code, "the request headers are too large"));
    }
    let info = RequestInfo::parse(
        &parts.method,
        parts.uri.path(),
        parts.uri.query().unwrap_or_default(),
    );
    let slot = in_flight(core, &info)?;
    let user = core
        .authentication
        .identify(&parts, certificate.as_ref())
        .await
        .map_err(|_| Status::unauthorized())?;
    let user = impersonated(core, &parts, user)?;
    check_access(core, &parts, &info, &user)?;
    if core.stop.is_cancelled() {
        return Err(Status::unavailable("the server is shutting down"));
    }
    Ok(Call {
        parts,
        info,
        user,
        body,
        slot,
    })
}

/// The identity a client with the right to do so wants to act as.
fn impersonated(core: &Core, parts: &Parts, user: UserInfo) -> Result<UserInfo, Status> {
    let values = |name: &str| -> Vec<String> {
        let all = parts.headers.get_all(name).iter();
        all.filter_map(|v| v.to_str().ok())
            .filter(|v| !v.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (name, groups) = (values("impersonate-user"), values("impersonate-group"));
    let asked = |header: &http::HeaderName| header.as_str().starts_with("impersonate-");
    if !parts.headers.keys().any(asked) {
        return Ok(user);
    }
    let Some(name) = name.into_iter().next() else {
        return Err(Status::bad_request(
            "requested impersonation without impersonating a user",
        ));
    };
    let wanted = groups
        .iter()
        .map(|group| ("groups", group))
        .chain([("users", &name)]);
    for (resource, target) in wanted {
        let asked = Attributes {
            verb: "impersonate",
            resource,
            name: target,
            ..Attributes::default()
        };
        if !authorize(&user, &asked, &core.cache).allowed {
            let target = AccessTarget {
                group: "",
                resource,
                subresource: "",
                namespace: "",
                name: target,
            };
            return Err(Status::forbidden_access(&user.name, "impersonate", target));
        }
    }
    if name == UserInfo::anonymous().name {
        return Ok(UserInfo::anonymous());
    }
    Ok(UserInfo::new(name, groups))
}

fn refused(code: StatusCode, message: &str) -> Status {
    let mut status = Status::bad_request(message);
    status.code = code.as_u16();
    status
}

fn in_flight(core: &Arc<Core>, info: &RequestInfo) -> Result<InFlight, Status> {
    let limits = &core.config.limits;
    let (gauge, max): (fn(&Core) -> &AtomicUsize, usize) = if info.is_watch() {
        (|core| &core.watches, limits.watches_max)
    } else if info.is_read() {
        (|core| &core.reads, limits.reads_in_flight_max)
    } else {
        (|core| &core.writes, limits.writes_in_flight_max)
    };
    // The guard exists before the check, so that every way out gives the place back.
    let before = gauge(core).fetch_add(1, Ordering::AcqRel);
    let slot = InFlight {
        core: Arc::clone(core),
        gauge,
    };
    // Health must be visible on a busy server.
    let health =
        matches!(&info.target, Target::Path(path) if path != "/" && !path.starts_with("/api"));
    if before >= max && !health {
        return Err(Status::too_many_requests(
            "Too many requests, please try again later.",
            1,
        ));
    }
    Ok(slot)
}

fn check_access(
    core: &Core,
    parts: &Parts,
    info: &RequestInfo,
    user: &UserInfo,
) -> Result<(), Status> {
    match &info.target {
        Target::Path(path) => {
            let verb = parts.method.as_str().to_ascii_lowercase();
            let asked = Attributes {
                verb: &verb,
                path: Some(path),
                ..Attributes::default()
            };
            if authorize(user, &asked, &core.cache).allowed {
                return Ok(());
            }
            Err(Status::forbidden_path(&user.name, &verb, path))
        }
        Target::Resource(resource) => {
            let asked = attributes(resource, info);
            let decision = authorize(user, &asked.borrow(), &core.cache);
            if decision.allowed {
                return Ok(());
            }
            let target = AccessTarget {
                group: &resource.group,
                resource: &resource.plural,
                subresource: resource.subresource.as_deref().unwrap_or_default(),
                namespace: resource.namespace.as_deref().unwrap_or_default(),
                name: resource.name.as_deref().unwrap_or_default(),
            };
            let mut status = Status::forbidden_access(&user.name, resource.verb.as_str(), target);
            if !decision.reason.is_empty() {
                status.message = format!("{}: {}", status.message, decision.reason);
            }
            Err(status)
        }
    }
}

/// [`Attributes`] with what had to be computed.
struct OwnedAttributes<'a> {
    request: &'a ResourceRequest,
    /// From the field selector, where the request names no object.
    name: String,
    node_name: String,
}

impl OwnedAttributes<'_> {
    fn borrow(&self) -> Attributes<'_> {
        Attributes {
            verb: self.request.verb.as_str(),
            path: None,
            group: &self.request.group,
            resource: &self.request.plural,
            subresource: self.request.subresource.as_deref().unwrap_or_default(),
            // The Namespace object itself counts as inside itself.
            namespace: self.request.namespace.as_deref().unwrap_or(
                if self.request.plural == "namespaces" {
                    &self.name
                } else {
                    ""
                },
            ),
            name: &self.name,
            node_name: &self.node_name,
        }
    }
}

fn attributes<'a>(request: &'a ResourceRequest, info: &RequestInfo) -> OwnedAttributes<'a> {
    let selector = info.query.text("fieldSelector").unwrap_or_default();
    let exact = |label: &str| {
        selector
            .split(',')
            .filter_map(|term| term.trim().split_once('='))
            .find(|(key, _)| *key == label)
            .map(|(_, value)| value.trim_start_matches('=').to_owned())
            .unwrap_or_default()
    };
    let name = match (&request.name, request.verb) {
        (Some(name), _) => name.clone(),
        (None, Verb::List | Verb::Watch | Verb::DeleteCollection) => exact("metadata.name"),
        (None, _) => String::new(),
    };
    OwnedAttributes {
        request,
        name,
        node_name: exact("spec.nodeName"),
    }
}

async fn dispatch(core: &Arc<Core>, call: Call) -> Result<Response<Body>, Status> {
    match call.info.target.clone() {
        Target::Path(path) => {
            let Call {
                parts,
                info,
                slot: _slot,
                ..
            } = call;
            crate::paths::serve(core, &parts, &info, &path).await
        }
        Target::Resource(request) => {
            let info = find(&request.group, &request.version, &request.plural)
                .ok_or_else(Status::unknown_path)?;
            if !core.cache.is_ready() {
                let mut status =
                    Status::unavailable("the server is starting and waits for the datastore");
                status.details = Status::too_many_requests("", 1).details;
                return Err(status);
            }
            crate::verbs::serve(core, call, &request, info).await
        }
    }
}

/// Reads a body up to the limit.
pub(crate) async fn read_body(body: Incoming, limit_bytes: usize) -> Result<Bytes, Status> {
    let mut body = body;
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Status::bad_request("the request body could not be read"))?;
        if let Ok(data) = frame.into_data() {
            if read.len() + data.len() > limit_bytes {
                return Err(Status::too_large_body(limit_bytes));
            }
            read.extend_from_slice(&data);
        }
    }
    Ok(read.freeze())
}

/// The media type of a body; JSON when none is given.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("application/json")
}
