//! Tests of users, roles, permissions and tokens against what etcd does.

mod jwt;
mod model;
mod rules;
