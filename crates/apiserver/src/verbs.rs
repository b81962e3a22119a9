//! The verbs on resources: one function per verb, none per kind.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderValue, WARNING};
use http::{Response, StatusCode};
use serde_json::Value;
use trivet_kube_schema::codec::{self, MediaType};
use trivet_kube_schema::patch::{self, PatchKind};
use trivet_kube_schema::table::IncludeObject;
use trivet_kube_schema::{FieldError, ResourceInfo, Status, Verb, meta, schema};

use crate::body::Body;
use crate::list::{Freshness, ListOptions};
use crate::negotiate::{Offer, negotiate};
use crate::pipeline::{Call, content_type, read_body};
use crate::registry::{
    DeleteOptions, Deleted, FieldValidation, Propagation, UpdateTarget, WriteContext,
};
use crate::request::{Query, ResourceRequest};
use crate::respond::{self, Presentation};
use crate::reviews;
use crate::select::Selection;
use crate::server::Core;
use crate::watch;

/// Media types a request body may have.
const BODY_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
/// Longest name of a field manager.
const FIELD_MANAGER_MAX: usize = 128;

/// Answers a request for a resource in the table.
pub(crate) async fn serve(
    core: &Arc<Core>,
    call: Call,
    request: &ResourceRequest,
    info: &'static ResourceInfo,
) -> Result<Response<Body>, Status> {
    check_path(request, info)?;
    if let Some(name) = &request.subresource
        && !matches!(name.as_str(), "status" | "finalize")
    {
        return reviews::subresource(core, call, request, info, name).await;
    }
    if info.storage_prefix.is_none() {
        return reviews::serve(core, call, request, info).await;
    }
    let presentation = presentation(core, &call, info)?;
    let namespace = request.namespace.as_deref();
    let name = request.name.as_deref().unwrap_or_default();
    let query = &call.info.query;
    let target = UpdateTarget {
        info,
        subresource: request.subresource.as_deref(),
        namespace,
        name,
    };
    match request.verb {
        Verb::Get => get(core, query, &presentation, namespace, name).await,
        Verb::List => {
            let selection = Selection::parse(info, query)?;
            let options = ListOptions::parse(query)?;
            let listing = core.list(info, namespace, &options, &selection).await?;
            Ok(presentation.list(core.slot(info)?, &listing.entries, &listing.meta))
        }
        Verb::Watch => {
            let selection = Selection::parse(info, query)?;
            let options = ListOptions::parse(query)?;
            let body = watch::open(
                core,
                namespace,
                &options,
                selection,
                presentation,
                call.slot,
            )
            .await?;
            let mut response = Response::new(body);
            let content_type = HeaderValue::from_static("application/json");
            response
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, content_type);
            Ok(response)
        }
        Verb::Create => {
            let query = query.clone();
            let context = write_context(&query, &call.user)?;
            let media = media_type(&call)?;
            let body = read_body(call.body, core.config.limits.body_bytes_max).await?;
            let object = decode(info, &body, media, &context)?;
            let object = core.create(info, namespace, object, &context).await?;
            Ok(warned(
                presentation.object(StatusCode::CREATED, object),
                &context,
            ))
        }
        Verb::Update => {
            let query = query.clone();
            let context = write_context(&query, &call.user)?;
            let media = media_type(&call)?;
            let body = read_body(call.body, core.config.limits.body_bytes_max).await?;
            let object = decode(info, &body, media, &context)?;
            let (object, created) = core.replace(&target, object, &context).await?;
            let code = if created {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            Ok(warned(presentation.object(code, object), &context))
        }
        Verb::Patch => {
            let query = query.clone();
            let context = write_context(&query, &call.user)?;
            let kind = PatchKind::from_content_type(content_type(&call.parts.headers))
                .ok_or_else(|| Status::unsupported_media_type(PATCH_TYPES))?;
            let body = read_body(call.body, core.config.limits.body_bytes_max).await?;
            let object = core
                .update(&target, &context, |current| {
                    patched(info, name, kind, current, &body, &context)
                })
                .await?;
            Ok(warned(
                presentation.object(StatusCode::OK, object),
                &context,
            ))
        }
        Verb::Delete => {
            let (query, user) = (query.clone(), call.user.clone());
            let options = delete_options(core, call).await?;
            let mut context = write_context(&query, &user)?;
            context.dry_run |= options.1;
            let deleted = core
                .delete(info, namespace, name, &options.0, &context)
                .await?;
            match deleted {
                Deleted::Gone(object) => {
                    let uid = meta::uid(&object).unwrap_or_default();
                    Ok(respond::status(&Status::deleted(info, name, uid)))
                }
                Deleted::Marked(object) => Ok(presentation.object(StatusCode::OK, object)),
            }
        }
        Verb::DeleteCollection => {
            let (query, user) = (query.clone(), call.user.clone());
            let selection = Selection::parse(info, &query)?;
            let list_options = ListOptions::parse(&query)?;
            let options = delete_options(core, call).await?;
            let mut context = write_context(&query, &user)?;
            context.dry_run |= options.1;
            let listing = core
                .list(info, namespace, &list_options, &selection)
                .await?;
            for entry in &listing.entries {
                match core
                    .delete(info, entry.namespace(), entry.name(), &options.0, &context)
                    .await
                {
                    Ok(_) => {}
                    Err(status) if status.code == 404 => {}
                    Err(status) => return Err(status),
                }
            }
            Ok(presentation.list(core.slot(info)?, &listing.entries, &listing.meta))
        }
    }
}

