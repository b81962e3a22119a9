//! Ranges of keys, and sets of them.

use bytes::Bytes;

/// A key, or the keys from one on, as a request names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpan<'a> {
    /// The first key.
    pub start: &'a [u8],
    /// Where it ends.
    pub end: SpanEnd<'a>,
}

/// Where a [`KeySpan`] ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanEnd<'a> {
    /// Right after its start: one key.
    Point,
    /// Before this key.
    Before(&'a [u8]),
    /// Nowhere.
    Open,
}

impl<'a> KeySpan<'a> {
    /// One key.
    #[must_use]
    pub fn key(key: &'a [u8]) -> Self {
        Self {
            start: key,
            end: SpanEnd::Point,
        }
    }

    /// By etcd's convention: no end is one key, a zero byte is no end at all.
    #[must_use]
    pub fn from_wire(key: &'a [u8], range_end: &'a [u8]) -> Self {
        let end = match range_end {
            [] => SpanEnd::Point,
            [0] => SpanEnd::Open,
            end => SpanEnd::Before(end),
        };
        Self { start: key, end }
    }
}

/// A position between keys: before `key`, or right after it (there is no key between a key and
/// that key with a zero byte), or behind all keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Before(Bytes),
    End,
}

/// A set of keys: disjoint intervals that do not touch, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KeySet {
    intervals: Vec<(Bytes, Edge)>,
}

impl KeySet {
    /// The union of ranges. A range that ends before it starts holds nothing.
    pub(crate) fn union<'a>(spans: impl IntoIterator<Item = KeySpan<'a>>) -> Self {
        let mut all: Vec<(Bytes, Edge)> = spans
            .into_iter()
            .map(|span| (Bytes::copy_from_slice(span.start), edge(span)))
            .filter(|(start, end)| match end {
                Edge::Before(end) => start < end,
                Edge::End => true,
            })
            .collect();
        all.sort();
        let mut intervals: Vec<(Bytes, Edge)> = Vec::with_capacity(all.len());
        for (start, end) in all {
            match intervals.last_mut() {
                Some((_, last)) if *last >= Edge::Before(start.clone()) => {
                    if *last < end {
                        *last = end;
                    }
                }
                _ => intervals.push((start, end)),
            }
        }
        Self { intervals }
    }

    /// Whether every key of a range is in the set. One that ends where it starts counts as its
    /// start; one that ends before that is in no set, as in etcd.
    pub(crate) fn covers(&self, span: KeySpan<'_>) -> bool {
        let span = match span.end {
            SpanEnd::Before(end) if end < span.start => return false,
            SpanEnd::Before(end) if end == span.start => KeySpan::key(span.start),
            _ => span,
        };
        let after = self
            .intervals
            .partition_point(|(start, _)| start.as_ref() <= span.start);
        let Some((_, end)) = after.checked_sub(1).map(|place| &self.intervals[place]) else {
            return false;
        };
        match (end, span.end) {
            (Edge::End, _) => true,
            (Edge::Before(_), SpanEnd::Open) => false,
            (Edge::Before(end), SpanEnd::Before(wanted)) => end.as_ref() >= wanted,
            (Edge::Before(end), SpanEnd::Point) => end.as_ref() > span.start,
        }
    }
}

