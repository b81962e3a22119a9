//! From flags to a node's settings; shared by servers and agents.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use trivet_agent::{NodeConfig, Taint};
use trivet_env::Env;
use trivet_join::Token;
use trivet_pki::Secret;

use crate::args::{JoinArgs, NodeArgs, ToleratedArgs};
use crate::failure::Failure;
use crate::paths;

/// The Kubernetes version that nodes show.
pub(crate) const KUBERNETES_VERSION: &str = trivet_core::VERSION;

/// What stands in for a secret.
const MASK: &str = "********";

/// Flags whose value is a secret.
const SECRET_FLAGS: [&str; 4] = ["--token", "-t", "--agent-token", "--cluster-secret"];

/// Variables whose value is a secret.
const SECRET_VARIABLES: [&str; 5] = [
    "K3S_TOKEN",
    "K3S_AGENT_TOKEN",
    "K3S_CLUSTER_SECRET",
    "K3S_DATASTORE_ENDPOINT",
    "K3S_VPN_AUTH",
];

/// The node's settings, checked.
pub(crate) fn config(
    args: &NodeArgs,
    identity_dir: &Path,
    shown_arguments: Vec<String>,
    env: &Env,
) -> Result<NodeConfig, Failure> {
    let host_name = trivet_agent::host_name();
    let wanted = args.node_name.as_deref().unwrap_or(&host_name);
    let name = trivet_agent::node_name(wanted, args.with_node_id, identity_dir, env.rng.as_ref())
        .map_err(Failure::usage)?;
    let internal_ips = match args.node_ip.as_slice() {
        [] => vec![trivet_agent::default_address()],
        given => given.to_vec(),
    };
    let labels = args
        .node_label
        .iter()
        .map(|label| trivet_agent::parse_label(label))
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::usage(format!("--node-label: {error}")))?;
    let taints = args
        .node_taint
        .iter()
        .map(|taint| Taint::parse(taint))
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::usage(format!("--node-taint: {error}")))?;
    Ok(NodeConfig {
        name,
        host_name,
        internal_ips,
        external_ips: args.node_external_ip.clone(),
        labels,
        taints,
        args: shown_arguments,
        env: shown_environment(),
        version: KUBERNETES_VERSION.into(),
    })
}

/// Where the node's password and identity are kept: K3s's place for the machine's one node, and
/// inside the data directory for further nodes on the same machine.
pub(crate) fn identity_dir(args: &NodeArgs, data_dir: &Path) -> PathBuf {
    let whole_machine = paths::is_root() && data_dir == paths::data_dir(None);
    args.node_identity_dir
        .clone()
        .unwrap_or_else(|| trivet_agent::default_dir(whole_machine, data_dir))
}

/// The secret as typed: the file beats the flag, an empty text counts as none.
pub(crate) fn secret(
    name: &str,
    flag: Option<&str>,
    file: Option<&Path>,
) -> Result<Option<Secret>, Failure> {
    let text = match file {
        Some(path) => std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("--{name}-file {}: {error}", path.display()))
        })?,
        None => flag.unwrap_or_default().to_owned(),
    };
    let text = text.trim();
    Ok((!text.is_empty()).then(|| Secret::new(text)))
}

/// The token to join with; an agent cannot do without.
pub(crate) fn required_token(args: &JoinArgs) -> Result<Token, Failure> {
    let secret = secret("token", args.token.as_deref(), args.token_file.as_deref())?.ok_or_else(|| {
        Failure::usage(
            "a token is required to join: set K3S_TOKEN, or pass --token-file; servers keep it in \
             <data-dir>/server/token",
        )
    })?;
    Token::parse(secret.expose()).map_err(Failure::usage)
}

/// Says once what is accepted but not done.
pub(crate) fn warn_tolerated(args: &ToleratedArgs) {
    let given = args.given();
    if !given.is_empty() {
        tracing::warn!(
            flags = given.join(" "),
            "accepted for compatibility, without effect"
        );
    }
}

/// The arguments after the program's name with secrets masked, for the node's annotation.
pub(crate) fn masked_arguments(arguments: &[OsString]) -> Vec<String> {
    let mut shown = Vec::new();
    let mut mask_next = false;
    for argument in arguments.iter().skip(1) {
        let text = argument.to_string_lossy();
        if mask_next {
            shown.push(MASK.to_owned());
            mask_next = false;
        } else if SECRET_FLAGS.contains(&text.as_ref()) {
            shown.push(text.into_owned());
            mask_next = true;
        } else if let Some((flag, _)) = text.split_once('=')
            && SECRET_FLAGS.contains(&flag)
        {
            shown.push(format!("{flag}={MASK}"));
        } else if text.starts_with("-t") && !text.starts_with("--") {
            shown.push(format!("-t{MASK}"));
        } else {
            shown.push(text.into_owned());
        }
    }
    shown
}

fn shown_environment() -> Vec<(String, String)> {
    let mut shown: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("K3S_"))
        .map(|(name, value)| {
            let secret = SECRET_VARIABLES.contains(&name.as_str());
            (name, if secret { MASK.to_owned() } else { value })
        })
        .collect();
    shown.sort();
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_in_every_spelling() {
        let arguments: Vec<OsString> = [
            "trivet",
            "server",
            "--token",
            "s1",
            "--agent-token=s2",
            "-ts3",
            "-t",
            "s4",
            "--tls-san=x",
        ]
        .map(OsString::from)
        .into();
        let shown = masked_arguments(&arguments).join(" ");
        assert_eq!(
            shown,
            "server --token ******** --agent-token=******** -t******** -t ******** --tls-san=x"
        );
    }

    #[test]
    fn the_file_beats_the_flag() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "filed\n").unwrap();
        let found = secret("token", Some("typed"), Some(&path))
            .unwrap()
            .unwrap();
        assert_eq!(found.expose(), "filed");
        assert!(secret("token", Some(" "), None).unwrap().is_none());
        assert!(secret("token", None, Some(Path::new("/nowhere"))).is_err());
    }
}
