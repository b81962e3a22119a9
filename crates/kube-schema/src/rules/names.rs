//! Syntax of names, keys and values. Each function returns what is wrong, in upstream's words.

const SUBDOMAIN_MAX: usize = 253;
const LABEL_MAX: usize = 63;

const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
     with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start \
     and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, \
     and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is \
     '[a-z]([-a-z0-9]*[a-z0-9])?')";
const NAME_PART_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character \
     (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and \
     end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
     '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_TEXT: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or \
     'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn max_length(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|b| lower_alnum(*b))
        && bytes.last().is_some_and(|b| lower_alnum(*b))
        && bytes.iter().all(|b| lower_alnum(*b) || *b == b'-')
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// DNS-1123 label: namespaces, container and port-like names.
pub fn dns_label_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_MAX {
        problems.push(max_length(LABEL_MAX));
    }
    if !is_label(text) {
        problems.push(LABEL_TEXT.to_owned());
    }
    problems
}

/// DNS-1035 label: service names.
pub fn dns_1035_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_MAX {
        problems.push(max_length(LABEL_MAX));
    }
    if !is_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        problems.push(DNS_1035_TEXT.to_owned());
    }
    problems
}

/// DNS-1123 subdomain: most names.
pub fn dns_subdomain_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        problems.push(max_length(SUBDOMAIN_MAX));
    }
    if !text.split('.').all(is_label) {
        problems.push(SUBDOMAIN_TEXT.to_owned());
    }
    problems
}

/// Names that only need to be one path segment.
pub fn path_segment_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if matches!(text, "." | "..") {
        problems.push(format!("may not be '{text}'"));
    }
    for bad in ['/', '%'] {
        if text.contains(bad) {
            problems.push(format!("may not contain '{bad}'"));
        }
    }
    problems
}

/// Keys of labels and annotations: `[prefix/]name`.
pub fn qualified_name_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                problems.extend(
                    dns_subdomain_problems(prefix)
                        .into_iter()
                        .map(|p| format!("prefix part {p}")),
                );
            }
            *name
        }
        _ => {
            let rest = NAME_PART_TEXT.trim_start_matches("must consist");
            return vec![format!(
                "a qualified name must consist{rest} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        problems.push(format!("name part {}", max_length(LABEL_MAX)));
    }
    if !is_name_part(name) {
        problems.push(format!("name part {NAME_PART_TEXT}"));
    }
    problems
}

/// Values of labels.
pub fn label_value_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_MAX {
        problems.push(max_length(LABEL_MAX));
    }
    if !text.is_empty() && !is_name_part(text) {
        problems.push(LABEL_VALUE_TEXT.to_owned());
    }
    problems
}

/// Keys of ConfigMap and Secret data.
pub fn config_key_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        problems.push(max_length(SUBDOMAIN_MAX));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(allowed) {
        problems.push(CONFIG_KEY_TEXT.to_owned());
    }
    match text {
        "." => problems.push("must not be '.'".to_owned()),
        ".." => problems.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => problems.push("must not start with '..'".to_owned()),
        _ => {}
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax() {
        assert!(dns_label_problems("a-1").is_empty());
        for bad in ["", "A", "-a", "a-", "a.b", "a_b", "ä"] {
            assert!(!dns_label_problems(bad).is_empty(), "{bad}");
        }
        assert_eq!(
            dns_label_problems(&"a".repeat(64)),
            ["must be no more than 63 bytes"]
        );
        assert!(dns_subdomain_problems("a.b-c.1").is_empty());
        assert!(!dns_subdomain_problems("a..b").is_empty());
        assert!(!dns_1035_problems("1a").is_empty());
        assert!(qualified_name_problems("example.com/My_Name.x").is_empty());
        for bad in ["", "/x", "x/", "a/b/c", "-x", "A.b/c"] {
            assert!(!qualified_name_problems(bad).is_empty(), "{bad}");
        }
        assert!(label_value_problems("").is_empty());
        assert!(!label_value_problems("a b").is_empty());
        assert!(config_key_problems(".dockerconfigjson").is_empty());
        for bad in ["", ".", "..", "..x", "a/b"] {
            assert!(!config_key_problems(bad).is_empty(), "{bad}");
        }
        assert!(path_segment_problems("system:node").is_empty());
        assert!(!path_segment_problems("a/b").is_empty());
    }
}
