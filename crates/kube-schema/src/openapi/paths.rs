//! Operations on paths: what may be sent where, with which parameters.

use serde_json::{Map, Value, json};

use super::definitions::{Dialect, PATCH, list_name, reference};
use crate::codec::MediaType;
use crate::patch::PatchKind;
use crate::resource::{RESOURCES, ResourceInfo, Subresource, Verb};

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// Group, version and kind.
type Gvk = (&'static str, &'static str, &'static str);

/// One operation, in no dialect.
pub(super) struct Operation {
    path: String,
    verb: Verb,
    id: String,
    /// Group and version of the path.
    owner: (&'static str, &'static str),
    gvk: Gvk,
    body: Option<String>,
    response: String,
}

impl Operation {
    pub(super) fn belongs_to(&self, group: &str, version: &str) -> bool {
        // Kinds of another group that hang below a resource are described by their own group as well.
        self.owner == (group, version) || (self.gvk.0, self.gvk.1) == (group, version)
    }

    /// Types it mentions.
    pub(super) fn schemas(&self) -> Vec<String> {
        self.body
            .iter()
            .cloned()
            .chain([self.response.clone()])
            .collect()
    }

    fn method(&self) -> &'static str {
        match self.verb {
            Verb::Create => "post",
            Verb::Delete | Verb::DeleteCollection => "delete",
            Verb::Get | Verb::List | Verb::Watch => "get",
            Verb::Patch => "patch",
            Verb::Update => "put",
        }
    }

    fn action(&self) -> &'static str {
        match self.verb {
            Verb::Create => "post",
            Verb::Update => "put",
            other => other.as_str(),
        }
    }

    fn query(&self) -> Vec<(&'static str, &'static str)> {
        const WRITE: [(&str, &str); 3] = [
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
        ];
        const LIST: [(&str, &str); 10] = [
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ];
        const DELETE: [(&str, &str); 3] = [
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("propagationPolicy", "string"),
        ];
        match self.verb {
            Verb::Create | Verb::Update => WRITE.to_vec(),
            Verb::Patch => WRITE.into_iter().chain([("force", "boolean")]).collect(),
            Verb::List | Verb::Watch => LIST.to_vec(),
            Verb::Delete => DELETE.to_vec(),
            Verb::DeleteCollection => DELETE
                .into_iter()
                .chain(LIST.into_iter().filter(|(name, _)| !name.contains("atch")))
                .collect(),
            Verb::Get => Vec::new(),
        }
    }

    fn media_types(&self) -> &'static [&'static str] {
        match self.verb {
            Verb::Patch => &PatchKind::ALL,
            _ => &MediaType::ALL,
        }
    }

    fn kind_value(&self) -> Value {
        json!({"group": self.gvk.0, "kind": self.gvk.2, "version": self.gvk.1})
    }
}

/// Every operation of every resource.
pub(super) fn all() -> Vec<Operation> {
    let mut operations = Vec::new();
    for info in RESOURCES {
        let collection = info.path(info.namespaced.then_some("{namespace}"));
        let item = format!("{collection}/{{name}}");
        for verb in info
            .verbs
            .iter()
            .copied()
            .filter(|verb| *verb != Verb::Watch)
        {
            let on_item = matches!(verb, Verb::Get | Verb::Update | Verb::Patch | Verb::Delete);
            operations.push(operation(
                info,
                verb,
                if on_item { &item } else { &collection },
                "",
            ));
            if verb == Verb::List && info.namespaced {
                operations.push(operation(info, verb, &info.path(None), "ForAllNamespaces"));
            }
        }
        for sub in info.subresources {
            for verb in sub.verbs {
                operations.push(sub_operation(
                    info,
                    sub,
                    *verb,
                    &format!("{item}/{}", sub.name),
                ));
            }
        }
    }
    operations
}

fn operation(info: &'static ResourceInfo, verb: Verb, path: &str, suffix: &str) -> Operation {
    let own = info.schema.to_owned();
    let (body, response) = match verb {
        Verb::Create | Verb::Update => (Some(own.clone()), own),
        Verb::Patch => (Some(PATCH.to_owned()), own),
        Verb::Delete | Verb::DeleteCollection => {
            (Some(DELETE_OPTIONS.to_owned()), STATUS.to_owned())
        }
        Verb::List | Verb::Watch => (None, list_name(info.schema)),
        Verb::Get => (None, own),
    };
    Operation {
        path: path.to_owned(),
        verb,
        id: id(info, verb, info.namespaced && suffix.is_empty(), suffix),
        owner: (info.group, info.version),
        gvk: (info.group, info.version, info.kind),
        body,
        response,
    }
}

