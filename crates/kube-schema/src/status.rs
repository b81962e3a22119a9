//! The `Status` object: every error the API answers, with the codes, reasons and words clients match on.

mod field;

pub use field::{FieldError, FieldErrorKind};

use serde_json::{Map, Value, json};

use crate::{ResourceInfo, Verb};

/// A machine-readable part of a failure's explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// CamelCase reason, `FieldValueInvalid`.
    pub reason: String,
    /// Text for people.
    pub message: String,
    /// Field path, possibly empty.
    pub field: String,
}

/// What a failure or success is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Object name.
    pub name: String,
    /// API group.
    pub group: String,
    /// Resource (errors of storage) or kind (errors of validation).
    pub kind: String,
    /// Object uid.
    pub uid: String,
    /// Parts of the explanation.
    pub causes: Vec<Cause>,
    /// When to try again.
    pub retry_after_seconds: Option<u32>,
}

/// One answer that is not an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// CamelCase reason; empty for success.
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
    /// What it is about.
    pub details: Option<Details>,
    /// Token with which an expired list may go on at the latest revision (410 only).
    pub continue_token: Option<String>,
}

impl Status {
    fn failure(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Status {
            code,
            reason,
            message: message.into(),
            details: None,
            continue_token: None,
        }
    }

    fn about(mut self, info: &ResourceInfo, name: &str) -> Self {
        self.details = Some(Details {
            name: name.to_owned(),
            group: info.group.to_owned(),
            kind: info.plural.to_owned(),
            ..Details::default()
        });
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = Some(seconds);
        self
    }

    fn cause(mut self, reason: &str, message: &str) -> Self {
        self.details.get_or_insert_default().causes.push(Cause {
            reason: reason.to_owned(),
            message: message.to_owned(),
            field: String::new(),
        });
        self
    }

    /// 404: no such object.
    pub fn not_found(info: &ResourceInfo, name: &str) -> Self {
        let message = format!("{} {name:?} not found", info.qualified_resource());
        Self::failure(404, "NotFound", message).about(info, name)
    }

    /// 404: no such path.
    pub fn unknown_path() -> Self {
        Self::failure(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
        .with_details(Details::default())
    }

    /// 409: the name is taken.
    pub fn already_exists(info: &ResourceInfo, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", info.qualified_resource());
        Self::failure(409, "AlreadyExists", message).about(info, name)
    }

    /// 409: a stale resourceVersion.
    pub fn conflict_modified(info: &ResourceInfo, name: &str) -> Self {
        Self::conflict(
            info,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 409 for another reason, such as a failed precondition.
    pub fn conflict(info: &ResourceInfo, name: &str, detail: &str) -> Self {
        let resource = info.qualified_resource();
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {detail}");
        Self::failure(409, "Conflict", message).about(info, name)
    }

    /// 409: `preconditions.uid` names another object.
    pub fn uid_precondition(info: &ResourceInfo, name: &str, wanted: &str, found: &str) -> Self {
        let detail = format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
        );
        Self::conflict(info, name, &detail)
    }

    /// 409: `preconditions.resourceVersion` names another version.
    pub fn version_precondition(
        info: &ResourceInfo,
        name: &str,
        wanted: &str,
        found: &str,
    ) -> Self {
        let detail = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {found}"
        );
        Self::conflict(info, name, &detail)
    }

    /// 422: the object breaks rules.
    pub fn invalid(info: &ResourceInfo, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid_kind(info.group, info.kind, name, errors)
    }

    /// [`Status::invalid`] for a kind without a row, such as `ListOptions` of `meta.k8s.io`.
    pub fn invalid_kind(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = match group {
            "" => kind.to_owned(),
            _ => format!("{kind}.{group}"),
        };
        Self::failure(
            422,
            "Invalid",
            format!("{qualified} {name:?} is invalid: {list}"),
        )
        .with_details(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes: errors.iter().map(FieldError::cause).collect(),
            ..Details::default()
        })
    }

