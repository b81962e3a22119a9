//! The replicated state: what the log is applied to.

mod codec;
mod command;
mod wire;

pub use codec::DecodeError;
pub use command::{Command, CommandError, Outcome, Response};
