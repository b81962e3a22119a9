//! Which form of an answer the client wants.

use http::HeaderMap;
use http::header::ACCEPT;
use trivet_kube_schema::status::Status;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

impl Encoding {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

/// What an object or a list is turned into before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As it is.
    Object,
    /// `meta.k8s.io` Table of that version.
    Table(&'static str),
    /// Metadata only, of that version.
    Partial(&'static str),
    /// `apidiscovery.k8s.io` APIGroupDiscoveryList of that version; only at `/api` and `/apis`.
    Discovery(&'static str),
}

/// A form the server can answer in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) encoding: Encoding,
    pub(crate) shape: Shape,
}

impl Form {
    pub(crate) const JSON: Self = Self {
        encoding: Encoding::Json,
        shape: Shape::Object,
    };
}

/// What kind of thing will be answered, which decides the forms on offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Objects and lists of a resource.
    Objects,
    /// Discovery roots.
    Discovery,
    /// Documents that only exist as they are.
    Plain,
}

/// Picks the first acceptable form. A missing header accepts JSON; q-values are honoured only
/// as the order in which clients list their preferences, which is how all known clients use
/// them.
pub(crate) fn negotiate(headers: &HeaderMap, offer: Offer) -> Result<Form, Status> {
    let mut seen = false;
    for header in headers.get_all(ACCEPT) {
        let Ok(header) = header.to_str() else {
            continue;
        };
        for clause in header.split(',').map(str::trim).filter(|c| !c.is_empty()) {
            seen = true;
            if let Some(form) = clause_form(clause, offer) {
                return Ok(form);
            }
        }
    }
    if seen {
        Err(Status::not_acceptable(&[
            "application/json",
            "application/yaml",
        ]))
    } else {
        Ok(Form::JSON)
    }
}

fn clause_form(clause: &str, offer: Offer) -> Option<Form> {
    let mut parts = clause.split(';').map(str::trim);
    let encoding = match parts.next()?.to_ascii_lowercase().as_str() {
        "application/json" | "*/*" | "application/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        _ => return None,
    };
    let (mut kind, mut group, mut version) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => kind = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            _ => {}
        }
    }
    let meta_version = match (group, version) {
        ("meta.k8s.io", "v1") => Some("v1"),
        ("meta.k8s.io", "v1beta1") => Some("v1beta1"),
        _ => None,
    };
    let shape = match (kind, offer) {
        ("", _) => Shape::Object,
        ("Table", Offer::Objects) => Shape::Table(meta_version?),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", Offer::Objects) => {
            Shape::Partial(meta_version?)
        }
        ("APIGroupDiscoveryList", Offer::Discovery) if group == "apidiscovery.k8s.io" => {
            match version {
                "v2" => Shape::Discovery("v2"),
                "v2beta1" => Shape::Discovery("v2beta1"),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(Form { encoding, shape })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(accept: &str, offer: Offer) -> Option<Form> {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(ACCEPT, accept.parse().unwrap());
        }
        negotiate(&headers, offer).ok()
    }

    #[test]
    fn the_first_form_on_offer_wins() {
        let table = |v| {
            Some(Form {
                encoding: Encoding::Json,
                shape: Shape::Table(v),
            })
        };
        assert_eq!(pick("", Offer::Objects), Some(Form::JSON));
        assert_eq!(pick("*/*", Offer::Objects), Some(Form::JSON));
        assert_eq!(
            pick(
                "application/vnd.kubernetes.protobuf,application/json",
                Offer::Objects
            ),
            Some(Form::JSON)
        );
        assert_eq!(
            pick(
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Offer::Objects
            ),
            table("v1")
        );
        assert_eq!(
            pick(
                "application/json;as=Table;v=v9;g=meta.k8s.io,application/json",
                Offer::Objects
            ),
            Some(Form::JSON)
        );
        assert_eq!(
            pick(
                "application/json;as=Table;v=v9;g=meta.k8s.io",
                Offer::Objects
            ),
            None
        );
        assert_eq!(pick("text/html", Offer::Plain), None);
    }
}
