//! Resource quantities: decimal numbers with SI or binary suffixes, and their canonical text.

/// A quantity: `value` times ten to the `exponent`, with the suffix family it was written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity {
    /// Signed digits.
    digits: i128,
    /// Power of ten, never above 0 for binary quantities that are whole.
    exponent: i32,
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Binary,
    Decimal,
    Exponent,
}

/// Text that is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)]
pub struct QuantityError;

/// Longest text read; real ones have a dozen characters.
const MAX_TEXT: usize = 64;
/// Finest step kept; anything finer is rounded up, away from zero.
const NANO: i32 = -9;
/// Largest value, 2^63 - 1; larger ones are capped like upstream's.
const CAP: i128 = i64::MAX as i128;

const BINARY: &[(&str, u32)] = &[
    ("Ki", 10),
    ("Mi", 20),
    ("Gi", 30),
    ("Ti", 40),
    ("Pi", 50),
    ("Ei", 60),
];
const DECIMAL: &[(&str, i32)] = &[
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

impl Quantity {
    /// Reads a quantity such as `1500m`, `1.5Gi` or `2e3`.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(QuantityError);
        }
        let (negative, unsigned) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError);
        }
        let (exponent, shift, format) = suffix_of(suffix)?;
        let mut digits: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            let next = digits
                .checked_mul(10)
                .and_then(|d| d.checked_add(i128::from(digit - b'0')));
            digits = next.ok_or(QuantityError)?;
        }
        let fraction_length = i32::try_from(fraction.len()).map_err(|_| QuantityError)?;
        digits = digits.checked_mul(1 << shift).unwrap_or(i128::MAX);
        let (digits, exponent) = limit(digits, exponent - fraction_length);
        let format = match format {
            // A value below 1 with a binary suffix has no binary form to be written in.
            Format::Binary if exponent < 0 || digits < 1024 => Format::Decimal,
            other => other,
        };
        Ok(Quantity {
            digits: if negative { -digits } else { digits },
            exponent,
            format,
        })
    }

    /// The shortest text with the largest suffix that needs no fraction.
    pub fn canonical(&self) -> String {
        let sign = if self.digits < 0 { "-" } else { "" };
        let mut digits = self.digits.unsigned_abs();
        if digits == 0 {
            return "0".into();
        }
        if self.format == Format::Binary && self.exponent >= 0 {
            let mut whole =
                digits.saturating_mul(10u128.saturating_pow(self.exponent.unsigned_abs()));
            let mut suffix = "";
            for (name, _) in BINARY {
                if !whole.is_multiple_of(1024) {
                    break;
                }
                whole /= 1024;
                suffix = name;
            }
            return format!("{sign}{whole}{suffix}");
        }
        let mut exponent = self.exponent;
        while digits.is_multiple_of(10) {
            digits /= 10;
            exponent += 1;
        }
        while exponent.rem_euclid(3) != 0 || exponent > 18 {
            digits = digits.saturating_mul(10);
            exponent -= 1;
        }
        let suffix = match self.format {
            Format::Exponent if exponent == 0 => String::new(),
            Format::Exponent => format!("e{exponent}"),
            _ => DECIMAL
                .iter()
                .find(|(_, e)| *e == exponent)
                .map_or_else(String::new, |(s, _)| (*s).to_owned()),
        };
        format!("{sign}{digits}{suffix}")
    }

    /// The value in whole units, rounded up.
    pub fn ceil(&self) -> i64 {
        let (digits, exponent) = (self.digits, self.exponent);
        let value = match exponent {
            0.. => digits.saturating_mul(10i128.saturating_pow(exponent.unsigned_abs())),
            _ => {
                let divisor = 10i128.saturating_pow(exponent.unsigned_abs());
                digits.div_euclid(divisor) + i128::from(digits.rem_euclid(divisor) != 0)
            }
        };
        i64::try_from(value).unwrap_or(if digits < 0 { i64::MIN } else { i64::MAX })
    }
}

/// Power of ten, power of two and family of a suffix.
fn suffix_of(suffix: &str) -> Result<(i32, u32, Format), QuantityError> {
    if let Some((_, shift)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Ok((0, *shift, Format::Binary));
    }
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((*exponent, 0, Format::Decimal));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
    let exponent: i32 = exponent.parse().map_err(|_| QuantityError)?;
    match exponent.unsigned_abs() <= 100 {
        true => Ok((exponent, 0, Format::Exponent)),
        false => Err(QuantityError),
    }
}

/// Rounds below the finest step and caps above the largest value.
fn limit(mut digits: i128, mut exponent: i32) -> (i128, i32) {
    while exponent < NANO {
        let rest = digits % 10;
        digits = digits / 10 + i128::from(rest != 0);
        exponent += 1;
    }
    while exponent > 0 && digits <= CAP {
        digits *= 10;
        exponent -= 1;
    }
    while exponent < 0 && digits % 10 == 0 && digits != 0 {
        digits /= 10;
        exponent += 1;
    }
    // Steps are no finer than nano here, so the power is small.
    let scale = 10i128.pow(exponent.min(0).unsigned_abs());
    match exponent {
        _ if digits / scale >= CAP => (CAP, 0),
        _ if digits == 0 => (0, 0),
        _ => (digits, exponent),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, canonical) in [
            ("1", "1"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("0.1Ki", "102400m"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("100e1", "1e3"),
            ("1Ki", "1Ki"),
            ("8129264Ki", "8129264Ki"),
            ("-2.50", "-2500m"),
            ("0", "0"),
            ("0Gi", "0"),
            ("1.0", "1"),
            ("0.0000000001", "1n"),
            ("110", "110"),
            ("12345678901234567890123", "9223372036854775807"),
        ] {
            assert_eq!(
                Quantity::parse(text).map(|q| q.canonical()).as_deref(),
                Ok(canonical),
                "{text}"
            );
        }
        for text in [
            "", "x", "1x", "1.2.3", ".", "-", "1e", "1e9999", "1 Gi", "１",
        ] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
        assert_eq!(Quantity::parse("1500m").map(|q| q.ceil()), Ok(2));
        assert_eq!(Quantity::parse("4Gi").map(|q| q.ceil()), Ok(4 << 30));
    }

    proptest! {
        #[test]
        fn canonical_is_stable(text in "[+-]?[0-9]{0,20}\\.?[0-9]{0,12}(Ki|Mi|Ei|n|m|k|E|e-?[0-9]{1,2})?") {
            if let Ok(quantity) = Quantity::parse(&text) {
                let once = quantity.canonical();
                let again = Quantity::parse(&once).expect("canonical text parses").canonical();
                prop_assert_eq!(once, again);
            }
        }
    }
}
