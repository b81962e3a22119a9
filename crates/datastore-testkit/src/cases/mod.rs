//! The cases. Each is one promise with a name; each starts from an empty store of its own.
//!
//! The list is in [`conformance!`](crate::conformance).

mod compaction;
mod concurrency;
mod expectations;
mod leases;
mod lifecycle;
mod members;
mod ranges;
mod watches;

use self::{
    compaction::*, concurrency::*, expectations::*, leases::*, lifecycle::*, members::*, ranges::*,
    watches::*,
};
use crate::Case;

pub(crate) const ALL: &[Case] = crate::conformance!(@table);
