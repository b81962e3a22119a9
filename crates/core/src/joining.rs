//! The checks of a server that wants to join. Nothing is written here.

use std::net::SocketAddr;
use std::time::Duration;

use trivet_join::{
    BootstrapBundle, ConnectOptions, DbInfo, DbMember, JoinError, Role, Supervisor, Token,
};
use trivet_pki::Secret;

use crate::config::Config;
use crate::passwd::Passwd;
use crate::{StartError, identity};

/// Time for a connection and for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// How often a line says what is being waited for.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(5);

/// In which state a server asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// It has no store.
    New,
    /// Its store was left half-made by an earlier attempt, and will go on from there.
    Unfinished,
    /// It is a member that lost the shared files.
    Member,
}

/// What a server that was accepted got.
#[derive(Debug)]
pub(crate) struct Admission {
    /// CAs, keys and passwords, checked.
    pub(crate) bundle: BootstrapBundle,
    /// Where the members' stores can be reached, the asked server's first.
    pub(crate) peer_urls: Vec<String>,
}

/// Asks `url` until it accepts or refuses. A server that answers "not ready" is waited for; one
/// that cannot be reached is tried for [`Config::join_timeout`].
pub(crate) async fn ask(config: &Config, url: &str, asker: Asker) -> Result<Admission, StartError> {
    let Some(token) = config.token.clone() else {
        return Err(JoinError::NoToken {
            url: url.to_owned(),
        }
        .into());
    };
    let clock = &config.env.clock;
    let started = clock.monotonic();
    let (mut unreachable_since, mut told_at) = (None, None);
    loop {
        let error = match attempt(config, url, &token, asker).await {
            Err(StartError::Join(error)) if error.is_transient() => error,
            other => return other,
        };
        let now = clock.monotonic();
        if let JoinError::Unreachable { .. } = error {
            let since = *unreachable_since.get_or_insert(now);
            if now.saturating_sub(since) >= config.join_timeout {
                return Err(error.into());
            }
        } else {
            unreachable_since = None;
        }
        if told_at.is_none_or(|at| now.saturating_sub(at) >= MESSAGE_INTERVAL) {
            told_at = Some(now);
            let waited_seconds = now.saturating_sub(started).as_secs();
            tracing::info!(server = url, waited_seconds, reason = %error, "waiting for the server to join");
        }
        tokio::time::sleep(PAUSE.min(config.join_timeout)).await;
    }
}

/// One attempt: token, CA, settings, shared files, names.
async fn attempt(
    config: &Config,
    url: &str,
    token: &Token,
    asker: Asker,
) -> Result<Admission, StartError> {
    let options = ConnectOptions {
        url: url.to_owned(),
        dial: None,
        token: token.clone(),
        role: Role::Server,
        now: config.env.clock.wall(),
        timeout: TIMEOUT,
    };
    let server = Supervisor::connect(&options).await?;
    let theirs = match server.settings().await {
        Ok(theirs) => theirs,
        Err(JoinError::WrongToken { address }) => {
            return Err(why_refused(&server, &token.password(), address)
                .await
                .into());
        }
        Err(error) => return Err(error.into()),
    };
    let differences = config.settings.differences(&theirs);
    if !differences.is_empty() {
        return Err(StartError::SettingsDiffer { differences });
    }
    let bundle = server.server_bootstrap().await?;
    identity::check_bundle(&config.layout, &bundle)?;
    check_agent_token(config, &bundle)?;
    let info = server.db_info().await?;
    if asker != Asker::Member {
        let own = identity::known_member_name(config)?;
        match name_in_use(&config.node_name, own.as_deref(), &info) {
            NameUse::Free => {}
            NameUse::Own(_) if asker == Asker::Unfinished => {}
            // It never had any data, so it never voted and nothing depends on it.
            NameUse::Own(member) if member.is_learner => {
                remove_leftover(&server, &member.name).await?;
            }
            NameUse::Own(member) | NameUse::Taken(member)
                if was_this_machine(config, &server, member).await =>
            {
                remove_leftover(&server, &member.name).await?;
            }
            NameUse::Own(member) | NameUse::Taken(member) => {
                return Err(StartError::DuplicateNode {
                    node: config.node_name.clone(),
                    member: member.name.clone(),
                    id: member.id,
                    peer_url: member.peer_urls.first().cloned().unwrap_or_default(),
                });
            }
        }
    }
    Ok(Admission {
        bundle,
        peer_urls: peer_urls(&info, url),
    })
}

