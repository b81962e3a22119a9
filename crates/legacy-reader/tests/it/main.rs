//! Genuine directories, and bytes that never were any.
#![allow(clippy::unwrap_used)]

mod dqlite;
mod layouts;
mod sqlite;
mod support;
