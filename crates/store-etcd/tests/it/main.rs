//! Behaviour of open stores: as a datastore, to etcd clients, and to the real `etcdctl`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod auth;
mod backend;
mod cluster;
mod conformance;
mod contents;
mod divergences;
mod election;
mod etcdctl;
mod full_disk;
mod gateway;
mod genuine;
mod health;
mod hostile;
mod http;
mod http_client;
mod import;
mod kubernetes;
mod kv;
mod lease;
mod limits;
mod lock;
mod python;
mod snapshot;
mod support;
mod tour;
mod traps;
mod watch;
