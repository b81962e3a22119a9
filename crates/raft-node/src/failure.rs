//! The one place that remembers why a node stopped serving.

use std::fmt;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::Error;

/// Why the node serves nothing any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The log, the state machine or a task of the node failed.
    Failed(String),
    /// The cluster removed this member.
    Removed(String),
    /// [`crate::RaftNode::shutdown`] was called.
    Shutdown,
}

impl Stop {
    pub(crate) fn error(&self) -> Error {
        match self {
            Self::Failed(reason) => Error::Storage(reason.clone()),
            Self::Removed(_) | Self::Shutdown => Error::Stopped,
        }
    }

    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Self::Failed(reason) | Self::Removed(reason) => Some(reason.clone()),
            Self::Shutdown => None,
        }
    }
}

/// Set once; the first reason stays.
#[derive(Debug)]
pub(crate) struct Failure {
    stop: watch::Sender<Option<Stop>>,
    token: CancellationToken,
}

impl Failure {
    /// `token` is cancelled as soon as the node stops serving.
    pub(crate) fn new(token: CancellationToken) -> Self {
        Self {
            stop: watch::Sender::new(None),
            token,
        }
    }

    /// Cancelled when the node stops, whatever the reason.
    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// A final failure. Safe to call from any thread.
    pub(crate) fn set(&self, reason: &dyn fmt::Display) {
        self.stop(&Stop::Failed(reason.to_string()));
    }

    pub(crate) fn stop(&self, stop: &Stop) {
        let first = self.stop.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(stop.clone());
            }
            first
        });
        if first {
            match stop {
                Stop::Failed(reason) => {
                    tracing::error!(reason, "this member failed and serves nothing any more");
                }
                Stop::Removed(reason) => tracing::warn!(reason, "this member stopped"),
                Stop::Shutdown => {}
            }
            self.token.cancel();
        }
    }

    pub(crate) fn current(&self) -> Option<Stop> {
        self.stop.borrow().clone()
    }

    /// The error for a caller, once the node has stopped.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match &*self.stop.borrow() {
            Some(stop) => Err(stop.error()),
            None => Ok(()),
        }
    }

    pub(crate) async fn stopped(&self) -> Stop {
        let mut watch = self.stop.subscribe();
        loop {
            if let Some(stop) = watch.borrow_and_update().clone() {
                return stop;
            }
            // The sender lives in `self`.
            let _ = watch.changed().await;
        }
    }
}