/// The server token was refused: is it the agents'?
async fn why_refused(server: &Supervisor, password: &Secret, address: String) -> JoinError {
    let auth = trivet_https::Auth::Basic {
        user: Role::Node.user().to_owned(),
        password: password.clone(),
    };
    let as_agent = match server.with_auth(auth) {
        Ok(server) => server.settings().await.is_ok(),
        Err(_) => false,
    };
    if as_agent {
        JoinError::AgentTokenForServer { address }
    } else {
        JoinError::WrongToken { address }
    }
}

fn check_agent_token(config: &Config, bundle: &BootstrapBundle) -> Result<(), StartError> {
    let Some(ours) = &config.agent_token else {
        return Ok(());
    };
    let text = bundle
        .files
        .get("PasswdFile")
        .map(|file| String::from_utf8_lossy(&file.content).into_owned());
    let theirs = Passwd::parse(&text.unwrap_or_default());
    if theirs.password("node") == Some(ours) {
        return Ok(());
    }
    Err(StartError::SettingsDiffer {
        differences: vec![trivet_join::SettingDifference {
            flag: "--agent-token",
            ours: "one token".to_owned(),
            theirs: "another".to_owned(),
        }],
    })
}

/// Who has the node name in the cluster.
#[derive(Debug)]
enum NameUse<'a> {
    /// Nobody.
    Free,
    /// Another server.
    Taken(&'a DbMember),
    /// An earlier attempt of this server.
    Own(&'a DbMember),
}

fn name_in_use<'a>(node: &str, own_member: Option<&str>, info: &'a DbInfo) -> NameUse<'a> {
    match info.members.iter().find(|member| member.node() == node) {
        None => NameUse::Free,
        Some(member) if Some(member.name.as_str()) == own_member => NameUse::Own(member),
        Some(member) => NameUse::Taken(member),
    }
}

/// Whether the member that has our name was this machine before its data was lost: it had our
/// peer address, and the cluster does not hear from it.
async fn was_this_machine(config: &Config, server: &Supervisor, member: &DbMember) -> bool {
    let address = SocketAddr::new(config.node_ip(), config.ports.peer);
    if !member.peer_urls.contains(&format!("https://{address}")) {
        return false;
    }
    let id = format!("{:x}", member.id);
    server.status().await.is_ok_and(|report| {
        let found = report.members.iter().find(|found| found.id == id);
        found.is_some_and(|found| found.reachable == Some(false))
    })
}

async fn remove_leftover(server: &Supervisor, member: &str) -> Result<(), StartError> {
    tracing::info!(member, "removing the member that this machine was before");
    server.remove_member(member).await.map_err(Into::into)
}

fn peer_urls(info: &DbInfo, asked: &str) -> Vec<String> {
    let host = asked
        .strip_prefix("https://")
        .and_then(|rest| rest.rsplit_once(':'))
        .map_or(asked, |(host, _)| host);
    let mut urls: Vec<String> = info
        .members
        .iter()
        .filter(|member| !member.is_learner)
        .flat_map(|member| member.peer_urls.clone())
        .collect();
    urls.sort_by_key(|url| !url.contains(&format!("//{host}:")));
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let info = DbInfo {
            members: vec![DbMember {
                id: 1,
                name: "server-1-00000001".to_owned(),
                peer_urls: vec!["https://10.0.0.1:2380".to_owned()],
                client_urls: Vec::new(),
                is_learner: false,
            }],
        };
        let used = |node: &str, own: Option<&str>| format!("{:?}", name_in_use(node, own, &info));
        assert_eq!(used("server-2", None), "Free");
        assert_eq!(used("server", None), "Free");
        assert!(used("server-1", None).starts_with("Taken"));
        assert!(used("server-1", Some("server-1-00000002")).starts_with("Taken"));
        assert!(used("server-1", Some("server-1-00000001")).starts_with("Own"));
    }

    #[test]
    fn the_asked_server_comes_first() {
        let member = |host: &str| DbMember {
            id: 1,
            name: String::new(),
            peer_urls: vec![format!("https://{host}:2380")],
            client_urls: Vec::new(),
            is_learner: false,
        };
        let info = DbInfo {
            members: vec![member("10.0.0.1"), member("10.0.0.2"), member("10.0.0.3")],
        };
        assert_eq!(
            peer_urls(&info, "https://10.0.0.2:6443")[0],
            "https://10.0.0.2:2380"
        );
        assert_eq!(peer_urls(&info, "https://lb.example:6443").len(), 3);
    }
}
