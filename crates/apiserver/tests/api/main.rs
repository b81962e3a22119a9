//! The API driven through `handle` over a store in memory.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test
#![allow(clippy::needless_pass_by_value)]

mod auth;
mod controllers;
mod fuzz;
mod harness;
mod reads;
mod store_faults;
mod watches;
mod writes;
