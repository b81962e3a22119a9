//! Ages as `kubectl` users read them.

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// A duration in at most two units: `45s`, `5m18s`, `179m`, `7h59m`, `47h`, `7d23h`, `729d`, `7y364d`, `9y`.
/// Slightly negative values are clock differences and read as `0s`; others as `<invalid>`.
pub fn human_duration(seconds: i64) -> String {
    match seconds {
        ..=-2 => "<invalid>".into(),
        -1 | 0 => "0s".into(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s / MINUTE % 60, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s / HOUR % 24, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s / DAY % 365, "d"),
        s => format!("{}y", s / YEAR),
    }
}

fn two(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    }
}

/// Age of a moment given as unix seconds, or `<unknown>` when there is none.
pub fn age(since_unix_seconds: Option<i64>, now_unix_seconds: i64) -> String {
    since_unix_seconds.map_or_else(
        || "<unknown>".into(),
        |since| human_duration(now_unix_seconds.saturating_sub(since)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (318, "5m18s"),
            (600, "10m"),
            (3 * HOUR - 1, "179m"),
            (3 * HOUR, "3h"),
            (8 * HOUR - 1, "7h59m"),
            (2 * DAY - 1, "47h"),
            (2 * DAY, "2d"),
            (8 * DAY - 1, "7d23h"),
            (8 * DAY, "8d"),
            (2 * YEAR - 1, "729d"),
            (2 * YEAR, "2y"),
            (8 * YEAR - 1, "7y364d"),
            (9 * YEAR + DAY, "9y"),
            (i64::MAX, "292471208677y"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
        assert_eq!(age(None, 5), "<unknown>");
    }
}