/// Whether path and method fit the resource.
fn check_path(request: &ResourceRequest, info: &'static ResourceInfo) -> Result<(), Status> {
    if request.namespace.is_some() && !info.namespaced {
        return Err(Status::unknown_path());
    }
    let across = matches!(request.verb, Verb::List | Verb::Watch);
    if info.namespaced && request.namespace.is_none() && !across {
        return Err(if request.name.is_some() {
            Status::unknown_path()
        } else {
            Status::method_unknown()
        });
    }
    let verbs = match &request.subresource {
        Some(name) => {
            info.subresource(name)
                .ok_or_else(Status::unknown_path)?
                .verbs
        }
        None => info.verbs,
    };
    let named_create =
        request.verb == Verb::Create && request.name.is_some() && request.subresource.is_none();
    if named_create || !verbs.contains(&request.verb) {
        return Err(Status::method_unknown());
    }
    Ok(())
}

/// How the answer is to be formed.
pub(crate) fn presentation(
    core: &Core,
    call: &Call,
    info: &'static ResourceInfo,
) -> Result<Presentation, Status> {
    let form = negotiate(&call.parts.headers, Offer::Objects)?;
    let include = match call.info.query.text("includeObject") {
        Some("None") => IncludeObject::None,
        Some("Object") => IncludeObject::Object,
        None | Some("Metadata") => IncludeObject::Metadata,
        Some(other) => {
            return Err(Status::bad_request(format!(
                "unrecognized includeObject value: {other:?}"
            )));
        }
    };
    Ok(Presentation {
        info,
        form,
        include,
        now_seconds: core.now_seconds(),
    })
}

async fn get(
    core: &Core,
    query: &Query,
    presentation: &Presentation,
    namespace: Option<&str>,
    name: &str,
) -> Result<Response<Body>, Status> {
    let info = presentation.info;
    let slot = core.slot(info)?;
    let options = ListOptions::parse(query)?;
    let missing = || Status::not_found(info, name);
    let entry = match options.version {
        None => {
            let stored = core.read_entry(info, namespace, name).await?;
            Arc::new(stored.ok_or_else(missing)?)
        }
        Some(version) => {
            core.fresh_cache(Freshness::NotOlderThan(version)).await?;
            slot.get_named(namespace, name).ok_or_else(missing)?
        }
    };
    Ok(presentation.entry(slot, &entry))
}

/// The common query parameters of writes.
pub(crate) fn write_context<'a>(
    query: &Query,
    user: &'a crate::auth::UserInfo,
) -> Result<WriteContext<'a>, Status> {
    let options =
        |error: FieldError| Status::invalid_kind("meta.k8s.io", "CreateOptions", "", &[error]);
    let mut context = WriteContext::new(user);
    for value in query.all("dryRun").filter(|v| !v.is_empty()) {
        if value != "All" {
            return Err(options(FieldError::not_supported(
                "dryRun",
                value,
                &["All"],
            )));
        }
        context.dry_run = true;
    }
    context.validation = match query.text("fieldValidation") {
        Some("Ignore") => FieldValidation::Ignore,
        None | Some("Warn") => FieldValidation::Warn,
        Some("Strict") => FieldValidation::Strict,
        Some(other) => {
            let known = &["Ignore", "Strict", "Warn"];
            return Err(options(FieldError::not_supported(
                "fieldValidation",
                other,
                known,
            )));
        }
    };
    if query
        .text("fieldManager")
        .is_some_and(|m| m.len() > FIELD_MANAGER_MAX || m.chars().any(char::is_control))
    {
        return Err(options(FieldError::too_long(
            "fieldManager",
            FIELD_MANAGER_MAX,
        )));
    }
    Ok(context)
}

pub(crate) fn media_type(call: &Call) -> Result<MediaType, Status> {
    MediaType::from_content_type(content_type(&call.parts.headers))
        .ok_or_else(|| Status::unsupported_media_type(BODY_TYPES))
}

