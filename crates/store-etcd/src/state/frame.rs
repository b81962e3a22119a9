//! Frames: the unit of checksums in checkpoints and snapshot streams.
//!
//! `kind: u8, length: u32, crc32c: u32, payload`; the checksum covers kind, length and payload.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes before the payload.
pub(super) const FRAME_HEADER: usize = 9;

/// No payload is longer: a value with its key fits, and a damaged length does not allocate
/// the memory away.
pub(super) const MAX_PAYLOAD: usize = 64 << 20;

pub(super) const KIND_HEAD: u8 = 1;
pub(super) const KIND_LEASES: u8 = 2;
pub(super) const KIND_RECORDS: u8 = 3;
pub(super) const KIND_END: u8 = 4;
pub(super) const KIND_REMAINING: u8 = 5;
pub(super) const KIND_ALARMS: u8 = 6;
pub(super) const KIND_AUTH: u8 = 7;

/// Where a stream stops making sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the length is out of bounds")]
    Length,
    #[error("the checksum is wrong")]
    Checksum,
}

fn checksum(kind: u8, payload: &[u8]) -> u32 {
    let mut head = [kind, 0, 0, 0, 0];
    head[1..].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}

/// Appends a frame.
pub(super) fn write_frame(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    assert!(
        payload.len() <= MAX_PAYLOAD,
        "writers keep frames far below the limit"
    );
    out.push(kind);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&checksum(kind, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Takes one whole frame off the front of `input`; `None` if it is not all there yet.
pub(super) fn take_frame(input: &mut BytesMut) -> Result<Option<(u8, Bytes)>, FrameError> {
    let Some((kind, length, crc)) = peek_frame(input)? else {
        return Ok(None);
    };
    if input.len() < FRAME_HEADER + length {
        return Ok(None);
    }
    input.advance(FRAME_HEADER);
    let payload = input.split_to(length).freeze();
    if checksum(kind, &payload) != crc {
        return Err(FrameError::Checksum);
    }
    Ok(Some((kind, payload)))
}

/// Reads a frame's header: kind, length of the payload, checksum.
fn peek_frame(input: &[u8]) -> Result<Option<(u8, usize, u32)>, FrameError> {
    let Some(mut header) = input.get(..FRAME_HEADER) else {
        return Ok(None);
    };
    let (kind, length, crc) = (
        header.get_u8(),
        header.get_u32_le() as usize,
        header.get_u32_le(),
    );
    if length > MAX_PAYLOAD {
        return Err(FrameError::Length);
    }
    Ok(Some((kind, length, crc)))
}