fn edge(span: KeySpan<'_>) -> Edge {
    match span.end {
        SpanEnd::Open => Edge::End,
        SpanEnd::Before(end) => Edge::Before(Bytes::copy_from_slice(end)),
        SpanEnd::Point => {
            let mut next = Vec::with_capacity(span.start.len() + 1);
            next.extend_from_slice(span.start);
            next.push(0);
            Edge::Before(next.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(spans: &[(&'static str, &'static str)]) -> KeySet {
        KeySet::union(
            spans
                .iter()
                .map(|(start, end)| KeySpan::from_wire(start.as_bytes(), end.as_bytes())),
        )
    }

    fn covers(set: &KeySet, start: &str, end: &str) -> bool {
        set.covers(KeySpan::from_wire(start.as_bytes(), end.as_bytes()))
    }

    #[test]
    fn neighbours_and_overlaps_are_one_interval() {
        let both = set(&[("a", "c"), ("c", "e"), ("d", "g"), ("x", "")]);
        assert_eq!(both.intervals.len(), 2);
        assert!(covers(&both, "a", "g"));
        assert!(covers(&both, "b", "f"));
        assert!(!covers(&both, "a", "h"));
        assert!(covers(&both, "x", ""));
        assert!(!covers(&both, "xa", ""));
        assert!(!covers(&both, "a", "\0"));
        // A key and the range right behind it leave no gap.
        let joined = set(&[("k", ""), ("k\0", "m")]);
        assert!(covers(&joined, "k", "m"));
        // With something between them they do.
        let gap = set(&[("k", ""), ("k\u{1}", "m")]);
        assert!(!covers(&gap, "k", "m"));
    }

    #[test]
    fn open_ends_and_the_whole_key_space() {
        let tail = set(&[("m", "\0")]);
        assert!(covers(&tail, "m", "\0") && covers(&tail, "z", "\0") && covers(&tail, "z", ""));
        assert!(!covers(&tail, "a", "\0") && !covers(&tail, "l", ""));
        let all = set(&[("", "\0")]);
        assert!(covers(&all, "\0", "\0") && covers(&all, "", "\0") && covers(&all, "q", "r"));
    }

    #[test]
    fn backward_ranges_hold_nothing_and_are_held_by_nothing() {
        let none = set(&[("b", "a"), ("b", "b")]);
        assert!(none.intervals.is_empty());
        assert!(!covers(&none, "b", ""));
        let some = set(&[("a", "z")]);
        assert!(!covers(&some, "c", "b"));
        assert!(covers(&some, "c", "c"), "as the key itself");
    }

    /// Keys over an alphabet in which neighbours are likely.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0, 1, b'a', 0xff]), 0..3)
    }

    fn wire_end() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![Just(vec![]), Just(vec![0]), key()]
    }

    fn after(span: KeySpan<'_>) -> Option<Vec<u8>> {
        match span.end {
            SpanEnd::Open => None,
            SpanEnd::Before(end) => Some(end.to_vec()),
            SpanEnd::Point => Some([span.start, &[0]].concat()),
        }
    }

    /// Cuts the line of keys at every border and looks at each piece by itself.
    fn naive(spans: &[(Vec<u8>, Vec<u8>)], wanted: KeySpan<'_>) -> bool {
        let spans: Vec<KeySpan<'_>> = spans
            .iter()
            .map(|(start, end)| KeySpan::from_wire(start, end))
            .collect();
        let wanted = match wanted.end {
            SpanEnd::Before(end) if end < wanted.start => return false,
            SpanEnd::Before(end) if end == wanted.start => KeySpan::key(wanted.start),
            _ => wanted,
        };
        let mut borders: Vec<Vec<u8>> = vec![wanted.start.to_vec()];
        borders.extend(after(wanted));
        for span in &spans {
            borders.push(span.start.to_vec());
            borders.extend(after(*span));
        }
        borders.sort();
        borders.dedup();
        let holds = |span: KeySpan<'_>, point: &[u8]| {
            span.start <= point && after(span).is_none_or(|end| point < end.as_slice())
        };
        // Nothing changes between two borders, so the key at the border speaks for the piece.
        borders
            .iter()
            .filter(|point| holds(wanted, point))
            .all(|point| spans.iter().any(|span| holds(*span, point)))
    }

    proptest! {
        #[test]
        fn coverage_is_that_of_the_naive_model(
            spans in prop::collection::vec((key(), wire_end()), 0..6),
            start in key(),
            end in wire_end(),
        ) {
            let set = KeySet::union(spans.iter().map(|(s, e)| KeySpan::from_wire(s, e)));
            let wanted = KeySpan::from_wire(&start, &end);
            prop_assert_eq!(set.covers(wanted), naive(&spans, wanted));
        }
    }
}
