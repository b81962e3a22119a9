//! Which keys take up the space.

use std::io;

use bytes::Bytes;
use trivet_mvcc::{Entry, View};

use super::segments::RECORD_HEADER;
use super::shared::{ReadError, Shared, blocking};

/// What the keys of a prefix take up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixUse {
    /// The keys up to their third slash, or to the last one if they have fewer.
    pub prefix: Bytes,
    /// Bytes of all their versions.
    pub bytes: u64,
    /// Number of keys.
    pub keys: u64,
}

impl Shared {
    /// The prefixes that take up the most, largest first, at most `count`.
    pub async fn largest_prefixes(&self, count: usize) -> Result<Vec<PrefixUse>, ReadError> {
        let view = self.view()?;
        blocking(move || io::Result::Ok(Ok(largest(&view, count)))).await
    }
}

fn largest(view: &View, count: usize) -> Vec<PrefixUse> {
    let mut largest: Vec<PrefixUse> = Vec::with_capacity(count + 1);
    let mut keep = |found: PrefixUse| {
        let place = largest.partition_point(|other| other.bytes >= found.bytes);
        if place < count {
            largest.insert(place, found);
            largest.truncate(count);
        }
    };
    // Keys come in order, so one prefix at a time is enough.
    let mut current: Option<PrefixUse> = None;
    for entry in view.index.entries() {
        let bytes = entry_bytes(&entry);
        let prefix = prefix(entry.key);
        match &mut current {
            Some(current) if current.prefix == prefix => {
                current.bytes += bytes;
                current.keys += 1;
            }
            other => {
                let next = PrefixUse {
                    prefix: Bytes::copy_from_slice(prefix),
                    bytes,
                    keys: 1,
                };
                if let Some(done) = other.replace(next) {
                    keep(done);
                }
            }
        }
    }
    if let Some(done) = current {
        keep(done);
    }
    largest
}

fn entry_bytes(entry: &Entry<'_>) -> u64 {
    let versions = entry.older.iter().chain([entry.head]);
    let values: u64 = versions
        .map(|version| match version.location.length {
            0 => 0,
            length => u64::from(length) + u64::from(RECORD_HEADER),
        })
        .sum();
    values + entry.key.len() as u64
}

fn prefix(key: &[u8]) -> &[u8] {
    let slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let end = slashes.take(3).last().map_or(0, |(at, _)| at + 1);
    &key[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_with_the_third_slash() {
        for (key, expected) in [
            ("/registry/events/default/x", "/registry/events/"),
            ("/registry/events/", "/registry/events/"),
            ("/registry/x", "/registry/"),
            ("a/b/c/d", "a/b/c/"),
            ("a/b", "a/"),
            ("plain", ""),
            ("", ""),
        ] {
            assert_eq!(prefix(key.as_bytes()), expected.as_bytes());
        }
    }
}
