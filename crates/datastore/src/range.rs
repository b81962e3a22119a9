//! Which keys an operation covers.

use std::ops::Bound;

use bytes::Bytes;

use crate::Key;

/// Which keys a range, watch or export covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRange {
    /// Exactly this key.
    Key(Key),
    /// Every key that starts with these bytes; empty means every key.
    Prefix(Bytes),
    /// `start <= key < end`; nothing where `end <= start`.
    Between {
        /// First key that is covered.
        start: Key,
        /// First key that is not covered.
        end: Key,
    },
}

impl KeyRange {
    /// Every key there is.
    #[must_use]
    pub fn all() -> Self {
        Self::Prefix(Bytes::new())
    }

    /// Whether `key` is covered.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(only) => key == &only[..],
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Between { start, end } => &start[..] <= key && key < &end[..],
        }
    }

    /// The same keys as an interval: the first key that is covered, and the first after it that
    /// is not (`None`: there is no such key). `None` when the range covers nothing.
    #[must_use]
    pub fn interval(&self) -> Option<(Key, Option<Key>)> {
        match self {
            Self::Key(key) => {
                let mut after = Vec::with_capacity(key.len() + 1);
                after.extend_from_slice(key);
                after.push(0);
                Some((key.clone(), Some(after.into())))
            }
            Self::Prefix(prefix) => Some((prefix.clone(), prefix_end(prefix))),
            Self::Between { start, end } if start < end => Some((start.clone(), Some(end.clone()))),
            Self::Between { .. } => None,
        }
    }

    /// The keys of the range that are greater than `after`, as bounds for an ordered map.
    /// `None` when there are none, where `BTreeMap::range` would panic.
    pub(crate) fn bounds(&self, after: Option<&Key>) -> Option<(Bound<Key>, Bound<Key>)> {
        let (start, end) = self.interval()?;
        let lower = match after {
            Some(after) if *after >= start => Bound::Excluded(after.clone()),
            _ => Bound::Included(start.clone()),
        };
        let empty = matches!((&lower, &end), (Bound::Excluded(after), Some(end)) if after >= end);
        (!empty).then(|| (lower, end.map_or(Bound::Unbounded, Bound::Excluded)))
    }
}

/// The first key after all keys that start with `prefix`; `None` when nothing comes after them
/// (the prefix is empty or all 0xff).
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Key> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_increment() {
        assert_eq!(prefix_end(b"a").as_deref(), Some(&b"b"[..]));
        assert_eq!(prefix_end(b"a\xff\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }

    #[test]
    fn the_interval_covers_what_contains_says() {
        let keys: [&[u8]; 9] = [
            b"\0",
            b"a",
            b"a\0",
            b"ab",
            b"a\xff",
            b"b",
            b"\xfe",
            b"\xff",
            b"\xff\xff",
        ];
        let mut ranges = vec![KeyRange::all()];
        for key in keys {
            let key = Bytes::copy_from_slice(key);
            ranges.extend([KeyRange::Key(key.clone()), KeyRange::Prefix(key.clone())]);
            for end in keys {
                let end = Bytes::copy_from_slice(end);
                ranges.push(KeyRange::Between {
                    start: key.clone(),
                    end,
                });
            }
        }
        for range in ranges {
            let interval = range.interval();
            for key in keys {
                let inside = interval.as_ref().is_some_and(|(start, end)| {
                    &start[..] <= key && end.as_ref().is_none_or(|end| key < &end[..])
                });
                assert_eq!(inside, range.contains(key), "{range:?} {key:?}");
            }
        }
    }

    #[test]
    fn bounds_after_the_end_are_none() {
        let range = KeyRange::Between {
            start: "b".into(),
            end: "d".into(),
        };
        assert_eq!(range.bounds(Some(&"d".into())), None);
        assert_eq!(range.bounds(Some(&"x".into())), None);
        let from_start = (Bound::Included("b".into()), Bound::Excluded("d".into()));
        assert_eq!(range.bounds(Some(&"a".into())), Some(from_start.clone()));
        assert_eq!(range.bounds(None), Some(from_start));
        let after_start = (Bound::Excluded("b".into()), Bound::Excluded("d".into()));
        assert_eq!(range.bounds(Some(&"b".into())), Some(after_start));
    }
}
