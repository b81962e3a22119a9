//! How a command fails: a message for people and an exit code for scripts.

use std::fmt;

use trivet_agent::AgentError;
use trivet_core::StartError;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    exit_code: u8,
}

impl Failure {
    /// Wrong flags, settings or environment: exit code 2.
    pub(crate) fn usage(error: impl fmt::Display) -> Self {
        Self {
            message: error.to_string(),
            exit_code: 2,
        }
    }

    /// Data in the way that is not to be left behind: exit code 3.
    pub(crate) fn foreign(error: impl fmt::Display) -> Self {
        Self {
            message: error.to_string(),
            exit_code: 3,
        }
    }

    /// Anything else: exit code 1, with every cause in the message.
    pub(crate) fn other(error: impl Into<anyhow::Error>) -> Self {
        let error: anyhow::Error = error.into();
        Self {
            message: chain(error.as_ref()),
            exit_code: 1,
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let exit_code = error.exit_code();
        Self {
            message: chain(&error),
            exit_code,
        }
    }
}

impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        let exit_code = match error {
            AgentError::Join(_) => 4,
            AgentError::Identity(_) => 2,
            AgentError::Balancer { .. } => 1,
        };
        Self {
            message: chain(&error),
            exit_code,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The error and its causes, without saying twice what an outer message already contains.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