    /// 422 without field errors: a patch that does not apply.
    pub fn unprocessable(info: &ResourceInfo, name: &str, message: impl Into<String>) -> Self {
        Self::failure(422, "Invalid", message).about(info, name)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 403 for a reason of the server's own, such as a protected namespace.
    pub fn forbidden(info: &ResourceInfo, name: &str, reason: &str) -> Self {
        let resource = info.qualified_resource();
        let message = match name {
            "" => format!("{resource} is forbidden: {reason}"),
            _ => format!("{resource} {name:?} is forbidden: {reason}"),
        };
        Self::failure(403, "Forbidden", message).about(info, name)
    }

    /// 403: the user lacks a right. For a path without resource see [`Status::forbidden_path`].
    pub fn forbidden_access(user: &str, verb: &str, target: AccessTarget<'_>) -> Self {
        let AccessTarget {
            group,
            resource,
            subresource,
            namespace,
            name,
        } = target;
        let path = match subresource {
            "" => resource.to_owned(),
            _ => format!("{resource}/{subresource}"),
        };
        let scope = match namespace {
            "" => "at the cluster scope".to_owned(),
            _ => format!("in the namespace {namespace:?}"),
        };
        let qualified = match group {
            "" => resource.to_owned(),
            _ => format!("{resource}.{group}"),
        };
        let named = match name {
            "" => String::new(),
            _ => format!(" {name:?}"),
        };
        let message = format!(
            "{qualified}{named} is forbidden: User {user:?} cannot {verb} resource {path:?} in API group {group:?} {scope}"
        );
        Self::failure(403, "Forbidden", message).with_details(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: resource.to_owned(),
            ..Details::default()
        })
    }

    /// 403: the user may not use a path that is not a resource.
    pub fn forbidden_path(user: &str, verb: &str, path: &str) -> Self {
        Self::failure(
            403,
            "Forbidden",
            format!("forbidden: User {user:?} cannot {verb} path {path:?}"),
        )
        .with_details(Details::default())
    }

    /// 403: create in a namespace that is going away.
    pub fn namespace_terminating(info: &ResourceInfo, name: &str, namespace: &str) -> Self {
        let text = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        let cause = format!("namespace {namespace} is being terminated");
        let mut status = Self::forbidden(info, name, &text).cause("NamespaceTerminating", &cause);
        if let Some(cause) = status.details.as_mut().and_then(|d| d.causes.last_mut()) {
            cause.field = "metadata.namespace".into();
        }
        status
    }

    /// 405.
    pub fn method_not_allowed(info: &ResourceInfo, verb: Verb) -> Self {
        let message = format!(
            "{} is not supported on resources of kind {:?}",
            verb.as_str(),
            info.qualified_resource()
        );
        Self::failure(405, "MethodNotAllowed", message).about(info, "")
    }

    /// 405 for a method that no resource path takes.
    pub fn method_unknown() -> Self {
        Self::failure(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .with_details(Details::default())
    }

    /// 406. `accepted` lists the media types the server can produce.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        Self::failure(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {list}"),
        )
    }

    /// 415. `accepted` lists the media types the server understands.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        Self::failure(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {list}"
            ),
        )
    }

    /// 413.
    pub fn too_large_body(limit_bytes: usize) -> Self {
        Self::failure(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit_bytes}"),
        )
    }

    /// 413 for another reason than the body's size.
    pub fn request_too_large(message: impl Into<String>) -> Self {
        Self::failure(413, "RequestEntityTooLarge", message)
    }

    /// 410 with reason Expired: the requested version is compacted.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    /// [`Status::expired`] for a plain list or watch.
    pub fn expired_list() -> Self {
        Self::expired("The resourceVersion for the provided list is too old.")
    }

    /// [`Status::expired`] for a continue token whose snapshot is gone, with a token to go on without it.
    pub fn expired_continue(fresh_token: String) -> Self {
        let mut status = Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter, or use the continue token in this response to retrieve the \
             remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
             that were created, modified, or deleted between the time the first chunk was returned and now may show \
             up in the list.",
        );
        status.continue_token = Some(fresh_token);
        status
    }

    /// 504: this server has not seen that version yet.
    pub fn too_large_resource_version(asked: u64, current: u64) -> Self {
        Self::failure(
            504,
            "Timeout",
            format!("Too large resource version: {asked}, current: {current}"),
        )
        .cause("ResourceVersionTooLarge", "Too large resource version")
        .retry_after(1)
    }

    /// 504 with what was waited for.
    pub fn timeout(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(504, "Timeout", message).retry_after(retry_after_seconds)
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::failure(429, "TooManyRequests", message).retry_after(retry_after_seconds)
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::failure(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
        .cause("", &message.to_string())
    }

    /// 503: no quorum, or not ready yet.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }

    /// 200 for a finished deletion.
    pub fn deleted(info: &ResourceInfo, name: &str, uid: &str) -> Self {
        let mut status = Self::failure(200, "", "").about(info, name);
        if let Some(details) = &mut status.details {
            details.uid = uid.to_owned();
        }
        status
    }

    /// A bare success.
    pub fn success(code: u16) -> Self {
        Self::failure(code, "", "")
    }

    /// Replaces the details.
    #[must_use]
    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(details);
        self
    }

    /// Seconds for the `Retry-After` header.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.details.as_ref()?.retry_after_seconds
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let mut status = Map::new();
        let mut put = |name: &str, value: Value| status.insert(name.to_owned(), value);
        put("kind", "Status".into());
        put("apiVersion", "v1".into());
        let metadata = match &self.continue_token {
            Some(token) => json!({ "continue": token }),
            None => json!({}),
        };
        put("metadata", metadata);
        let failed = self.code >= 400;
        put("status", if failed { "Failure" } else { "Success" }.into());
        if !self.message.is_empty() {
            put("message", self.message.clone().into());
        }
        if !self.reason.is_empty() {
            put("reason", self.reason.into());
        }
        if let Some(details) = &self.details {
            put("details", details.to_value());
        }
        if failed {
            put("code", self.code.into());
        }
        Value::Object(status)
    }
}

