//! Behaviour of the crate as the API server uses it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod codec;
mod fuzz;
mod patch;
mod rules;
mod strict;