fn sub_operation(
    info: &'static ResourceInfo,
    sub: &'static Subresource,
    verb: Verb,
    path: &str,
) -> Operation {
    let body = match verb {
        Verb::Get => None,
        Verb::Patch => Some(PATCH.to_owned()),
        _ => Some(sub.schema.to_owned()),
    };
    Operation {
        path: path.to_owned(),
        verb,
        id: id(info, verb, info.namespaced, &capitalized(sub.name)),
        owner: (info.group, info.version),
        gvk: (sub.group, sub.version, sub.kind),
        body,
        response: sub.schema.to_owned(),
    }
}

/// `patchCoreV1NamespacedConfigMap`.
fn id(info: &ResourceInfo, verb: Verb, namespaced: bool, suffix: &str) -> String {
    let verb = match verb {
        Verb::Get => "read",
        Verb::Update => "replace",
        Verb::DeleteCollection => "deleteCollection",
        other => other.as_str(),
    };
    let group = match info.group.split('.').next() {
        Some("") | None => "Core".to_owned(),
        Some(group) => capitalized(group),
    };
    let namespaced = if namespaced { "Namespaced" } else { "" };
    format!(
        "{verb}{group}{}{namespaced}{}{suffix}",
        capitalized(info.version),
        info.kind
    )
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .chain(chars)
        .collect()
}

fn path_parameters(path: &str) -> impl Iterator<Item = &'static str> + use<'_> {
    ["name", "namespace"]
        .into_iter()
        .filter(move |name| path.contains(&format!("{{{name}}}")))
}

/// Adds an operation to the item of its path, with the parameters in the path.
fn add(
    paths: &mut Map<String, Value>,
    operation: &Operation,
    value: Value,
    path_parameter: fn(&str) -> Value,
) {
    let item =
        crate::meta::as_object_mut(paths.entry(operation.path.clone()).or_insert(Value::Null));
    if item.is_empty() {
        let parameters: Vec<Value> = path_parameters(&operation.path)
            .map(path_parameter)
            .collect();
        if !parameters.is_empty() {
            item.insert("parameters".into(), parameters.into());
        }
    }
    item.insert(operation.method().into(), value);
}

/// `paths` of a version 2 document.
pub(super) fn v2(operations: &[Operation]) -> Map<String, Value> {
    let mut paths = Map::new();
    for operation in operations {
        let query = operation.query();
        let query = query.iter().map(
            |(name, kind)| json!({"in": "query", "name": name, "type": kind, "uniqueItems": true}),
        );
        let body = operation.body.iter().map(|schema| {
            json!({"in": "body", "name": "body", "required": operation.verb != Verb::Delete,
                "schema": reference(schema, Dialect::V2)})
        });
        let parameters: Vec<Value> = body.chain(query).collect();
        let value = json!({
            "operationId": operation.id,
            "consumes": operation.media_types(),
            "produces": MediaType::ALL,
            "parameters": parameters,
            "responses": {"200": {"description": "OK", "schema": reference(&operation.response, Dialect::V2)}},
            "schemes": ["https"],
            "x-kubernetes-action": operation.action(),
            "x-kubernetes-group-version-kind": operation.kind_value(),
        });
        add(
            &mut paths,
            operation,
            value,
            |name| json!({"in": "path", "name": name, "required": true, "type": "string", "uniqueItems": true}),
        );
    }
    paths
}

/// `paths` of a version 3 document.
pub(super) fn v3(operations: &[Operation]) -> Map<String, Value> {
    let mut paths = Map::new();
    for operation in operations {
        let parameters: Vec<Value> = operation
            .query()
            .iter()
            .map(|(name, kind)| json!({"in": "query", "name": name, "schema": {"type": kind, "uniqueItems": true}}))
            .collect();
        let content = |types: &[&str], schema: &str| -> Value {
            types
                .iter()
                .map(|media| {
                    (
                        (*media).to_owned(),
                        json!({"schema": reference(schema, Dialect::V3)}),
                    )
                })
                .collect::<Map<_, _>>()
                .into()
        };
        let mut value = json!({
            "operationId": operation.id,
            "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": content(&MediaType::ALL, &operation.response)}},
            "x-kubernetes-action": operation.action(),
            "x-kubernetes-group-version-kind": operation.kind_value(),
        });
        if let Some(schema) = &operation.body {
            let types = if operation.verb == Verb::Patch {
                operation.media_types()
            } else {
                &["*/*"]
            };
            value["requestBody"] = json!({"content": content(types, schema)});
        }
        add(
            &mut paths,
            operation,
            value,
            |name| json!({"in": "path", "name": name, "required": true, "schema": {"type": "string", "uniqueItems": true}}),
        );
    }
    paths
}
