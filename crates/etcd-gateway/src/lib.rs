//! JSON over HTTP in front of gRPC services, in the manner of etcd's gateway.
//!
//! - [`Gateway`]: turns a POST with a JSON body into a gRPC request for a service in the same
//!   process, and its answer back into JSON.
//! - [`json`]: messages to JSON and back, by their descriptors.
//!
//! Streams of messages are JSON values one after the other: in a request as they come, in an
//! answer one a line, wrapped as `{"result":…}`. What a service refuses is
//! `{"error":…,"code":…,"message":…}` under the HTTP status that fits.
//!
//! **Invariant:** this crate knows no message and no path of its own; both are given to it.

mod frames;
mod gateway;
pub mod json;
mod messages;
mod status;

pub use gateway::{Body, BoxError, Gateway, Limits, SetupError};
