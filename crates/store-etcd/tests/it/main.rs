//! Behaviour of open stores: as a datastore, to etcd clients, and to the real `etcdctl`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod backend;
mod cluster;
mod conformance;
mod divergences;
mod etcdctl;
mod hostile;
mod kv;
mod lease;
mod limits;
mod support;
mod watch;
