//! The state as the snapshot that an etcd client asks for.
//!
//! Two passes over one image (see `trivet-bbolt`): the first learns the sizes, the second reads
//! the values. Neither needs memory that grows with the state.

use std::io;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use ring::digest;
use serde_json::json;
use trivet_bbolt::{PlanError, Planner, WriteError, Writer};
use trivet_mvcc::{History, Location, Version};

use super::auth::AuthRecords;
use super::schema;
use crate::http::CLUSTER_VERSION;
use crate::state::StateImage;

/// Clients are sent no larger pieces, as by etcd.
pub(crate) const CHUNK_BYTES: usize = 32 * 1024;
/// Values read at a time.
const READ_VALUES: usize = 512;
/// Bytes of values read at a time, about.
const READ_BYTES: usize = 1 << 20;

/// Entries of a small bucket.
pub(crate) type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// A member, as etcd describes it in its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) peer_url: String,
    pub(crate) client_url: String,
    pub(crate) learner: bool,
}

/// What goes into a snapshot.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) image: StateImage,
    /// In order of identity.
    pub(crate) members: Vec<Member>,
}

/// A piece of the file, or the checksum behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) bytes: Bytes,
    /// Bytes of the file that are still to come; the checksum does not count.
    pub(crate) remaining_bytes: u64,
}

/// Where a snapshot goes.
pub(crate) trait Receiver {
    /// Whether anybody still wants it. Asked now and then.
    fn wants_more(&mut self) -> bool;
    /// Takes the next piece; `false`: nobody wants it any more. May wait.
    fn take(&mut self, chunk: Chunk) -> bool;
}

/// Why a snapshot ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("nobody wants it any more")]
    Cancelled,
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("the snapshot cannot be written: {0}")]
    Write(#[from] WriteError),
}

impl From<PlanError> for SnapshotError {
    fn from(error: PlanError) -> Self {
        Self::Write(error.into())
    }
}

impl Content {
    /// Writes the snapshot to `receiver`, and the SHA-256 of it. Blocks.
    pub(crate) fn send(&self, receiver: &mut dyn Receiver) -> Result<(), SnapshotError> {
        let mut planning = Planning {
            planner: Planner::new(),
            receiver,
        };
        self.walk(&mut planning)?;
        let plan = planning.planner.finish()?;
        let mut writing = Writing {
            remaining_bytes: plan.size_bytes(),
            writer: Writer::new(plan),
            pending: BytesMut::new(),
            sum: digest::Context::new(&digest::SHA256),
            receiver,
        };
        self.walk(&mut writing)?;
        writing.finish()
    }

    /// Every bucket and entry in order.
    fn walk(&self, pass: &mut dyn Pass) -> Result<(), SnapshotError> {
        small(pass, schema::ALARM, self.alarms())?;
        let auth = AuthRecords::of(&self.image.auth);
        small(pass, schema::AUTH, auth.auth)?;
        small(pass, schema::AUTH_ROLES, auth.roles)?;
        small(pass, schema::AUTH_USERS, auth.users)?;
        small(pass, schema::CLUSTER, cluster())?;
        self.walk_versions(pass)?;
        self.walk_leases(pass)?;
        small(pass, schema::MEMBERS, self.member_records())?;
        small(pass, schema::MEMBERS_REMOVED, Vec::new())?;
        small(pass, schema::META, self.meta())
    }

    fn walk_versions(&self, pass: &mut dyn Pass) -> Result<(), SnapshotError> {
        pass.bucket(schema::KEY)?;
        let mut history = History::new(&self.image.view).peekable();
        let mut batch: Vec<(&[u8], &Version)> = Vec::with_capacity(READ_VALUES);
        while history.peek().is_some() {
            batch.clear();
            let mut bytes = 0;
            while batch.len() < READ_VALUES
                && bytes < READ_BYTES
                && let Some(next) = history.next()
            {
                bytes += next.1.location.length as usize;
                batch.push(next);
            }
            pass.versions(&self.image, &batch)?;
        }
        Ok(())
    }

    fn walk_leases(&self, pass: &mut dyn Pass) -> Result<(), SnapshotError> {
        pass.bucket(schema::LEASE)?;
        // Identities are in signed order; negative ones come last on disk.
        let (negative, positive): (Vec<_>, Vec<_>) =
            self.image.leases.iter().partition(|lease| lease.id.0 < 0);
        for &lease in positive.into_iter().chain(negative) {
            let value = schema::LeaseRecord::from(lease).encode_to_vec();
            pass.entry(&schema::lease_key(lease.id), value.len(), &value)?;
        }
        Ok(())
    }

    fn alarms(&self) -> Records {
        let alarms = self.image.alarms.iter().map(schema::AlarmRecord::from);
        let mut records: Records = alarms
            .map(|record| (record.encode_to_vec(), Vec::new()))
            .collect();
        records.sort();
        records
    }

    fn member_records(&self) -> Records {
        let record = |member: &Member| {
            let urls = |urls: &str| -> Vec<String> {
                let several = urls.split(',').filter(|url| !url.is_empty());
                several.map(str::to_owned).collect()
            };
            let mut value = json!({
                "id": member.id,
                "peerURLs": urls(&member.peer_url),
                "name": member.name,
                "clientURLs": urls(&member.client_url),
            });
            if member.learner {
                value["isLearner"] = true.into();
            }
            let key = format!("{:x}", member.id).into_bytes();
            (key, value.to_string().into_bytes())
        };
        let mut records: Vec<_> = self.members.iter().map(record).collect();
        records.sort();
        records
    }

