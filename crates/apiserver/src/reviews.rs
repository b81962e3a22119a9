//! Kinds that are answered and forgotten, and subresources that are actions.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use trivet_kube_schema::{FieldError, ResourceInfo, Status, find, meta};

use crate::auth::{Attributes, TokenSubject, UserInfo, authorize, issue, rules_for};
use crate::body::Body;
use crate::pipeline::{Call, read_body};
use crate::registry::{DeleteOptions, WriteContext};
use crate::request::ResourceRequest;
use crate::respond::document;
use crate::server::Core;
use crate::verbs::{decode_kind, media_type, presentation, write_context};

/// Shortest life of a token; kube-apiserver: 10 minutes.
const TOKEN_SECONDS_MIN: i64 = 600;
/// Life of a token when the client does not say.
const TOKEN_SECONDS: i64 = 3600;
/// Longest life this server grants.
const TOKEN_SECONDS_MAX: i64 = 365 * 24 * 3600;

/// Answers a review.
pub(crate) async fn serve(
    core: &Arc<Core>,
    call: Call,
    request: &ResourceRequest,
    info: &'static ResourceInfo,
) -> Result<Response<Body>, Status> {
    let presentation = presentation(core, &call, info)?;
    let user = call.user.clone();
    let context = write_context(&call.info.query, &user)?;
    let media = media_type(&call)?;
    let body = read_body(call.body, core.config.limits.body_bytes_max).await?;
    let mut review = decode_kind(&info.api_version(), info.kind, &body, media, &context)?;
    let spec = review.get("spec").cloned().unwrap_or_default();
    let status = match info.kind {
        "SelfSubjectAccessReview" => access(core, &context.user.clone(), &spec),
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            if let Some(namespace) = request.namespace.as_deref()
                && spec
                    .pointer("/resourceAttributes/namespace")
                    .and_then(Value::as_str)
                    != Some(namespace)
            {
                let detail = format!("must match metadata.namespace: {namespace}");
                let error = FieldError::invalid("spec.resourceAttributes.namespace", "", &detail);
                return Err(Status::invalid(info, "", &[error]));
            }
            access(core, &subject(&spec), &spec)
        }
        "SelfSubjectRulesReview" => {
            let (resources, paths) = rules_for(&user);
            json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
        }
        "SelfSubjectReview" => json!({"userInfo": user_value(&user)}),
        "TokenReview" => token_review(core, &spec),
        _ => return Err(Status::method_unknown()),
    };
    if let Some(object) = review.as_object_mut() {
        object.insert("status".to_owned(), status);
        object.entry("metadata").or_insert_with(|| json!({}));
    }
    if info.kind == "SelfSubjectReview" {
        meta::set(
            &mut review,
            "creationTimestamp",
            meta::rfc3339(core.now_seconds()),
        );
    }
    // The token must not travel back.
    if info.kind == "TokenReview"
        && let Some(spec) = review.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.remove("token");
    }
    Ok(presentation.object(StatusCode::CREATED, review))
}

fn subject(spec: &Value) -> UserInfo {
    let text = |field: &str| {
        spec.get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let groups = spec
        .get("groups")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    UserInfo {
        name: text("user"),
        uid: text("uid"),
        groups: groups
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        extra: Vec::new(),
    }
}

fn access(core: &Core, user: &UserInfo, spec: &Value) -> Value {
    let text = |pointer: &str| {
        spec.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let node_name = spec
        .pointer("/resourceAttributes/fieldSelector/requirements")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|r| r["key"] == "spec.nodeName" && r["operator"] == "In")
        .and_then(|r| r.pointer("/values/0")?.as_str())
        .unwrap_or_default();
    let asked = if spec
        .get("nonResourceAttributes")
        .is_some_and(Value::is_object)
    {
        Attributes {
            verb: text("/nonResourceAttributes/verb"),
            path: Some(text("/nonResourceAttributes/path")),
            ..Attributes::default()
        }
    } else {
        Attributes {
            verb: text("/resourceAttributes/verb"),
            path: None,
            group: text("/resourceAttributes/group"),
            resource: text("/resourceAttributes/resource"),
            subresource: text("/resourceAttributes/subresource"),
            namespace: text("/resourceAttributes/namespace"),
            name: text("/resourceAttributes/name"),
            node_name,
        }
    };
    let decision = authorize(user, &asked, &core.cache);
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    status
}

fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        value["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        let extra: serde_json::Map<String, Value> = user
            .extra
            .iter()
            .map(|(name, values)| (name.clone(), json!(values)))
            .collect();
        value["extra"] = extra.into();
    }
    value
}

