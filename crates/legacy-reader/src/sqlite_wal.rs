//! SQLite's write-ahead log, read the way SQLite reads it: up to the last commit whose chain of
//! checksums holds.

use std::io::{self, Read};

use crate::damage::Fault;
use crate::image::{Image, is_page_size, source_error};

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The lowest bit of the magic number says how words are read for the checksum.
const MAGIC: u32 = 0x377F_0682;

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// SQLite's running checksum over pairs of words.
fn checksum(big_endian: bool, mut sums: (u32, u32), bytes: &[u8]) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        let word = |at: usize| {
            let word = pair[at..at + 4].try_into().expect("four bytes");
            if big_endian {
                u32::from_be_bytes(word)
            } else {
                u32::from_le_bytes(word)
            }
        };
        sums.0 = sums.0.wrapping_add(word(0)).wrapping_add(sums.1);
        sums.1 = sums.1.wrapping_add(word(4)).wrapping_add(sums.0);
    }
    sums
}

/// Reads exactly that much, or says at which offset the input ended.
fn exact(input: &mut dyn Read, buffer: &mut [u8], offset: u64) -> Result<(), Fault> {
    input.read_exact(buffer).map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Fault::bad(offset, "the file ends here, inside the write-ahead log")
        } else {
            source_error(error, offset)
        }
    })
}

/// Applies `bytes` of log to the image. Frames after the last valid commit are the remains of
/// transactions that were rolled back, or of an older generation of the log: normal, and
/// ignored. `offset` is where the log begins in the file it is read from.
pub(crate) fn apply(
    input: &mut dyn Read,
    bytes: u64,
    image: &mut Image,
    offset: u64,
) -> Result<(), Fault> {
    if bytes == 0 {
        return Ok(());
    }
    if bytes < HEADER as u64 {
        return Err(Fault::bad(
            offset,
            format!("a write-ahead log of {bytes} bytes, shorter than its header"),
        ));
    }
    let mut header = [0; HEADER];
    exact(input, &mut header, offset)?;
    let magic = be32(&header, 0);
    let page_bytes = be32(&header, 8);
    if magic & !1 != MAGIC || !is_page_size(page_bytes) {
        return Err(Fault::bad(offset, "no header of a SQLite write-ahead log"));
    }
    let big_endian = magic & 1 == 1;
    let mut sums = checksum(big_endian, (0, 0), &header[..24]);
    if sums != (be32(&header, 24), be32(&header, 28)) {
        return Err(Fault::bad(
            offset,
            "the checksum of the write-ahead log's header is wrong",
        ));
    }
    image.expect_page_bytes(page_bytes, offset + 8)?;
    let mut at = offset + HEADER as u64;
    let end = offset + bytes;
    let frame_bytes = FRAME_HEADER as u64 + u64::from(page_bytes);
    let (mut frame, mut page) = ([0; FRAME_HEADER], vec![0; page_bytes as usize]);
    let mut valid = true;
    while end - at >= frame_bytes {
        exact(input, &mut frame, at)?;
        exact(input, &mut page, at + FRAME_HEADER as u64)?;
        if valid {
            sums = checksum(big_endian, sums, &frame[..8]);
            sums = checksum(big_endian, sums, &page);
            valid = frame[8..16] == header[16..24]
                && sums == (be32(&frame, 16), be32(&frame, 20))
                && be32(&frame, 0) != 0;
        }
        if valid {
            image.write(be32(&frame, 0), &page, at)?;
            match be32(&frame, 4) {
                0 => {}
                pages => image.commit(Some(pages), at)?,
            }
        }
        at += frame_bytes;
    }
    // A frame that was being written when the file was copied.
    let mut rest = vec![0; (end - at) as usize];
    exact(input, &mut rest, at)?;
    image.rollback();
    Ok(())
}
