//! Users, roles, permissions and tokens through gRPC.

mod access;
mod etcdctl;
mod members;
mod password;
mod somebody;
