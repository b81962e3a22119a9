//! HTTPS: a server loop and a client with a pinned CA.
//!
//! - [`serve`]: accepts on a listener that is passed in, handshakes beside `accept`, speaks
//!   HTTP/1.1 and h2 by ALPN, puts [`PeerIdentity`] and [`RemoteAddress`] into the request's
//!   extensions, and drains on shutdown.
//! - [`Client`]: one server, pinned CA or (to fetch a CA) none, client certificate or
//!   credentials, streaming or collected answers, every size and time bounded.
//!
//! **Invariants:** no process-wide state; a failed handshake or a broken connection never stops
//! the loop; credentials never appear in errors.

mod body;
mod client;
mod connect;
mod error;
mod server;

pub use body::{Body, BoxError, collect, empty, full, json};
pub use client::{Auth, Client, ClientBuilder};
pub use error::{Error, Result};
pub use server::{Limits, PeerIdentity, RemoteAddress, Server, serve};
