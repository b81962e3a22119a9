//! The files of several nodes beside each other: what each file alone cannot show.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::check::Report;
use crate::finding::{Finding, Kind};
use crate::flags;
use crate::source::Position;
use crate::start::{Role, Start};

const ARGS: &str = "k3os.k3s_args";

/// Flags with a value on which all servers must agree, with their defaults.
const AGREED_VALUES: &[(&str, &str)] = &[
    ("cluster-cidr", "10.42.0.0/16"),
    ("service-cidr", "10.43.0.0/16"),
    ("cluster-dns", ""),
    ("cluster-domain", "cluster.local"),
    ("flannel-backend", "vxlan"),
    ("egress-selector-mode", "agent"),
    ("agent-token", ""),
];
/// Switches on which all servers must agree.
const AGREED_SWITCHES: &[&str] = &[
    "disable-network-policy",
    "disable-cloud-controller",
    "disable-helm-controller",
    "secrets-encryption",
];

/// Adds what does not fit together to the reports of the files. Files that could not be read
/// are left out.
pub fn check(reports: &mut [Report]) {
    let mut findings: Vec<Vec<Finding>> = vec![Vec::new(); reports.len()];
    {
        let nodes: Vec<Node<'_>> = reports
            .iter()
            .enumerate()
            .filter(|(_, report)| !report.document.settings.is_empty())
            .map(|(index, report)| Node::new(index, report))
            .collect();
        let mut found = Vec::new();
        let servers: Vec<&Node<'_>> = nodes
            .iter()
            .filter(|node| node.start.role == Role::Server)
            .collect();
        let external = servers
            .iter()
            .any(|node| !node.values("datastore-endpoint").is_empty());
        let founder = if external {
            servers.first().copied()
        } else {
            founders(&servers, &mut found)
        };
        tokens(&nodes, founder, &mut found);
        names(&nodes, &mut found);
        if let Some(founder) = founder.or(servers.first().copied()) {
            for server in &servers {
                if server.index != founder.index {
                    agree(founder, server, &mut found);
                }
            }
        }
        targets(&nodes, &servers, &mut found);
        if let Some(last) = servers.last()
            && servers.len().is_multiple_of(2)
            && !external
        {
            let count = servers.len();
            let message = format!(
                "{count} servers survive no more failures than {}",
                count - 1
            );
            found.push((
                last.index,
                Finding::warning(Kind::EvenServerCount, Position::START, "-", message)
                    .help("use an odd number of servers")
                    .detail("servers", count.to_string()),
            ));
        }
        for (index, finding) in found {
            findings[index].push(finding);
        }
    }
    for (report, findings) in reports.iter_mut().zip(findings) {
        report.add(findings);
    }
}

type Found = Vec<(usize, Finding)>;

struct Node<'a> {
    index: usize,
    report: &'a Report,
    words: Vec<String>,
    start: Start,
}

impl<'a> Node<'a> {
    fn new(index: usize, report: &'a Report) -> Self {
        Self {
            index,
            report,
            words: report.document.words(),
            start: Start::of(&report.document),
        }
    }

    fn values(&self, flag: &str) -> Vec<(usize, &str)> {
        flags::values(&self.words, flag)
    }

    /// Values of a flag that takes lists.
    fn parts(&self, flag: &str) -> Vec<&str> {
        self.values(flag)
            .into_iter()
            .flat_map(|(_, value)| value.split(','))
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .collect()
    }

    fn joins(&self) -> bool {
        self.start.join_url().is_some()
    }

    /// Place and path of an argument.
    fn word(&self, index: usize) -> (Position, String) {
        let at = self
            .report
            .document
            .list(ARGS)
            .get(index)
            .map_or(Position::START, |item| item.at);
        (at, format!("{ARGS}[{index}]"))
    }

    /// Place and path of the arguments as a whole.
    fn arguments(&self) -> (Position, String) {
        self.report
            .document
            .get(ARGS)
            .map_or((Position::START, "-".to_owned()), |setting| {
                (setting.origin.key, ARGS.to_owned())
            })
    }

    /// Key, or flag, that names the server to join.
    fn join_place(&self) -> (Position, String) {
        if let Some((index, _)) = self.values("server").first() {
            return self.word(*index);
        }
        let path = "k3os.server_url";
        self.report.document.get(path).map_or_else(
            || self.arguments(),
            |setting| (setting.origin.key, path.to_owned()),
        )
    }

