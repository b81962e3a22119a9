//! Field selectors: `metadata.name=x`, `status.phase!=Failed`, joined by commas.

use serde_json::Value;

use super::{SelectorError, check_length};
use crate::ResourceInfo;

/// A parsed field selector. It is matched against objects in their stored form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    /// Path in the stored object.
    path: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// Parses the text of a `fieldSelector` parameter for one resource; empty text selects everything.
    pub fn parse(info: &ResourceInfo, text: &str) -> Result<Self, SelectorError> {
        check_length(text)?;
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let (label, equal, value) = split_term(part).ok_or_else(|| {
                SelectorError(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                ))
            })?;
            let value = unescape(value).map_err(|problem| {
                SelectorError(format!("invalid selector: '{text}'; {problem}"))
            })?;
            terms.push(Term {
                path: stored_path(info, label)?,
                equal,
                value,
            });
        }
        Ok(FieldSelector { terms })
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object in stored form satisfies all conditions.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms
            .iter()
            .all(|term| (field_text(object, &term.path) == term.value) == term.equal)
    }

    /// [`FieldSelector::matches`] when nothing but name and namespace is asked for, which needs no object;
    /// `None` when other fields are.
    pub fn matches_key(&self, namespace: Option<&str>, name: &str) -> Option<bool> {
        self.terms.iter().try_fold(true, |so_far, term| {
            let found = match term.path.as_str() {
                "metadata.name" => name,
                "metadata.namespace" => namespace.unwrap_or_default(),
                _ => return None,
            };
            Some(so_far && (found == term.value) == term.equal)
        })
    }

    /// The value a path must equal, if the selector says so: `metadata.name` turns a list into a get.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.terms
            .iter()
            .find(|term| term.equal && term.path == path)
            .map(|term| term.value.as_str())
    }
}

/// Where the stored object has what a label of this resource means.
fn stored_path(info: &ResourceInfo, label: &str) -> Result<String, SelectorError> {
    if matches!(label, "metadata.name" | "metadata.namespace") {
        return Ok(label.to_owned());
    }
    if info.field_labels.is_empty() {
        return Err(SelectorError(format!(
            "{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        )));
    }
    if !info.field_labels.contains(&label) {
        return Err(SelectorError(format!("field label not supported: {label}")));
    }
    Ok(match label {
        "reportingController" => "reportingComponent".to_owned(),
        _ => match label.strip_prefix("regarding.") {
            Some(rest) => format!("involvedObject.{rest}"),
            None => label.to_owned(),
        },
    })
}

/// The field as selectors see it: missing text is empty, a missing flag is `false`.
fn field_text(object: &Value, path: &str) -> String {
    let at = |path: &str| {
        path.split('.')
            .try_fold(object, |value, name| value.get(name))
    };
    match at(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        // An event's source is its component, kept in another field by newer reporters.
        _ if path == "source" => ["source.component", "reportingComponent"]
            .into_iter()
            .find_map(|p| at(p).and_then(Value::as_str).filter(|s| !s.is_empty()))
            .unwrap_or_default()
            .to_owned(),
        _ if matches!(path, "spec.unschedulable" | "spec.hostNetwork") => "false".into(),
        _ => String::new(),
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(part: &str) -> Option<(&str, bool, &str)> {
    let at = part.find(['=', '!'])?;
    let (label, rest) = part.split_at(at);
    let (equal, value) = match rest {
        _ if rest.starts_with("!=") => (false, &rest[2..]),
        _ if rest.starts_with("==") => (true, &rest[2..]),
        _ if rest.starts_with('=') => (true, &rest[1..]),
        _ => return None,
    };
    Some((label, equal, value))
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                other => {
                    let sequence: String = ['\\'].into_iter().chain(other).collect();
                    return Err(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    ));
                }
            },
            '=' | ',' => {
                return Err(format!(
                    "invalid field selector: unescaped character in value: {c}"
                ));
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn row(group: &str, plural: &str) -> &'static ResourceInfo {
        crate::find(group, "v1", plural).expect("row")
    }

    #[test]
    fn matching() {
        let pod = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "x"}, "status": {"phase": "Running"}});
        for (selector, expected) in [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a,metadata.namespace=n", true),
            (
                "spec.nodeName=x,status.phase!=Failed,status.phase!=Succeeded",
                true,
            ),
            ("spec.nodeName!=x", false),
            ("spec.hostNetwork=false", true),
        ] {
            let parsed = FieldSelector::parse(row("", "pods"), selector).expect(selector);
            assert_eq!(parsed.matches(&pod), expected, "{selector}");
        }
        let by_name = FieldSelector::parse(row("", "pods"), "metadata.name=a").expect("parses");
        assert_eq!(by_name.exact("metadata.name"), Some("a"));
        assert_eq!(by_name.matches_key(None, "b"), Some(false));
        let event = json!({"involvedObject": {"uid": "u"}, "reportingComponent": "c"});
        let view = FieldSelector::parse(
            row("events.k8s.io", "events"),
            "regarding.uid=u,reportingController=c",
        )
        .expect("view");
        assert!(view.matches(&event));
        let source = FieldSelector::parse(row("", "events"), "source=c").expect("source");
        assert!(source.matches(&event));
    }

    #[test]
    fn wording() {
        let error = |row, text| FieldSelector::parse(row, text).expect_err(text).0;
        assert_eq!(
            error(row("", "pods"), "foo=bar"),
            "field label not supported: foo"
        );
        assert_eq!(
            error(row("", "configmaps"), "foo=bar"),
            "\"foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
        assert_eq!(
            error(row("", "pods"), "foo"),
            "invalid selector: 'foo'; can't understand 'foo'"
        );
    }

    proptest! {
        #[test]
        fn any_text(text in "\\PC{0,40}|[a-z.=!,\\\\]{0,30}") {
            let _ = FieldSelector::parse(row("", "pods"), &text);
        }
    }
}
