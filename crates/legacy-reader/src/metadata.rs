//! Raft's term and vote, in `metadata1` and `metadata2`. Not needed to read the data.

use trivet_datastore::ReadOnlyDir;

use crate::damage::Fault;
use crate::input::{Input, u64_at};

const BYTES: u64 = 32;

/// Term and vote of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Counts up with every change.
    pub version: u64,
    /// The newest term that the server knew.
    pub term: u64,
    /// Whom it voted for in that term, 0 for nobody.
    pub voted_for: u64,
}

/// `None` for a file that is missing, or too short because power went while it was written;
/// raft itself takes both for absent.
pub(crate) fn read(dir: &dyn ReadOnlyDir, path: &str) -> Result<Option<Metadata>, Fault> {
    let Some(mut input) = Input::open(dir, path)? else {
        return Ok(None);
    };
    if input.len() < BYTES {
        return Ok(None);
    }
    if input.len() > BYTES {
        return Err(Fault::bad(
            BYTES,
            format!("{} bytes instead of {BYTES}", input.len()),
        ));
    }
    let mut bytes = [0; BYTES as usize];
    input.exact(&mut bytes)?;
    if u64_at(&bytes, 0) != 1 {
        return Err(Fault::bad(
            0,
            format!("format {} instead of 1", u64_at(&bytes, 0)),
        ));
    }
    Ok(Some(Metadata {
        version: u64_at(&bytes, 8),
        term: u64_at(&bytes, 16),
        voted_for: u64_at(&bytes, 24),
    }))
}
