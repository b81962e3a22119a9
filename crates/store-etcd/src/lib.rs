//! Embedded etcd: MVCC on Raft, and the etcd v3 API.

pub mod proto;
pub mod state;
