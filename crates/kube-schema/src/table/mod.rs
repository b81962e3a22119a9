//! Tables: what `kubectl get` prints is rendered here, ages included.

mod cells;
mod network;
mod pod;

use serde_json::{Value, json};

use crate::{ResourceInfo, meta, partial};

/// What each row carries of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata (upstream's default).
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// The value of an `includeObject` parameter; empty text is the default.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(IncludeObject::Metadata),
            "None" => Some(IncludeObject::None),
            "Object" => Some(IncludeObject::Object),
            _ => None,
        }
    }
}

/// How a table is made.
#[derive(Debug, Clone)]
pub struct TableOptions<'a> {
    /// `includeObject` of the request.
    pub include: IncludeObject,
    /// Now, for ages.
    pub now_unix_seconds: i64,
    /// Metadata of the list, or of the one object asked for.
    pub list_metadata: Value,
    /// Whether to send column definitions; a watch does so in its first event only.
    pub columns: bool,
    /// Version of `meta.k8s.io`: `v1` or `v1beta1`.
    pub version: &'a str,
}

/// One column: name, JSON type, and whether only wide output shows it.
#[derive(Debug)]
struct Column {
    name: &'static str,
    kind: &'static str,
    wide: bool,
}

const fn text(name: &'static str) -> Column {
    Column {
        name,
        kind: "string",
        wide: false,
    }
}

const fn number(name: &'static str) -> Column {
    Column {
        name,
        kind: "integer",
        wide: false,
    }
}

const fn wide(name: &'static str) -> Column {
    Column {
        name,
        kind: "string",
        wide: true,
    }
}

const NAME: Column = text("Name");
const AGE: Column = text("Age");

/// Columns of a kind, and the cells of one object at a time (unix seconds).
struct Printer {
    schema: &'static str,
    columns: &'static [Column],
    cells: fn(&Value, i64) -> Vec<Value>,
}

const EVENT_COLUMNS: &[Column] = &[
    text("Last Seen"),
    text("Type"),
    text("Reason"),
    text("Object"),
    wide("Subobject"),
    wide("Source"),
    text("Message"),
    wide("First Seen"),
    wide("Count"),
    wide("Name"),
];

static PRINTERS: &[Printer] = &[
    Printer {
        schema: "io.k8s.api.core.v1.Namespace",
        columns: &[NAME, text("Status"), AGE],
        cells: cells::namespace,
    },
    Printer {
        schema: "io.k8s.api.core.v1.Node",
        columns: &[
            NAME,
            text("Status"),
            text("Roles"),
            AGE,
            text("Version"),
            wide("Internal-IP"),
            wide("External-IP"),
            wide("OS-Image"),
            wide("Kernel-Version"),
            wide("Container-Runtime"),
        ],
        cells: cells::node,
    },
    Printer {
        schema: "io.k8s.api.core.v1.ConfigMap",
        columns: &[NAME, number("Data"), AGE],
        cells: cells::config_map,
    },
    Printer {
        schema: "io.k8s.api.core.v1.Secret",
        columns: &[NAME, text("Type"), number("Data"), AGE],
        cells: cells::secret,
    },
    Printer {
        schema: "io.k8s.api.core.v1.ServiceAccount",
        columns: &[NAME, AGE],
        cells: cells::name_and_age,
    },
    Printer {
        schema: "io.k8s.api.core.v1.Event",
        columns: EVENT_COLUMNS,
        cells: cells::event,
    },
    Printer {
        schema: "io.k8s.api.events.v1.Event",
        columns: EVENT_COLUMNS,
        cells: cells::event,
    },
    Printer {
        schema: "io.k8s.api.coordination.v1.Lease",
        columns: &[NAME, text("Holder"), AGE],
        cells: cells::lease,
    },
    Printer {
        schema: "io.k8s.api.core.v1.Service",
        columns: &[
            NAME,
            text("Type"),
            text("Cluster-IP"),
            text("External-IP"),
            text("Port(s)"),
            AGE,
            wide("Selector"),
        ],
        cells: network::service,
    },
    Printer {
        schema: "io.k8s.api.core.v1.Endpoints",
        columns: &[NAME, text("Endpoints"), AGE],
        cells: network::endpoints,
    },
    Printer {
        schema: "io.k8s.api.discovery.v1.EndpointSlice",
        columns: &[
            NAME,
            text("AddressType"),
            text("Ports"),
            text("Endpoints"),
            AGE,
        ],
        cells: network::endpoint_slice,
    },
    Printer {
        schema: "io.k8s.api.core.v1.Pod",
        columns: &[
            NAME,
            text("Ready"),
            text("Status"),
            text("Restarts"),
            AGE,
            wide("IP"),
            wide("Node"),
            wide("Nominated Node"),
            wide("Readiness Gates"),
        ],
        cells: pod::cells,
    },
];

