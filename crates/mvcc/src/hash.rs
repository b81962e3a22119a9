//! The checksum that members compare.

use std::io;

use bytes::Bytes;
use trivet_datastore::Revision;

use crate::version::{Location, ReadValues};
use crate::{Error, View};

/// A checksum over every version that a member must have as of a revision: those that the
/// compaction leaves, deletions too, in order of key and revision. Equal on all members for equal
/// revision and compaction, however far each has got with removing what was compacted.
///
/// Taken in steps, because it reads every value: whoever takes it decides how fast.
#[derive(Debug)]
pub struct Hasher {
    view: View,
    at: u64,
    after: Option<Bytes>,
    sum: u32,
}

impl Hasher {
    /// Of a revision, or of the newest.
    pub fn new(view: View, revision: Option<Revision>) -> Result<Self, Error> {
        let at = view.check(revision)?.0;
        Ok(Self {
            view,
            at,
            after: None,
            sum: 0,
        })
    }

    /// The revision that it is of.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.at)
    }

    /// Takes up to `keys` more keys in; the bytes that were read, `None` when all keys were in
    /// already.
    pub fn step(&mut self, keys: usize, values: &dyn ReadValues) -> io::Result<Option<u64>> {
        let compacted = self.view.compact_revision().0;
        let (mut found, mut last) = (Vec::new(), None);
        for entry in self.view.index.entries_after(self.after.as_deref(), keys) {
            let key = Bytes::copy_from_slice(entry.key);
            let versions = entry.uncompacted(compacted).into_iter();
            found.extend(
                versions
                    .filter(|version| version.main <= self.at)
                    .map(|version| (key.clone(), version)),
            );
            last = Some(key);
        }
        let Some(last) = last else {
            return Ok(None);
        };
        let locations: Vec<Location> = found.iter().map(|(_, version)| version.location).collect();
        let read = values.read_many(&locations)?;
        let mut bytes = 0;
        for ((key, version), value) in found.into_iter().zip(read) {
            bytes += (key.len() + value.len()) as u64;
            // A deletion has neither a creation nor a number of writes: no pair looks like it.
            self.sum = version.pair(key, value).checksum(self.sum);
            self.sum = crc32c::crc32c_append(self.sum, &version.sub.to_le_bytes());
        }
        self.after = Some(last);
        Ok(Some(bytes))
    }

    /// The checksum of what was taken in.
    #[must_use]
    pub fn sum(&self) -> u32 {
        self.sum
    }
}