    fn meta(&self) -> Records {
        let ids = |learner| -> Vec<u64> {
            let members = self.members.iter();
            let of_kind = members.filter(|member| member.learner == learner);
            of_kind.map(|member| member.id).collect()
        };
        let mut voters = json!({ "voters": ids(false), "auto_leave": false });
        if self.members.iter().any(|member| member.learner) {
            voters["learners"] = ids(true).into();
        }
        let applied = self.image.applied;
        let mut records = vec![
            (schema::META_VOTERS, voters.to_string().into_bytes()),
            (schema::META_INDEX, applied.index.to_be_bytes().to_vec()),
            (schema::META_TERM, applied.term.to_be_bytes().to_vec()),
        ];
        if let Some(revision) = self.image.view.compacted {
            // What it did away with is not in the snapshot: for the reader it is finished.
            let value = schema::encode_compaction(revision);
            records.push((schema::META_COMPACTED, value.clone()));
            records.push((schema::META_COMPACTION, value));
        }
        let mut records: Vec<_> = records
            .into_iter()
            .map(|(key, value)| (key.to_vec(), value))
            .collect();
        records.sort();
        records
    }
}

/// A bucket that fits in memory.
fn small(pass: &mut dyn Pass, name: &[u8], entries: Records) -> Result<(), SnapshotError> {
    pass.bucket(name)?;
    for (key, value) in entries {
        pass.entry(&key, value.len(), &value)?;
    }
    Ok(())
}

fn cluster() -> Records {
    vec![(
        schema::CLUSTER_VERSION.to_vec(),
        CLUSTER_VERSION.as_bytes().to_vec(),
    )]
}

/// One pass over everything.
trait Pass {
    fn bucket(&mut self, name: &[u8]) -> Result<(), SnapshotError>;
    fn entry(&mut self, key: &[u8], value_bytes: usize, value: &[u8]) -> Result<(), SnapshotError>;
    fn versions(
        &mut self,
        image: &StateImage,
        versions: &[(&[u8], &Version)],
    ) -> Result<(), SnapshotError>;
}

struct Planning<'a> {
    planner: Planner,
    receiver: &'a mut dyn Receiver,
}

impl Pass for Planning<'_> {
    fn bucket(&mut self, name: &[u8]) -> Result<(), SnapshotError> {
        Ok(self.planner.bucket(name)?)
    }

    fn entry(&mut self, key: &[u8], value_bytes: usize, _: &[u8]) -> Result<(), SnapshotError> {
        Ok(self.planner.entry(key, value_bytes)?)
    }

    fn versions(
        &mut self,
        _: &StateImage,
        versions: &[(&[u8], &Version)],
    ) -> Result<(), SnapshotError> {
        for (key, version) in versions {
            let place = schema::RevisionKey::of(version).encode();
            self.planner
                .entry(&place, schema::pair_bytes(key, version))?;
        }
        if self.receiver.wants_more() {
            Ok(())
        } else {
            Err(SnapshotError::Cancelled)
        }
    }
}

struct Writing<'a> {
    writer: Writer,
    /// Of the file, not yet with the receiver.
    remaining_bytes: u64,
    pending: BytesMut,
    sum: digest::Context,
    receiver: &'a mut dyn Receiver,
}

impl Writing<'_> {
    /// Hands over what is ready, in whole chunks.
    fn hand_over(&mut self) -> Result<(), SnapshotError> {
        if self.writer.ready_bytes() < CHUNK_BYTES {
            return Ok(());
        }
        self.pending.extend_from_slice(&self.writer.take());
        while self.pending.len() >= CHUNK_BYTES {
            let chunk = self.pending.split_to(CHUNK_BYTES);
            self.hand(chunk.freeze())?;
        }
        Ok(())
    }

    fn hand(&mut self, bytes: Bytes) -> Result<(), SnapshotError> {
        self.sum.update(&bytes);
        self.remaining_bytes = self
            .remaining_bytes
            .checked_sub(bytes.len() as u64)
            .ok_or(WriteError::Differs)?;
        let chunk = Chunk {
            bytes,
            remaining_bytes: self.remaining_bytes,
        };
        if self.receiver.take(chunk) {
            Ok(())
        } else {
            Err(SnapshotError::Cancelled)
        }
    }

    fn finish(mut self) -> Result<(), SnapshotError> {
        self.writer.finish()?;
        self.pending.extend_from_slice(&self.writer.take());
        while !self.pending.is_empty() {
            let length = self.pending.len().min(CHUNK_BYTES);
            let chunk = self.pending.split_to(length);
            self.hand(chunk.freeze())?;
        }
        if self.remaining_bytes != 0 {
            return Err(WriteError::Differs.into());
        }
        let sum = self.sum.finish();
        let chunk = Chunk {
            bytes: Bytes::copy_from_slice(sum.as_ref()),
            remaining_bytes: 0,
        };
        if self.receiver.take(chunk) {
            Ok(())
        } else {
            Err(SnapshotError::Cancelled)
        }
    }
}

impl Pass for Writing<'_> {
    fn bucket(&mut self, name: &[u8]) -> Result<(), SnapshotError> {
        Ok(self.writer.bucket(name)?)
    }

    fn entry(&mut self, key: &[u8], _: usize, value: &[u8]) -> Result<(), SnapshotError> {
        self.writer.entry(key, value)?;
        self.hand_over()
    }

    fn versions(
        &mut self,
        image: &StateImage,
        versions: &[(&[u8], &Version)],
    ) -> Result<(), SnapshotError> {
        let locations: Vec<Location> = versions
            .iter()
            .map(|(_, version)| version.location)
            .collect();
        let values = image.values(&locations)?;
        for ((key, version), value) in versions.iter().zip(values) {
            let place = schema::RevisionKey::of(version).encode();
            let record = schema::pair(key, version, value).encode_to_vec();
            self.entry(&place, record.len(), &record)?;
        }
        Ok(())
    }
}
