//! The node that a configuration starts.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::config::Document;
use crate::flags;

/// What kind of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Control plane.
    Server,
    /// Worker.
    Agent,
}

impl Role {
    /// The subcommand.
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }
}

/// Command line and environment of a node.
#[derive(Clone, PartialEq, Eq)]
pub struct Start {
    /// Server or agent.
    pub role: Role,
    /// Arguments, the subcommand first.
    pub argv: Vec<String>,
    /// Environment; holds the token.
    pub env: BTreeMap<String, String>,
}

impl Start {
    /// Derives the node from a configuration.
    ///
    /// Arguments are `k3s_args`; without any the role decides (an agent if there is a URL to
    /// join). Labels and taints follow as flags. The token and the URL travel in the
    /// environment, on top of `environment`.
    pub fn of(document: &Document) -> Self {
        let mut argv = document.words();
        let mut env: BTreeMap<String, String> = document
            .map("k3os.environment")
            .iter()
            .map(|(name, item)| (name.clone(), item.text.clone()))
            .collect();
        for (path, name) in [("k3os.server_url", "K3S_URL"), ("k3os.token", "K3S_TOKEN")] {
            if let Some(value) = document.text(path) {
                env.insert(name.to_owned(), value.to_owned());
            }
        }
        let by_url = if env.get("K3S_URL").is_some_and(|url| !url.is_empty()) {
            Role::Agent
        } else {
            Role::Server
        };
        let role = match argv.first().map(String::as_str) {
            Some("server") => Role::Server,
            Some("agent") => Role::Agent,
            Some(word) if !word.starts_with('-') => by_url,
            _ => {
                argv.insert(0, by_url.name().to_owned());
                by_url
            }
        };
        let mut labels: Vec<String> = document
            .map("k3os.labels")
            .iter()
            .map(|(key, item)| format!("{key}={}", item.text))
            .collect();
        labels.sort();
        for label in labels {
            argv.extend(["--node-label".to_owned(), label]);
        }
        for taint in document.list("k3os.taints") {
            argv.extend(["--node-taint".to_owned(), taint.text.clone()]);
        }
        Self { role, argv, env }
    }

    /// The URL of the server to join, however it is given.
    pub fn join_url(&self) -> Option<&str> {
        flags::values(&self.argv, "server")
            .last()
            .map(|(_, value)| *value)
            .or_else(|| self.env.get("K3S_URL").map(String::as_str))
            .filter(|url| !url.is_empty())
    }

    /// Whether any form of token is given.
    pub(crate) fn has_token(&self) -> bool {
        ["token", "token-file"]
            .iter()
            .any(|flag| !flags::values(&self.argv, flag).is_empty())
            || ["K3S_TOKEN", "K3S_TOKEN_FILE"]
                .iter()
                .any(|name| self.env.get(*name).is_some_and(|value| !value.is_empty()))
    }

    /// The token, if it is given as text.
    pub(crate) fn token(&self) -> Option<&str> {
        flags::values(&self.argv, "token")
            .last()
            .map(|(_, value)| *value)
            .or_else(|| self.env.get("K3S_TOKEN").map(String::as_str))
            .filter(|token| !token.is_empty())
    }

    /// `role`, `argv` and `env`, secrets in clear.
    pub fn to_json(&self) -> Json {
        json!({ "role": self.role.name(), "argv": self.argv, "env": self.env })
    }
}

// The environment holds the token.
impl std::fmt::Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Start")
            .field("role", &self.role)
            .field("argv", &crate::secrets::mask_words(&self.argv))
            .finish_non_exhaustive()
    }
}