    fn founding_place(&self) -> (Position, String) {
        match flags::is_on(&self.words, "cluster-init") {
            Some(index) => self.word(index),
            None if !self.words.is_empty() => self.word(0),
            None => self.arguments(),
        }
    }

    fn token_place(&self) -> (Position, String) {
        if let Some((index, _)) = self.values("token").first() {
            return self.word(*index);
        }
        let path = "k3os.token";
        self.report.document.get(path).map_or_else(
            || self.arguments(),
            |setting| (setting.origin.value, path.to_owned()),
        )
    }

    fn name(&self) -> Option<(String, (Position, String))> {
        if let Some((index, name)) = self.values("node-name").last() {
            return Some((name.to_ascii_lowercase(), self.word(*index)));
        }
        let setting = self.report.document.get("hostname")?;
        let name = self.report.document.text("hostname")?;
        Some((
            name.to_ascii_lowercase(),
            (setting.origin.value, "hostname".to_owned()),
        ))
    }

    /// Names and addresses under which it is known to be reached.
    fn reachable(&self) -> BTreeSet<String> {
        let mut known: BTreeSet<String> = [
            "node-ip",
            "node-external-ip",
            "advertise-address",
            "bind-address",
            "tls-san",
        ]
        .iter()
        .flat_map(|flag| self.parts(flag))
        .map(str::to_ascii_lowercase)
        .collect();
        known.extend(self.name().map(|(name, _)| name));
        known.extend(
            self.report
                .document
                .text("hostname")
                .map(str::to_ascii_lowercase),
        );
        known
    }

    fn place(&self, at: Position) -> String {
        format!("{}:{at}", self.report.file)
    }
}

/// The server that founds the cluster.
fn founders<'n, 'a>(servers: &[&'n Node<'a>], found: &mut Found) -> Option<&'n Node<'a>> {
    let founding: Vec<&Node<'_>> = servers
        .iter()
        .copied()
        .filter(|node| !node.joins())
        .collect();
    let founder = servers
        .iter()
        .copied()
        .filter(|node| !node.joins())
        .min_by_key(|node| flags::is_on(&node.words, "cluster-init").is_none());
    let Some(founder) = founder else {
        if let Some(first) = servers.first() {
            let (at, path) = first.join_place();
            found.push((
                first.index,
                Finding::error(
                    Kind::NoBootstrapServer,
                    at,
                    path,
                    "every server joins another one; none founds the cluster",
                )
                .help("the first server has no server_url, and --cluster-init among its k3s_args"),
            ));
        }
        return None;
    };
    let (first, _) = founder.founding_place();
    for node in founding {
        if node.index != founder.index {
            let (at, path) = node.founding_place();
            found.push((
                node.index,
                Finding::error(
                    Kind::SecondBootstrapServer,
                    at,
                    path,
                    format!(
                        "founds a cluster of its own beside that of {}",
                        founder.report.file
                    ),
                )
                .help("give it the server_url of the first server, and no --cluster-init")
                .detail("other", founder.place(first)),
            ));
        }
    }
    Some(founder)
}

/// What two nodes must have in common: without the CA hash that full tokens carry.
fn secret_of(token: &str) -> &str {
    token
        .strip_prefix("K10")
        .and_then(|rest| rest.split_once("::"))
        .map_or(token, |(_, credentials)| {
            credentials
                .split_once(':')
                .map_or(credentials, |(_, secret)| secret)
        })
}

