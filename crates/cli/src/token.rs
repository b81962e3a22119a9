//! `trivet token`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use trivet_env::{RealRng, Rng};

use crate::args::{TokenArgs, TokenCommand};
use crate::paths;

pub(crate) fn run(args: &TokenArgs) -> Result<()> {
    match &args.command {
        TokenCommand::Show { agent, data_dir } => {
            let data_dir = paths::data_dir(data_dir.as_deref());
            let name = if *agent { "agent-token" } else { "token" };
            println!("{}", read(&data_dir.join("server").join(name))?);
            Ok(())
        }
        TokenCommand::Generate => {
            let mut bytes = [0; 16];
            RealRng.fill(&mut bytes);
            println!("{}", trivet_pki::hex_encode(&bytes));
            Ok(())
        }
    }
}

fn read(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read {}: run this on a server, as its user, with the server's --data-dir",
            path.display()
        )
    })?;
    if text.trim().is_empty() {
        bail!("{} is empty", path.display());
    }
    Ok(text.trim().to_owned())
}