/// Kinds without columns of their own.
static FALLBACK: Printer = Printer {
    schema: "",
    columns: &[NAME, text("Created At")],
    cells: cells::name_and_creation,
};

/// A `meta.k8s.io` Table of `items`, which are in `info`'s version.
pub fn table<'a>(
    info: &ResourceInfo,
    items: impl IntoIterator<Item = &'a Value>,
    options: &TableOptions<'_>,
) -> Value {
    let printer = PRINTERS
        .iter()
        .find(|p| p.schema == info.schema)
        .unwrap_or(&FALLBACK);
    let rows: Vec<Value> = items
        .into_iter()
        .map(|item| row(info, printer, item, options))
        .collect();
    let columns: Vec<Value> = match options.columns {
        true => printer.columns.iter().map(definition).collect(),
        false => Vec::new(),
    };
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{}", options.version),
        "metadata": options.list_metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn row(info: &ResourceInfo, printer: &Printer, item: &Value, options: &TableOptions<'_>) -> Value {
    let object = match options.include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial::partial_object(item, options.version),
        IncludeObject::Object => {
            let mut object = item.clone();
            meta::set_type(&mut object, &info.api_version(), info.kind);
            object
        }
    };
    json!({"cells": (printer.cells)(item, options.now_unix_seconds), "object": object})
}

fn definition(column: &Column) -> Value {
    let format = if column.name == "Name" && !column.wide {
        "name"
    } else {
        ""
    };
    json!({
        "name": column.name,
        "type": column.kind,
        "format": format,
        "description": "",
        "priority": i32::from(column.wide),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printer_fills_its_columns() {
        for info in crate::RESOURCES {
            let printer = PRINTERS
                .iter()
                .find(|p| p.schema == info.schema)
                .unwrap_or(&FALLBACK);
            for odd in [
                json!({}),
                json!(null),
                json!({"metadata": 1, "spec": [], "status": "x"}),
            ] {
                assert_eq!(
                    (printer.cells)(&odd, 0).len(),
                    printer.columns.len(),
                    "{}",
                    info.kind
                );
            }
            assert!(
                info.storage_prefix.is_none() || printer.schema == info.schema,
                "no columns for {}",
                info.kind
            );
        }
    }

    #[test]
    fn shape() {
        let info = crate::find("", "v1", "namespaces").expect("row");
        let item = json!({"metadata": {"name": "n", "creationTimestamp": "1970-01-01T00:00:00Z"}, "status": {"phase": "Active"}});
        let mut options = TableOptions {
            include: IncludeObject::Metadata,
            now_unix_seconds: 318,
            list_metadata: json!({"resourceVersion": "4"}),
            columns: true,
            version: "v1",
        };
        let rendered = table(info, [&item], &options);
        assert_eq!(
            rendered["rows"][0]["cells"],
            json!(["n", "Active", "5m18s"])
        );
        assert_eq!(
            rendered["rows"][0]["object"]["kind"],
            "PartialObjectMetadata"
        );
        assert_eq!(rendered["columnDefinitions"][0]["format"], "name");
        options.include = IncludeObject::Object;
        options.columns = false;
        let rendered = table(info, [&item], &options);
        assert_eq!(rendered["rows"][0]["object"]["kind"], "Namespace");
        assert_eq!(rendered["columnDefinitions"], json!([]));
    }
}
