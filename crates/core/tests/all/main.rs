//! A control plane from outside: one binary, one module per concern.
#![allow(clippy::unwrap_used, missing_docs)]

mod founding;
mod joining;
mod nodes;
mod world;
