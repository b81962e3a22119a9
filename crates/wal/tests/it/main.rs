//! Behaviour of the log on real and simulated disks.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod basic;
mod crash;
mod damage;
mod faults;
mod hooked;
mod model;
mod properties;
mod support;