/// A body as an object of `info`'s kind.
fn decode(
    info: &ResourceInfo,
    body: &Bytes,
    media: MediaType,
    context: &WriteContext<'_>,
) -> Result<Value, Status> {
    let api_version = info.api_version();
    decode_kind(&api_version, info.kind, body, media, context)
}

/// A body as an object of a kind, with unknown fields reported or refused.
pub(crate) fn decode_kind(
    api_version: &str,
    kind: &str,
    body: &Bytes,
    media: MediaType,
    context: &WriteContext<'_>,
) -> Result<Value, Status> {
    let mut decoded = codec::decode_as(body, media, api_version, kind).map_err(|e| e.status())?;
    if decoded.kind != kind || decoded.api_version != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}/{}) does not match the expected API version ({api_version}/{kind})",
            decoded.api_version, decoded.kind
        )));
    }
    let unknown = schema::conform(api_version, kind, &mut decoded.value)
        .map_err(|e| e.status(api_version, kind))?;
    report(api_version, kind, &unknown, &decoded.duplicates, context)?;
    Ok(decoded.value)
}

fn report(
    api_version: &str,
    kind: &str,
    unknown: &[String],
    duplicates: &[String],
    context: &WriteContext<'_>,
) -> Result<(), Status> {
    match context.validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => context.warn(schema::strict_warnings(unknown, duplicates)),
        FieldValidation::Strict => {
            if let Some(status) = schema::strict_status(api_version, kind, unknown, duplicates) {
                return Err(status);
            }
        }
    }
    Ok(())
}

fn patched(
    info: &ResourceInfo,
    name: &str,
    kind: PatchKind,
    current: &Value,
    body: &[u8],
    context: &WriteContext<'_>,
) -> Result<Value, Status> {
    let mut new =
        patch::apply(kind, info.schema, current, body).map_err(|error| error.status(info, name))?;
    let api_version = info.api_version();
    let unknown = schema::conform(&api_version, info.kind, &mut new)
        .map_err(|e| e.status(&api_version, info.kind))?;
    report(&api_version, info.kind, &unknown, &[], context)?;
    Ok(new)
}

/// DeleteOptions from body and query; the flag is a dry run asked for in the body.
async fn delete_options(core: &Core, call: Call) -> Result<(DeleteOptions, bool), Status> {
    let media = media_type(&call);
    let query = call.info.query;
    let body = read_body(call.body, core.config.limits.body_bytes_max).await?;
    let given = if body.is_empty() {
        Value::Null
    } else {
        // The type of the body is that of the resource's version or `meta.k8s.io`: whatever it
        // is called, it has these fields.
        codec::decode_as(&body, media?, "v1", "DeleteOptions")
            .map_err(|e| e.status())?
            .value
    };
    let text = |pointer: &str| {
        given
            .pointer(pointer)
            .and_then(Value::as_str)
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
    };
    let invalid = |error: FieldError| Status::invalid_kind("", "DeleteOptions", "", &[error]);
    let policy = text("/propagationPolicy").or(query.text("propagationPolicy").map(str::to_owned));
    let orphan = given
        .get("orphanDependents")
        .and_then(Value::as_bool)
        .or_else(|| query.flag("orphanDependents"));
    let propagation = match (policy.as_deref(), orphan) {
        (Some(_), Some(_)) => {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            return Err(invalid(FieldError::invalid(
                "propagationPolicy",
                policy.unwrap_or_default(),
                detail,
            )));
        }
        (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), None) => Some(Propagation::Foreground),
        (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
        (Some(other), None) => {
            let known = &["Background", "Foreground", "Orphan"];
            return Err(invalid(FieldError::not_supported(
                "propagationPolicy",
                other,
                known,
            )));
        }
        (None, None) => None,
    };
    let grace = match query.text("gracePeriodSeconds") {
        Some(text) => Some(text.parse().map_err(|_| {
            Status::bad_request(format!(
                "strconv.ParseInt: parsing {text:?}: invalid syntax"
            ))
        })?),
        None => given.get("gracePeriodSeconds").and_then(Value::as_i64),
    };
    let dry_run = given
        .get("dryRun")
        .and_then(Value::as_array)
        .is_some_and(|d| d.iter().any(|v| v == "All"));
    let options = DeleteOptions {
        grace_seconds: grace,
        uid: text("/preconditions/uid"),
        resource_version: text("/preconditions/resourceVersion"),
        propagation,
    };
    Ok((options, dry_run))
}

/// Adds Warning headers.
fn warned(mut response: Response<Body>, context: &WriteContext<'_>) -> Response<Body> {
    /// Upstream stops adding warnings at about this many bytes.
    const TOTAL_MAX: usize = 4096;
    let warnings = context
        .warnings
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut total = 0;
    for text in warnings.iter() {
        total += text.len();
        if total > TOTAL_MAX {
            break;
        }
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}
