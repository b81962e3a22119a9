//! The etcd v3 messages, services and clients, generated from `proto/`.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    rust_2018_idioms,
    clippy::all
)]

/// Keys, values and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Users, roles and permissions.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// Requests, responses, services (`*_server`) and clients (`*_client`).
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
