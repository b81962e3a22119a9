//! Tests of users, roles, permissions and tokens against what etcd does.

#![allow(clippy::unwrap_used)]

mod jwt;
mod model;
mod rules;
