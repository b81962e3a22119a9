//! What the Kubernetes API is made of, as data and pure functions.
//!
//! * [`resource`]: the table of served kinds; a new kind is a row here plus data in `data/`.
//! * [`schema`]: field tables (types, list keys, patch strategy, protobuf numbers), generated.
//! * [`codec`]: JSON, YAML and protobuf bodies to and from [`serde_json::Value`].
//! * [`patch`], [`selector`], [`rules`]: the algebra of writes and reads.
//! * [`table`], [`partial`], [`discovery`], [`openapi`], [`status`]: the documents clients expect.
//! * [`meta`], [`duration`], [`quantity`]: small parts.
//!
//! Nothing here does I/O, reads a clock or draws randomness: time and random bytes are arguments.
//! No function panics on input from outside; every parser has a size or depth limit.

pub mod codec;
pub mod discovery;
pub mod duration;
pub mod meta;
pub mod openapi;
pub mod partial;
pub mod patch;
pub mod quantity;
pub mod resource;
pub mod rules;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;

pub use resource::{
    RESOURCES, ResourceInfo, Subresource, Verb, find, find_kind, from_storage, group_versions,
    to_storage,
};
pub use status::{FieldError, FieldErrorKind, Status};
