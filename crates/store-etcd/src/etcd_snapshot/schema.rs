//! Buckets, keys and values of etcd's database (`docs/formats/bbolt.md`, "Buckets").

use bytes::Bytes;
use trivet_datastore::{LeaseId, Revision};
use trivet_mvcc::{LeaseInfo, Version};

use crate::proto::mvccpb;
use crate::state::{Alarm, AlarmMember};

pub(crate) const ALARM: &[u8] = b"alarm";
pub(crate) const AUTH: &[u8] = b"auth";
pub(crate) const AUTH_ROLES: &[u8] = b"authRoles";
pub(crate) const AUTH_USERS: &[u8] = b"authUsers";
pub(crate) const CLUSTER: &[u8] = b"cluster";
pub(crate) const KEY: &[u8] = b"key";
pub(crate) const LEASE: &[u8] = b"lease";
pub(crate) const MEMBERS: &[u8] = b"members";
pub(crate) const MEMBERS_REMOVED: &[u8] = b"members_removed";
pub(crate) const META: &[u8] = b"meta";

pub(crate) const META_INDEX: &[u8] = b"consistent_index";
pub(crate) const META_TERM: &[u8] = b"term";
pub(crate) const META_VOTERS: &[u8] = b"confState";
pub(crate) const META_COMPACTION: &[u8] = b"scheduledCompactRev";
pub(crate) const META_COMPACTED: &[u8] = b"finishedCompactRev";
pub(crate) const AUTH_ENABLED: &[u8] = b"authEnabled";
pub(crate) const AUTH_REVISION: &[u8] = b"authRevision";
pub(crate) const CLUSTER_VERSION: &[u8] = b"clusterVersion";

/// Main revision, `_`, position: as a key, and as the value of a compaction.
const REVISION_BYTES: usize = 17;

/// Where a version stands in the bucket of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RevisionKey {
    pub(crate) main: u64,
    pub(crate) sub: u64,
    pub(crate) tombstone: bool,
}

impl RevisionKey {
    pub(crate) fn of(version: &Version) -> Self {
        Self {
            main: version.main,
            sub: version.sub.into(),
            tombstone: version.is_tombstone(),
        }
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REVISION_BYTES + 1);
        bytes.extend_from_slice(&self.main.to_be_bytes());
        bytes.push(b'_');
        bytes.extend_from_slice(&self.sub.to_be_bytes());
        if self.tombstone {
            bytes.push(b't');
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (main, rest) = bytes.split_first_chunk()?;
        let (sub, mark) = rest.strip_prefix(b"_")?.split_first_chunk()?;
        let tombstone = match mark {
            b"" => false,
            b"t" => true,
            _ => return None,
        };
        Some(Self {
            main: u64::from_be_bytes(*main),
            sub: u64::from_be_bytes(*sub),
            tombstone,
        })
    }
}

/// The value of a compaction.
pub(crate) fn encode_compaction(revision: Revision) -> Vec<u8> {
    let key = RevisionKey {
        main: revision.0,
        sub: 0,
        tombstone: false,
    };
    key.encode()
}

/// The record of a version; a deletion has only the key.
pub(crate) fn pair(key: &[u8], version: &Version, value: Bytes) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: Bytes::copy_from_slice(key),
        create_revision: version.create as i64,
        mod_revision: if version.is_tombstone() {
            0
        } else {
            version.main as i64
        },
        version: version.version as i64,
        value,
        lease: version.lease,
    }
}

/// Length of [`pair`], encoded, without having the value.
pub(crate) fn pair_bytes(key: &[u8], version: &Version) -> usize {
    let number = |number: u64| match number {
        0 => 0,
        number => 1 + prost::encoding::encoded_len_varint(number),
    };
    let bytes = |length: usize| match length {
        0 => 0,
        length => 1 + prost::encoding::encoded_len_varint(length as u64) + length,
    };
    let modified = if version.is_tombstone() {
        0
    } else {
        version.main
    };
    bytes(key.len())
        + number(version.create)
        + number(modified)
        + number(version.version)
        + bytes(version.location.length as usize)
        + number(version.lease as u64)
}

/// A lease on disk.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LeaseRecord {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
    #[prost(int64, tag = "2")]
    pub(crate) ttl: i64,
    #[prost(int64, tag = "3")]
    pub(crate) remaining_ttl: i64,
}

impl From<LeaseInfo> for LeaseRecord {
    fn from(lease: LeaseInfo) -> Self {
        Self {
            id: lease.id.0,
            ttl: i64::try_from(lease.ttl_s).unwrap_or(i64::MAX),
            remaining_ttl: i64::try_from(lease.remaining_s).unwrap_or(i64::MAX),
        }
    }
}

/// An alarm on disk; it is the key.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AlarmRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) member: u64,
    #[prost(int32, tag = "2")]
    pub(crate) alarm: i32,
}

impl From<AlarmMember> for AlarmRecord {
    fn from(raised: AlarmMember) -> Self {
        Self {
            member: raised.member,
            alarm: match raised.alarm {
                Alarm::NoSpace => 1,
                Alarm::Corrupt => 2,
            },
        }
    }
}

impl AlarmRecord {
    /// The alarm, if it is one that is known here.
    pub(crate) fn raised(&self) -> Option<AlarmMember> {
        let alarm = match self.alarm {
            1 => Alarm::NoSpace,
            2 => Alarm::Corrupt,
            _ => return None,
        };
        Some(AlarmMember {
            alarm,
            member: self.member,
        })
    }
}

/// The key of a lease: identities are signed, their order on disk is not.
pub(crate) fn lease_key(id: LeaseId) -> [u8; 8] {
    id.0.to_be_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prost::Message as _;
    use trivet_mvcc::Location;

    use super::*;

    #[test]
    fn revisions_are_written_as_etcd_does() {
        let key = RevisionKey {
            main: 0x0102,
            sub: 3,
            tombstone: true,
        };
        assert_eq!(key.encode(), b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03t");
        assert_eq!(RevisionKey::decode(&key.encode()), Some(key));
        let live = RevisionKey {
            tombstone: false,
            ..key
        };
        assert_eq!(RevisionKey::decode(&live.encode()), Some(live));
        let good = live.encode();
        for bad in [
            &good[..16],
            &good[..8],
            b"",
            b"\0\0\0\0\0\0\0\x01-\0\0\0\0\0\0\0\x01",
        ] {
            assert_eq!(RevisionKey::decode(bad), None);
        }
        assert_eq!(RevisionKey::decode(&[&good[..], b"x"].concat()), None);
    }

    #[test]
    fn the_length_of_a_record_is_known_without_its_value() {
        let numbers = [0, 1, 127, 128, 1 << 40];
        for (index, &main) in numbers.iter().enumerate().skip(1) {
            for lease in [0, 5, -5, i64::MAX] {
                for length in [0, 1, 127, 128, 100_000] {
                    let version = Version {
                        main,
                        create: numbers[index - 1].max(1),
                        version: main,
                        lease,
                        sub: 0,
                        location: Location {
                            segment: 1,
                            offset: 20,
                            length,
                        },
                    };
                    let value = Bytes::from(vec![7; length as usize]);
                    let record = pair(b"key", &version, value);
                    assert_eq!(record.encoded_len(), pair_bytes(b"key", &version));
                }
            }
        }
        let tombstone = Version::tombstone(9, 1);
        let record = pair(b"key", &tombstone, Bytes::new());
        assert_eq!(record.encode_to_vec(), b"\x0a\x03key");
        assert_eq!(record.encoded_len(), pair_bytes(b"key", &tombstone));
    }
}
