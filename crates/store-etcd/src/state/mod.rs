//! The replicated state: what the log is applied to, and what is served from.
//!
//! [`Machine`] applies the log; [`Shared`] is the same state for readers, watchers and the
//! lease clock. In memory: the index of all versions ([`trivet_mvcc`]) and recent events. On
//! disk (`docs/formats/state.md`): values in append-only segments, and now and then a checkpoint
//! of the index. Nothing is synced when a command is applied: after a crash the log is applied
//! again from the newest checkpoint on.
//!
//! **Invariant:** what a checkpoint refers to is durable before the checkpoint is, and is not
//! removed before no kept checkpoint refers to it any more.

mod alarm;
mod auth;
mod build;
mod checkpoint;
mod codec;
mod command;
mod counters;
mod damage;
mod export;
mod frame;
mod image;
mod leases;
mod machine;
mod maintain;
mod open;
mod prefixes;
mod repair;
mod segments;
mod shared;
mod side;
mod snapshot;
mod watcher;
mod wire;

#[cfg(test)]
mod tests;

pub use alarm::{Alarm, AlarmAction, AlarmMember, Alarms};
pub use auth::Tokens;
pub(crate) use auth::{permits_txn, span};
pub(crate) use build::{Builder, Put, Record, Seed};
pub use codec::DecodeError;
pub use command::{Command, CommandError, Outcome, Response};
pub use export::Export;
pub use image::StateImage;
pub use leases::{Lagged, LeaseChange, LeaseChanges};
pub use machine::Machine;
pub use open::{Limits, OpenError, StateConfig, open};
pub use prefixes::PrefixUse;
pub(crate) use repair::{StateSurvey, rebuild, survey};
pub use shared::{ReadError, Shared, StateHash, StateSize};
pub(crate) use watcher::{Next, Recent, delivered, read_previous};
pub use watcher::{WatchError, WatchOp, Watcher};
