//! Side tables: replicated, small, beside keys and leases. They have frames of their own in
//! checkpoints and snapshot streams, and none while they are empty.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use trivet_etcd_auth::AuthState;
use trivet_mvcc::{LeaseId, LeaseInfo, LeaseTable};

use super::alarm::Alarms;
use super::auth;
use super::codec::DecodeError;
use super::frame::{KIND_ALARMS, KIND_AUTH, KIND_REMAINING};
use super::wire::{Reader, Writer};

/// Leases per frame.
const FRAME_LEASES: usize = 4096;
/// The auth table is framed in pieces of this size.
const FRAME_BYTES: usize = 1 << 20;
/// No auth table is larger.
const MAX_AUTH_BYTES: usize = 256 << 20;

/// All side tables. Clones share them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) alarms: Arc<Alarms>,
    pub(super) auth: Arc<AuthState>,
}

impl Side {
    /// Writes what there is as frames: first the checkpointed time of `leases`.
    pub(super) fn write<E>(
        &self,
        leases: &[LeaseInfo],
        mut frame: impl FnMut(u8, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let remaining: Vec<_> = leases
            .iter()
            .filter(|lease| lease.remaining_s > 0)
            .collect();
        for leases in remaining.chunks(FRAME_LEASES) {
            let mut out = Writer::default();
            out.number(leases.len() as u64);
            for lease in leases {
                out.signed(lease.id.0);
                out.number(lease.remaining_s);
            }
            frame(KIND_REMAINING, &out.0)?;
        }
        if !self.alarms.is_empty() {
            frame(KIND_ALARMS, &self.alarms.encode())?;
        }
        for piece in self.auth.encode().chunks(FRAME_BYTES) {
            frame(KIND_AUTH, piece)?;
        }
        Ok(())
    }
}

/// Puts the side tables together again.
#[derive(Default)]
pub(super) struct SideReader {
    alarms: Alarms,
    auth: BytesMut,
}

impl SideReader {
    /// Takes a frame; one that belongs to no side table is malformed. `leases` must be complete.
    pub(super) fn read(
        &mut self,
        kind: u8,
        payload: Bytes,
        leases: &mut LeaseTable,
    ) -> Result<(), DecodeError> {
        match kind {
            KIND_REMAINING => read_remaining(payload, leases),
            KIND_ALARMS if self.alarms.is_empty() => {
                self.alarms = Alarms::decode(payload)?;
                Ok(())
            }
            KIND_AUTH if self.auth.len() + payload.len() <= MAX_AUTH_BYTES => {
                self.auth.extend_from_slice(&payload);
                Ok(())
            }
            _ => Err(DecodeError::Malformed),
        }
    }

    pub(super) fn finish(self) -> Result<Side, DecodeError> {
        Ok(Side {
            alarms: Arc::new(self.alarms),
            auth: Arc::new(auth::decode(&self.auth)?),
        })
    }
}

fn read_remaining(payload: Bytes, leases: &mut LeaseTable) -> Result<(), DecodeError> {
    let mut input = Reader::new(payload);
    for _ in 0..input.count()? {
        let (id, remaining_s) = (LeaseId(input.signed()?), input.number()?);
        if !leases.set_remaining(id, remaining_s) {
            return Err(DecodeError::Malformed);
        }
    }
    input.end()
}
