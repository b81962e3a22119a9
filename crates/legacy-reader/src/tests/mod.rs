//! Directories made byte by byte: what the genuine ones do not show, and hostile ones.
#![allow(clippy::unwrap_used)]

mod build;
mod hostile;
mod replay;
