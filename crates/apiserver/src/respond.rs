//! From objects to responses.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use trivet_kube_schema::table::{IncludeObject, TableOptions, table};
use trivet_kube_schema::{ResourceInfo, Status, codec, from_storage, partial};

use crate::body::Body;
use crate::cache::{Entry, Slot};
use crate::negotiate::{Encoding, Form, Shape};

/// Metadata of a list.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListMeta {
    pub(crate) revision: u64,
    pub(crate) continue_token: Option<String>,
    pub(crate) remaining: Option<usize>,
}

impl ListMeta {
    fn value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.continue_token {
            meta["continue"] = token.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

/// How answers of one request are formed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Presentation {
    pub(crate) info: &'static ResourceInfo,
    pub(crate) form: Form,
    pub(crate) include: IncludeObject,
    pub(crate) now_seconds: i64,
}

impl Presentation {
    /// The object in the shape that was asked for.
    pub(crate) fn shape(&self, object: Value, columns: bool) -> Value {
        let meta = json!({
            "resourceVersion": trivet_kube_schema::meta::resource_version(&object).unwrap_or_default()
        });
        match self.form.shape {
            Shape::Object | Shape::Discovery(_) => object,
            Shape::Table(version) => self.table(&[&object], meta, columns, version),
            Shape::Partial(version) => partial::partial_object(&object, version),
        }
    }

    pub(crate) fn table(
        &self,
        items: &[&Value],
        meta: Value,
        columns: bool,
        version: &'static str,
    ) -> Value {
        let options = TableOptions {
            include: self.include,
            now_unix_seconds: self.now_seconds,
            list_metadata: meta,
            columns,
            version,
        };
        table(self.info, items.iter().copied(), &options)
    }

    /// One object.
    pub(crate) fn object(&self, code: StatusCode, object: Value) -> Response<Body> {
        document(code, self.form.encoding, &self.shape(object, true))
    }

    /// One cached object: ready bytes where no other form is wanted.
    pub(crate) fn entry(&self, slot: &Slot, entry: &Entry) -> Response<Body> {
        if self.form == Form::JSON && self.is_native(slot) {
            return bytes(
                StatusCode::OK,
                Encoding::Json.content_type(),
                entry.body.clone(),
            );
        }
        self.object(StatusCode::OK, from_storage(self.info, entry.value()))
    }

    /// A list of objects.
    pub(crate) fn list(
        &self,
        slot: &Slot,
        entries: &[Arc<Entry>],
        meta: &ListMeta,
    ) -> Response<Body> {
        if self.form == Form::JSON && self.is_native(slot) {
            return bytes(
                StatusCode::OK,
                Encoding::Json.content_type(),
                self.raw_list(entries, meta),
            );
        }
        let values: Vec<Value> = entries
            .iter()
            .map(|e| from_storage(self.info, e.value()))
            .collect();
        let borrowed: Vec<&Value> = values.iter().collect();
        let list = match self.form.shape {
            Shape::Table(version) => self.table(&borrowed, meta.value(), true, version),
            Shape::Partial(version) => partial::partial_list(values.iter(), &meta.value(), version),
            Shape::Object | Shape::Discovery(_) => {
                let mut items = values;
                for item in items.iter_mut().filter_map(Value::as_object_mut) {
                    item.remove("kind");
                    item.remove("apiVersion");
                }
                json!({
                    "kind": self.info.list_kind,
                    "apiVersion": self.info.api_version(),
                    "metadata": meta.value(),
                    "items": items,
                })
            }
        };
        document(StatusCode::OK, self.form.encoding, &list)
    }

    fn raw_list(&self, entries: &[Arc<Entry>], meta: &ListMeta) -> Vec<u8> {
        let size: usize = entries.iter().map(|e| e.body.len()).sum();
        let mut out = Vec::with_capacity(size + 256);
        out.extend_from_slice(
            format!(
                "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
                self.info.list_kind,
                self.info.api_version(),
                meta.value()
            )
            .as_bytes(),
        );
        for (index, entry) in entries.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            entry.write_item(&mut out);
        }
        out.extend_from_slice(b"]}\n");
        out
    }

    /// Whether the cache's bytes are already in this resource's form.
    pub(crate) fn is_native(&self, slot: &Slot) -> bool {
        std::ptr::eq(slot.info, self.info)
    }
}

/// A JSON or YAML document.
pub(crate) fn document(code: StatusCode, encoding: Encoding, value: &Value) -> Response<Body> {
    let text = match encoding {
        Encoding::Json => Ok(format!("{value}\n").into_bytes()),
        Encoding::Yaml => codec::to_yaml(value).map(String::into_bytes),
    };
    match text {
        Ok(text) => bytes(code, encoding.content_type(), text),
        Err(error) => status(&Status::internal(error)),
    }
}

/// Ready bytes.
pub(crate) fn bytes(
    code: StatusCode,
    content_type: &str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = code;
    let content_type = HeaderValue::from_str(content_type)
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A Status, with Retry-After where it has one.
pub(crate) fn status(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = document(code, Encoding::Json, &status.to_value());
    if let Some(seconds) = status.retry_after_seconds() {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
