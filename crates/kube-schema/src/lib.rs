//! kube-schema
