//! The survey as a [`Backend`], so that the guard of a server can ask it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use trivet_datastore::{Backend, BackendConfig, Datastore, Error, Footprint, ReadOnlyDir, Result};

use crate::survey::{Kind, survey};

/// What somebody who kept old data needs to know to go on with it.
const LAST_RELEASE: &str = "K3s 1.18 is the last that runs on dqlite";

/// Recognises what old servers of K3s left behind. It cannot be opened as a store.
#[derive(Debug, Clone)]
pub struct LegacyProbe {
    scratch: PathBuf,
}

impl LegacyProbe {
    /// Databases are rebuilt in a file below `scratch` to count what is in them.
    pub fn new(scratch: impl Into<PathBuf>) -> Self {
        Self {
            scratch: scratch.into(),
        }
    }
}

#[async_trait]
impl Backend for LegacyProbe {
    fn name(&self) -> &str {
        "dqlite-legacy"
    }

    fn replicated(&self) -> bool {
        false
    }

    fn probe(&self, db_dir: &dyn ReadOnlyDir) -> io::Result<Vec<Footprint>> {
        Ok(survey(db_dir, &self.scratch)?
            .into_iter()
            .filter(|finding| finding.blocks)
            .map(|finding| Footprint {
                backend: finding.kind.name().to_owned(),
                description: match finding.kind {
                    Kind::K3sDqlite => format!("{}; {LAST_RELEASE}", finding.describe()),
                    _ => finding.describe(),
                },
                path: finding.path.into(),
            })
            .collect())
    }

    async fn open(&self, _config: BackendConfig) -> Result<Arc<dyn Datastore>> {
        Err(Error::Unsupported(
            "running on the data of an old K3s server",
        ))
    }
}
