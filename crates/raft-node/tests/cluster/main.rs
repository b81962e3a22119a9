//! Members on a simulated network, and on a real one.

mod absurd;
mod basic;
mod faults;
mod founding;
mod fuzz;
mod healing;
mod membership;
mod power;
mod tls;
mod toy;
