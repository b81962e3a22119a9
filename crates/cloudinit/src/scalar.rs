//! What a scalar is in YAML 1.1, as the original loader reads it.

/// How a scalar is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Quoted,
    Block,
}

/// What an explicit tag makes of a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScalarTag {
    /// None, or one that changes nothing.
    Implied,
    /// `!!str` and `!!binary`.
    Text,
    /// `!!null`, `!!bool`, `!!int`, `!!float`: read as if plain.
    Typed,
}

/// A scalar.
#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) style: Style,
    pub(crate) tag: ScalarTag,
}

/// The type of a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScalarType {
    Text,
    Integer,
    Float,
    Boolean(bool),
    Null,
}

impl ScalarType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Boolean(_) => "boolean",
            Self::Null => "null",
        }
    }
}

impl Scalar {
    pub(crate) fn quoted(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            style: Style::Quoted,
            tag: ScalarTag::Implied,
        }
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.style == Style::Plain && self.tag != ScalarTag::Text
    }

    pub(crate) fn resolve(&self) -> ScalarType {
        let plain = match self.tag {
            ScalarTag::Text => false,
            ScalarTag::Typed => true,
            ScalarTag::Implied => self.style == Style::Plain,
        };
        if plain {
            plain_type(&self.text)
        } else {
            ScalarType::Text
        }
    }
}

fn plain_type(text: &str) -> ScalarType {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => ScalarType::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            ScalarType::Boolean(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            ScalarType::Boolean(false)
        }
        _ => number(text).unwrap_or(ScalarType::Text),
    }
}

fn number(text: &str) -> Option<ScalarType> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    if matches!(
        unsigned,
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
    ) {
        return Some(ScalarType::Float);
    }
    let digits: String = unsigned.chars().filter(|c| *c != '_').collect();
    let of_radix = |prefix: &str, radix| {
        digits
            .strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix)))
    };
    if digits.chars().all(|c| c.is_ascii_digit())
        || of_radix("0x", 16)
        || of_radix("0o", 8)
        || of_radix("0b", 2)
    {
        return Some(ScalarType::Integer);
    }
    is_float(&digits).then_some(ScalarType::Float)
}

/// Digits with at most one point and an optional exponent.
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let whole = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    let mantissa_ok = match mantissa.split_once('.') {
        Some((before, after)) => {
            whole(before) && whole(after) && !(before.is_empty() && after.is_empty())
        }
        None => !mantissa.is_empty() && whole(mantissa),
    };
    let exponent_ok = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !digits.is_empty() && whole(digits)
    });
    mantissa_ok && exponent_ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_typed_as_in_yaml_1_1() {
        use ScalarType::{Boolean, Float, Integer, Null, Text};
        for (text, expected) in [
            ("yes", Boolean(true)),
            ("Off", Boolean(false)),
            ("yEs", Text),
            ("0644", Integer),
            ("0o644", Integer),
            ("0x1F", Integer),
            ("1_000", Integer),
            ("-3", Integer),
            ("08", Integer),
            ("1.5", Float),
            ("1e3", Float),
            ("12e4", Float),
            (".inf", Float),
            (".", Text),
            ("9d7c0f1e2a3b4c5d", Text),
            ("1.2.3", Text),
            ("10.0.0.1", Text),
            ("4 4 1 7", Text),
            ("2020-01-01", Text),
            ("~", Null),
            ("", Null),
        ] {
            assert_eq!(plain_type(text), expected, "{text:?}");
        }
    }
}
