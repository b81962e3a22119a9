//! What a request asks for, read from its method and target alone.

use http::Method;
use trivet_kube_schema::Verb;

/// More segments than any API path has, free paths behind `proxy` apart.
const SEGMENTS_MAX: usize = 64;

/// Query parameters, decoded, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(name, true), decode(value, true)));
        }
        Self(pairs)
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// The first value of a parameter that is not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    /// Every value of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// A boolean in any of Go's spellings; `watch` without a value means true.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        match self.get(name)? {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            _ => Some(false),
        }
    }
}

/// Percent-decoding; invalid escapes stay as they are, invalid UTF-8 is replaced.
fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| (*b as char).to_digit(16));
        match bytes[i] {
            b'%' => match (hex(i + 1), hex(i + 2)) {
                (Some(high), Some(low)) => {
                    out.push((high * 16 + low) as u8);
                    i += 2;
                }
                _ => out.push(b'%'),
            },
            b'+' if plus_is_space => out.push(b' '),
            other => out.push(other),
        }
        i += 1;
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// A request for a resource of an API group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResourceRequest {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
    pub(crate) verb: Verb,
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Something below an API group's version.
    Resource(ResourceRequest),
    /// Discovery, health, OpenAPI and everything else; the path without a trailing slash.
    Path(String),
}

/// Method and target, understood.
#[derive(Debug, Clone)]
pub(crate) struct RequestInfo {
    pub(crate) target: Target,
    pub(crate) query: Query,
}

impl RequestInfo {
    pub(crate) fn parse(method: &Method, path: &str, query: &str) -> Self {
        let query = Query::parse(query);
        let target = resource(method, path, &query)
            .map_or_else(|| Target::Path(normalise(path)), Target::Resource);
        Self { target, query }
    }

    /// Whether the request is a watch, which has its own limits and timeout.
    pub(crate) fn is_watch(&self) -> bool {
        matches!(&self.target, Target::Resource(r) if r.verb == Verb::Watch)
    }

    /// Whether the request only reads.
    pub(crate) fn is_read(&self) -> bool {
        match &self.target {
            Target::Resource(r) => matches!(r.verb, Verb::Get | Verb::List | Verb::Watch),
            Target::Path(_) => true,
        }
    }
}

fn normalise(path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        "/".to_owned()
    } else {
        trimmed.to_owned()
    }
}

fn resource(method: &Method, path: &str, query: &Query) -> Option<ResourceRequest> {
    let segments: Vec<String> = path
        .trim_matches('/')
        .splitn(SEGMENTS_MAX, '/')
        .map(|s| decode(s, false))
        .collect();
    if segments.iter().any(String::is_empty) {
        return None;
    }
    let (group, version, rest) = match segments.as_slice() {
        [api, version, rest @ ..] if api == "api" => (String::new(), version, rest),
        [apis, group, version, rest @ ..] if apis == "apis" => (group.clone(), version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        // `namespaces/x`, `namespaces/x/status` and `namespaces/x/finalize` are the Namespace
        // itself; anything else behind a namespace is inside it.
        [literal, namespace, inner @ ..]
            if literal == "namespaces"
                && !inner.is_empty()
                && !(inner.len() == 1 && matches!(inner[0].as_str(), "status" | "finalize")) =>
        {
            (Some(namespace.clone()), inner)
        }
        other => (None, other),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (plural, None, None),
        [plural, name] => (plural, Some(name.clone()), None),
        [plural, name, sub] => (plural, Some(name.clone()), Some(sub.clone())),
        [plural, name, sub, ..] if sub == "proxy" => {
            (plural, Some(name.clone()), Some(sub.clone()))
        }
        _ => return None,
    };
    let watch = query.flag("watch").unwrap_or(false);
    let verb = match (method.as_str(), name.is_some()) {
        ("GET" | "HEAD", true) => Verb::Get,
        ("GET" | "HEAD", false) if watch => Verb::Watch,
        ("GET" | "HEAD", false) => Verb::List,
        ("POST", _) => Verb::Create,
        ("PUT", _) => Verb::Update,
        ("PATCH", _) => Verb::Patch,
        ("DELETE", true) => Verb::Delete,
        ("DELETE", false) => Verb::DeleteCollection,
        _ => return None,
    };
    Some(ResourceRequest {
        group,
        version: version.clone(),
        plural: plural.clone(),
        namespace,
        name,
        subresource,
        verb,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &Method, path: &str, query: &str) -> String {
        match RequestInfo::parse(method, path, query).target {
            Target::Path(path) => path,
            Target::Resource(r) => format!(
                "{} {}/{} {} ns={} name={} sub={}",
                r.verb.as_str(),
                r.group,
                r.version,
                r.plural,
                r.namespace.unwrap_or_default(),
                r.name.unwrap_or_default(),
                r.subresource.unwrap_or_default()
            ),
        }
    }

    #[test]
    fn paths_become_requests() {
        let get = Method::GET;
        for (method, path, query, expected) in [
            (&get, "/", "", "/"),
            (&get, "/api/v1/", "", "/api/v1"),
            (
                &get,
                "/apis/coordination.k8s.io/v1",
                "",
                "/apis/coordination.k8s.io/v1",
            ),
            (&get, "/api/v1/nodes", "", "list /v1 nodes ns= name= sub="),
            (
                &get,
                "/api/v1/nodes",
                "watch",
                "watch /v1 nodes ns= name= sub=",
            ),
            (
                &get,
                "/api/v1/nodes",
                "watch=false",
                "list /v1 nodes ns= name= sub=",
            ),
            (
                &get,
                "/api/v1/namespaces/a",
                "",
                "get /v1 namespaces ns= name=a sub=",
            ),
            (
                &get,
                "/api/v1/namespaces/a/status",
                "",
                "get /v1 namespaces ns= name=a sub=status",
            ),
            (
                &get,
                "/api/v1/namespaces/a/pods",
                "",
                "list /v1 pods ns=a name= sub=",
            ),
            (
                &Method::PUT,
                "/api/v1/namespaces/a/pods/b/status",
                "",
                "update /v1 pods ns=a name=b sub=status",
            ),
            (
                &Method::DELETE,
                "/api/v1/namespaces/a/pods",
                "",
                "deletecollection /v1 pods ns=a name= sub=",
            ),
            (
                &Method::PATCH,
                "/api/v1/namespaces/a/pods/%41",
                "",
                "patch /v1 pods ns=a name=A sub=",
            ),
            (
                &get,
                "/api/v1/namespaces/a/pods/b/c/d",
                "",
                "/api/v1/namespaces/a/pods/b/c/d",
            ),
        ] {
            assert_eq!(
                parse(method, path, query),
                expected,
                "{method} {path}?{query}"
            );
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&x&limit=5&bad=%zz");
        assert_eq!(query.get("labelSelector"), Some("a=b,c in (d)"));
        assert_eq!(query.flag("x"), Some(true));
        assert_eq!(query.text("x"), None);
        assert_eq!(query.get("bad"), Some("%zz"));
    }
}