/// Service-account tokens only: the others are not for third parties to check.
fn token_review(core: &Core, spec: &Value) -> Value {
    let token = spec
        .get("token")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let asked: Vec<&str> = spec
        .get("audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let issuer = core.authentication.issuer.as_str();
    let asked = if asked.is_empty() {
        vec![issuer]
    } else {
        asked
    };
    let known = core.authentication.claims(token).and_then(|claims| {
        let shared: Vec<&str> = asked
            .into_iter()
            .filter(|a| claims.aud.contains(a))
            .collect();
        (!shared.is_empty()).then(|| (core.authentication.user(&claims), shared))
    });
    match known {
        Some((user, audiences)) => {
            json!({"authenticated": true, "user": user_value(&user), "audiences": audiences})
        }
        None => json!({"authenticated": false, "error": "the token is not valid"}),
    }
}

/// Actions below an object.
pub(crate) async fn subresource(
    core: &Arc<Core>,
    call: Call,
    request: &ResourceRequest,
    info: &'static ResourceInfo,
    name: &str,
) -> Result<Response<Body>, Status> {
    let presentation = presentation(core, &call, info)?;
    let row = info.subresource(name).ok_or_else(Status::unknown_path)?;
    let user = call.user.clone();
    let context = write_context(&call.info.query, &user)?;
    let media = media_type(&call)?;
    let body: Bytes = read_body(call.body, core.config.limits.body_bytes_max).await?;
    let api_version = match row.group {
        "" => row.version.to_owned(),
        group => format!("{group}/{}", row.version),
    };
    // Old clients evict with `policy/v1beta1`, which has the same fields.
    let declared = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|v| v.get("apiVersion")?.as_str().map(str::to_owned))
        .filter(|v| name == "eviction" && v == "policy/v1beta1");
    let object = decode_kind(
        declared.as_deref().unwrap_or(&api_version),
        row.kind,
        &body,
        media,
        &context,
    )?;
    let namespace = request.namespace.as_deref();
    let target = request.name.as_deref().unwrap_or_default();
    let answer = match (info.plural, name) {
        ("serviceaccounts", "token") => token_request(core, namespace, target, object).await?,
        ("pods", "eviction") => evict(core, info, namespace, target, &object, &context).await?,
        _ => return Err(Status::unknown_path()),
    };
    Ok(document(
        StatusCode::CREATED,
        presentation.form.encoding,
        &answer,
    ))
}

async fn evict(
    core: &Core,
    info: &'static ResourceInfo,
    namespace: Option<&str>,
    name: &str,
    eviction: &Value,
    context: &WriteContext<'_>,
) -> Result<Value, Status> {
    let text = |pointer: &str| {
        eviction
            .pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let options = DeleteOptions {
        grace_seconds: eviction
            .pointer("/deleteOptions/gracePeriodSeconds")
            .and_then(Value::as_i64),
        uid: text("/deleteOptions/preconditions/uid"),
        resource_version: text("/deleteOptions/preconditions/resourceVersion"),
        propagation: None,
    };
    core.delete(info, namespace, name, &options, context)
        .await?;
    Ok(Status::success(201).to_value())
}

async fn token_request(
    core: &Core,
    namespace: Option<&str>,
    name: &str,
    mut request: Value,
) -> Result<Value, Status> {
    let row = find("", "v1", "serviceaccounts").ok_or_else(Status::unknown_path)?;
    let account = core
        .read(row, namespace, name)
        .await?
        .ok_or_else(|| Status::not_found(row, name))?
        .value;
    let spec = request.get("spec").cloned().unwrap_or_default();
    let invalid = |error: FieldError| {
        Status::invalid_kind("authentication.k8s.io", "TokenRequest", name, &[error])
    };
    let asked = spec
        .get("expirationSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(TOKEN_SECONDS);
    if asked < TOKEN_SECONDS_MIN {
        let detail = "may not specify a duration less than 10 minutes";
        return Err(invalid(FieldError::invalid(
            "spec.expirationSeconds",
            asked,
            detail,
        )));
    }
    let life = asked.min(TOKEN_SECONDS_MAX);
    let issuer = core.authentication.issuer.clone();
    let mut audiences: Vec<String> = spec
        .get("audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(issuer.clone());
    }
    let bound = bound_object(core, namespace, &spec).await?;
    let subject = TokenSubject {
        namespace: namespace.unwrap_or_default(),
        name,
        uid: meta::uid(&account).unwrap_or_default(),
        bound: bound
            .as_ref()
            .map(|(kind, name, uid)| (*kind, name.as_str(), uid.as_str())),
    };
    let now = core.now_seconds();
    let key = &core.authentication.key;
    let token = issue(
        key,
        &issuer,
        &audiences,
        &subject,
        &core.uid(),
        now,
        now + life,
    )
    .ok_or_else(|| Status::internal("the token could not be signed"))?;
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = asked.into();
    request["status"] = json!({"token": token, "expirationTimestamp": meta::rfc3339(now + life)});
    meta::set(&mut request, "name", name);
    meta::set(&mut request, "namespace", namespace.unwrap_or_default());
    meta::set(&mut request, "creationTimestamp", meta::rfc3339(now));
    Ok(request)
}

type Bound = Option<(&'static str, String, String)>;

async fn bound_object(core: &Core, namespace: Option<&str>, spec: &Value) -> Result<Bound, Status> {
    let Some(reference) = spec.get("boundObjectRef").filter(|r| r.is_object()) else {
        return Ok(None);
    };
    let text = |field: &str| {
        reference
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (plural, claim) = match text("kind") {
        "Pod" => ("pods", "pod"),
        "Secret" => ("secrets", "secret"),
        other => {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount to kind {other:?}"
            )));
        }
    };
    let row = find("", "v1", plural).ok_or_else(Status::unknown_path)?;
    let name = text("name");
    let object = core
        .read(row, namespace, name)
        .await?
        .ok_or_else(|| Status::not_found(row, name))?;
    let uid = meta::uid(&object.value).unwrap_or_default().to_owned();
    if !text("uid").is_empty() && text("uid") != uid {
        return Err(Status::uid_precondition(row, name, text("uid"), &uid));
    }
    Ok(Some((claim, name.to_owned(), uid)))
}