fn tokens(nodes: &[Node<'_>], founder: Option<&Node<'_>>, found: &mut Found) {
    let reference = founder
        .filter(|node| node.start.token().is_some())
        .or_else(|| {
            nodes
                .iter()
                .find(|node| node.start.role == Role::Server && node.start.token().is_some())
        })
        .or_else(|| nodes.iter().find(|node| node.start.token().is_some()));
    let Some((reference, expected)) =
        reference.and_then(|node| Some((node, secret_of(node.start.token()?))))
    else {
        return;
    };
    let (first, _) = reference.token_place();
    for node in nodes {
        let Some(token) = node.start.token().map(secret_of) else {
            continue;
        };
        let for_agents = node.start.role == Role::Agent
            && (reference
                .values("agent-token")
                .iter()
                .any(|(_, value)| secret_of(value) == token)
                || !reference.values("agent-token-file").is_empty());
        if token == expected || for_agents {
            continue;
        }
        let (at, path) = node.token_place();
        found.push((
            node.index,
            Finding::error(
                Kind::TokenMismatch,
                at,
                path,
                format!(
                    "not the token of {}; this node cannot join",
                    reference.report.file
                ),
            )
            .help("all nodes of a cluster have the same token")
            .detail("other", reference.place(first)),
        ));
    }
}

fn names(nodes: &[Node<'_>], found: &mut Found) {
    let mut first: HashMap<String, String> = HashMap::new();
    for node in nodes {
        let Some((name, (at, path))) = node.name() else {
            continue;
        };
        if flags::is_on(&node.words, "with-node-id").is_some() {
            continue;
        }
        match first.get(&name) {
            Some(other) => found.push((
                node.index,
                Finding::error(
                    Kind::DuplicateNodeName,
                    at,
                    path,
                    format!("{name} is the name of another node too; the second one is refused"),
                )
                .help("give every node a name of its own")
                .detail("other", other.clone()),
            )),
            None => {
                first.insert(name, node.place(at));
            }
        }
    }
}

fn agree(founder: &Node<'_>, server: &Node<'_>, found: &mut Found) {
    let mut differ = |flag: String, at: Option<usize>, message: String| {
        let (at, path) = match at {
            Some(index) => server.word(index),
            None => server.arguments(),
        };
        found.push((
            server.index,
            Finding::error(Kind::CriticalFlagMismatch, at, path, message)
                .help("give all servers the same; the join is refused otherwise")
                .detail("flag", flag),
        ));
    };
    let file = &founder.report.file;
    for (flag, default) in AGREED_VALUES {
        let of = |node: &Node<'_>| -> String {
            let values = node.parts(flag);
            if values.is_empty() {
                (*default).to_owned()
            } else {
                values.join(",")
            }
        };
        let (expected, got) = (of(founder), of(server));
        if expected != got {
            let message = match *flag {
                "agent-token" => format!("--{flag} is not that of {file}"),
                _ => format!("--{flag} is {got:?} here and {expected:?} in {file}"),
            };
            let at = server.values(flag).first().map(|(index, _)| *index);
            differ(format!("--{flag}"), at, message);
        }
    }
    for flag in AGREED_SWITCHES {
        let (expected, got) = (
            flags::is_on(&founder.words, flag),
            flags::is_on(&server.words, flag),
        );
        if expected.is_some() != got.is_some() {
            let message = if got.is_some() {
                format!("--{flag} is given here and not in {file}")
            } else {
                format!("--{flag} is given in {file} and not here")
            };
            differ(format!("--{flag}"), got, message);
        }
    }
    let disables = |node: &Node<'_>| {
        node.values("disable")
            .into_iter()
            .find(|(_, value)| value.split(',').any(|part| part.trim() == "servicelb"))
            .map(|(index, _)| index)
    };
    let (expected, got) = (disables(founder), disables(server));
    if expected.is_some() != got.is_some() {
        let message = if got.is_some() {
            format!("servicelb is disabled here and not in {file}")
        } else {
            format!("servicelb is disabled in {file} and not here")
        };
        differ("--disable=servicelb".to_owned(), got, message);
    }
}

/// URLs that lead to no server of the set. Only said when every server's addresses are known.
fn targets(nodes: &[Node<'_>], servers: &[&Node<'_>], found: &mut Found) {
    let is_address = |text: &String| text.parse::<IpAddr>().is_ok();
    for node in nodes {
        let Some(host) = node
            .start
            .join_url()
            .and_then(|url| url.strip_prefix("https://"))
            .map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default())
            .and_then(crate::check::split_authority)
            .map(|(host, _)| host.to_ascii_lowercase())
        else {
            continue;
        };
        let (at, path) = node.join_place();
        let warn = |message: String, help: &str| {
            Finding::warning(Kind::BadUrl, at, path.clone(), message).help(help)
        };
        let others: Vec<BTreeSet<String>> = servers
            .iter()
            .filter(|server| server.index != node.index)
            .map(|server| server.reachable())
            .collect();
        if others.iter().any(|known| known.contains(&host)) {
            continue;
        }
        if node.start.role == Role::Server && node.reachable().contains(&host) {
            found.push((
                node.index,
                warn(
                    format!("{host} is this server itself"),
                    "name the server that founds the cluster",
                ),
            ));
        } else if !others.is_empty() && others.iter().all(|known| known.iter().any(is_address)) {
            found.push((
                node.index,
                warn(
                    format!("{host} is no server of these files"),
                    "name the server that founds the cluster, or add the name to its --tls-san",
                ),
            ));
        }
    }
}
