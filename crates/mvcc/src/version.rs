//! One version of a key, and where its value lies.

use std::io;

use bytes::Bytes;
use trivet_datastore::{KeyValue, LeaseId, Revision};

/// Where a value lies; means something to [`Values`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// Number of the segment; 0 with an offset of 0 is "empty value, stored nowhere".
    pub segment: u32,
    /// Byte offset in the segment.
    pub offset: u32,
    /// Length of the value in bytes.
    pub length: u32,
}

impl Location {
    /// An empty value needs no place.
    pub const EMPTY: Self = Self {
        segment: 0,
        offset: 0,
        length: 0,
    };
}

/// Reads values.
pub trait ReadValues {
    /// A value kept earlier (not empty).
    fn read(&self, location: Location) -> io::Result<Bytes>;

    /// Many values, in order; empty ones are allowed.
    fn read_many(&self, locations: &[Location]) -> io::Result<Vec<Bytes>> {
        locations
            .iter()
            .map(|location| self.read_any(*location))
            .collect()
    }

    /// Like [`ReadValues::read_many`], for values that are let go of together and soon: they may
    /// share memory, so that keeping one keeps others.
    fn read_together(&self, locations: &[Location]) -> io::Result<Vec<Bytes>> {
        self.read_many(locations)
    }

    /// A value that may be empty.
    fn read_any(&self, location: Location) -> io::Result<Bytes> {
        if location.length == 0 {
            Ok(Bytes::new())
        } else {
            self.read(location)
        }
    }
}

/// Where values are kept.
pub trait Values: ReadValues {
    /// Keeps a value (not empty). An error is fatal for the state.
    fn append(&mut self, value: &[u8]) -> io::Result<Location>;

    /// The version that owned this value is gone. Empty ones are ignored.
    fn release(&mut self, location: Location);
}

/// A version of a key: 48 bytes, and a million of them are a million of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Revision of the write.
    pub main: u64,
    /// Revision of the write that created the key; 0 in a tombstone.
    pub create: u64,
    /// Writes since creation, 1 on creation; 0 in a tombstone.
    pub version: u64,
    /// The lease; 0 is none.
    pub lease: i64,
    /// Position among the writes of the revision.
    pub sub: u32,
    /// The value.
    pub location: Location,
}

impl Version {
    /// A deletion.
    #[must_use]
    pub fn tombstone(main: u64, sub: u32) -> Self {
        Self {
            main,
            create: 0,
            version: 0,
            lease: 0,
            sub,
            location: Location::EMPTY,
        }
    }

    /// Whether this is a deletion.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    /// The pair with this version's metadata.
    #[must_use]
    pub fn pair(&self, key: Bytes, value: Bytes) -> KeyValue {
        KeyValue {
            key,
            value,
            create_revision: Revision(self.create),
            mod_revision: Revision(self.main),
            version: self.version,
            lease: Some(self.lease).filter(|id| *id != 0).map(LeaseId),
        }
    }
}