/// What an access check was about; empty text where something does not apply.
#[derive(Debug, Clone, Copy)]
pub struct AccessTarget<'a> {
    /// API group.
    pub group: &'a str,
    /// Plural resource.
    pub resource: &'a str,
    /// Subresource.
    pub subresource: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Object name.
    pub name: &'a str,
}

impl Details {
    fn to_value(&self) -> Value {
        let mut fields = Map::new();
        for (name, text) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ] {
            if !text.is_empty() {
                fields.insert(name.to_owned(), text.clone().into());
            }
        }
        if !self.causes.is_empty() {
            fields.insert(
                "causes".into(),
                self.causes.iter().map(Cause::to_value).collect(),
            );
        }
        if let Some(seconds) = self.retry_after_seconds {
            fields.insert("retryAfterSeconds".into(), seconds.into());
        }
        Value::Object(fields)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let parts = [
            ("reason", &self.reason),
            ("message", &self.message),
            ("field", &self.field),
        ];
        parts
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| (name.to_owned(), Value::from(text.clone())))
            .collect::<Map<_, _>>()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_shapes() {
        let leases = crate::find("coordination.k8s.io", "v1", "leases").expect("row");
        assert_eq!(
            Status::not_found(leases, "x").to_value(),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "leases.coordination.k8s.io \"x\" not found", "reason": "NotFound",
                "details": {"name": "x", "group": "coordination.k8s.io", "kind": "leases"}, "code": 404})
        );
        let target = AccessTarget {
            group: "",
            resource: "namespaces",
            subresource: "",
            namespace: "",
            name: "",
        };
        assert_eq!(
            Status::forbidden_access("system:anonymous", "list", target).message,
            "namespaces is forbidden: User \"system:anonymous\" cannot list resource \"namespaces\" in API group \"\" \
             at the cluster scope"
        );
        let pods = crate::find("", "v1", "pods").expect("row");
        let invalid = Status::invalid(pods, "p", &[FieldError::required("spec.containers", "")]);
        assert_eq!(
            invalid.message,
            "Pod \"p\" is invalid: spec.containers: Required value"
        );
        assert_eq!(
            invalid.to_value()["details"]["causes"][0]["reason"],
            "FieldValueRequired"
        );
        assert_eq!(invalid.to_value()["details"]["kind"], "Pod");
        let late = Status::too_large_resource_version(99, 7).to_value();
        assert_eq!(late["details"]["retryAfterSeconds"], 1);
        assert_eq!(
            late["details"]["causes"][0]["reason"],
            "ResourceVersionTooLarge"
        );
        let deleted = Status::deleted(pods, "p", "u").to_value();
        assert_eq!(deleted["status"], "Success");
        assert_eq!(deleted.get("code"), None);
    }
}
