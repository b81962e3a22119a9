//! Members on a simulated network, and on a real one.

mod basic;
mod toy;
