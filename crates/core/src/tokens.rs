//! Tokens for `trivet token`.

use std::path::Path;

use trivet_env::Rng;
use trivet_pki::Secret;

use crate::layout::Layout;
use crate::{StartError, files};

/// The full token that servers join with, from `<data-dir>/server/token`; `None` when there is
/// no server here.
pub fn server_token(data_dir: &Path) -> Result<Option<Secret>, StartError> {
    read(&Layout::new(data_dir).token())
}

/// The full token that agents join with, from `<data-dir>/server/agent-token`.
pub fn agent_token(data_dir: &Path) -> Result<Option<Secret>, StartError> {
    read(&Layout::new(data_dir).agent_token())
}

/// A new short token for `--token`: 32 hexadecimal digits.
pub fn generate(rng: &dyn Rng) -> Secret {
    trivet_join::random_password(rng)
}

fn read(path: &Path) -> Result<Option<Secret>, StartError> {
    Ok(files::read_text(path)?.map(|text| Secret::new(text.trim())))
}
