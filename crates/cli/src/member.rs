//! `trivet member`.

use anyhow::{Context, Result, bail};

use crate::args::{MemberArgs, MemberCommand};
use crate::paths;

pub(crate) fn run(args: &MemberArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(answer(args))
}

async fn answer(args: &MemberArgs) -> Result<()> {
    let data_dir = paths::data_dir(args.data_dir.as_deref());
    let server = trivet_core::administrator(&data_dir, args.server.as_deref()).await?;
    let report = server.status().await?;
    match &args.command {
        MemberCommand::List => {
            for member in &report.members {
                println!("{}\t{}\t{}", member.id, member.name, member.role);
            }
            Ok(())
        }
        MemberCommand::Remove { member } => {
            let found = report
                .members
                .iter()
                .find(|found| found.name == *member || found.id == *member || found.node == *member)
                .with_context(|| {
                    format!("there is no member {member:?}; see `trivet member list`")
                })?;
            if found.reachable == Some(true) {
                bail!("member {} is running; stop that server first", found.name);
            }
            server.remove_member(&found.id).await?;
            println!("removed {} ({})", found.name, found.id);
            Ok(())
        }
    }
}
