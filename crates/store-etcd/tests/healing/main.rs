//! Damage of every kind, planted on one member of three and on a member alone.
#![allow(clippy::unwrap_used, missing_docs)]

mod cluster;
mod damage;
mod divergence;
mod repair;
mod table;
