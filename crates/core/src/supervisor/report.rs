//! The state of the cluster, with and without a quorum.

use std::net::SocketAddr;
use std::time::Duration;

use trivet_datastore::{ClusterStatus, Member, MemberRole};
use trivet_join::{ClusterReport, MemberReport, Supervisor};
use trivet_pki::Identity;

use crate::config::Store;
use crate::shared::{Opened, Shared};
use crate::{VERSION, roles};

/// A member that the leader has not heard of for this long counts as unreachable.
const CONTACT_MAX: Duration = Duration::from_secs(3);

/// How long the leader may take to tell its view.
const LEADER_TIMEOUT: Duration = Duration::from_millis(1500);

/// What this server knows. Unless `local_only`, positions of the members come from the leader
/// where it can be asked.
pub(crate) async fn report(shared: &Shared, local_only: bool) -> ClusterReport {
    let config = &shared.config;
    let mut report = ClusterReport {
        node: config.node_name.clone(),
        version: VERSION.to_owned(),
        backend: config.store.name().to_owned(),
        waiting: shared.waiting(),
        ..ClusterReport::default()
    };
    let Some(opened) = shared.opened() else {
        report
            .advice
            .push("the datastore is not open yet".to_owned());
        return report;
    };
    report.ready = opened.api.is_ready();
    if !local_only {
        report.nodes = roles::nodes(&opened).await;
    }
    match opened.store.status().await {
        Ok(status) => {
            report.backend = status.backend;
            report.revision = status.revision.0;
            report.compact_revision = status.compact_revision.0;
            report.database_size_bytes = status.size_bytes;
            report.writable = status.writable;
            report.advice.extend(
                status
                    .problems
                    .iter()
                    .map(|problem| format!("the datastore: {problem}")),
            );
        }
        Err(error) => report
            .advice
            .push(format!("the datastore gives no status: {error}")),
    }
    let Some(cluster) = opened.store.cluster() else {
        report.tolerated_failures = Some(0);
        if matches!(config.store, Store::Kind(_)) {
            report.advice.push(
                "this datastore is not replicated: the data is on this server alone".to_owned(),
            );
        }
        return report;
    };
    let status = match cluster.status().await {
        Ok(status) => status,
        Err(error) => {
            report
                .advice
                .push(format!("the cluster gives no status: {error}"));
            return report;
        }
    };
    fill(&mut report, &status);
    let leader = status
        .members
        .into_iter()
        .find(|member| Some(member.id) == status.leader);
    if let Some(leader) = leader.filter(|_| !local_only && !report.leader_view) {
        match ask_leader(shared, &leader).await {
            Some(view) if view.leader_view => {
                report.members = view.members;
                report.tolerated_failures = view.tolerated_failures;
                report.leader_view = true;
            }
            _ => {}
        }
    }
    advise(&mut report);
    report
}

fn fill(report: &mut ClusterReport, status: &ClusterStatus) {
    report.cluster_id = format!("{:x}", status.cluster_id);
    report.local = status.local.to_string();
    report.leader = status.leader.map(|id| id.to_string());
    report.term = status.term;
    report.voters = status.voters();
    report.quorum = status.quorum();
    report.leader_view = status.leader == Some(status.local);
    report.members = status
        .members
        .iter()
        .map(|member| member_report(member, status))
        .collect();
    if report.leader_view {
        let alive = report
            .members
            .iter()
            .filter(|m| m.role == "voter" && m.reachable == Some(true))
            .count();
        report.tolerated_failures = Some(alive.saturating_sub(report.quorum));
    } else if status.leader.is_none() {
        report.tolerated_failures = Some(0);
    }
}

fn member_report(member: &Member, status: &ClusterStatus) -> MemberReport {
    let local = member.id == status.local;
    let leads = status.leader == Some(status.local);
    let matched = if local {
        Some(status.last_index)
    } else {
        member.matched_index
    };
    let reachable = if local {
        Some(true)
    } else if leads {
        Some(member.last_contact.is_some_and(|age| age < CONTACT_MAX))
    } else {
        None
    };
    MemberReport {
        id: member.id.to_string(),
        name: member.name.clone(),
        node: member
            .name
            .rsplit_once('-')
            .map_or(member.name.as_str(), |(node, _)| node)
            .to_owned(),
        role: match member.role {
            MemberRole::Voter => "voter",
            MemberRole::Learner => "learner",
        }
        .to_owned(),
        leader: status.leader == Some(member.id),
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
        lag: matched
            .filter(|_| leads)
            .map(|index| status.last_index.saturating_sub(index)),
        last_contact_ms: member
            .last_contact
            .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        reachable,
    }
}

fn advise(report: &mut ClusterReport) {
    let mut advice = Vec::new();
    if !report.writable {
        advice.push(format!(
            "no quorum: {} of {} servers must run; writes are refused until then",
            report.quorum, report.voters
        ));
    }
    for member in report
        .members
        .iter()
        .filter(|member| member.reachable == Some(false))
    {
        advice.push(format!(
            "server {} is not reachable; start it, or remove it if it is gone for good",
            member.node
        ));
    }
    for member in report
        .members
        .iter()
        .filter(|member| member.role == "learner")
    {
        advice.push(format!(
            "server {} is catching up and does not vote yet",
            member.node
        ));
    }
    match report.voters {
        1 => advice.push("a single server tolerates no failure; add two more".to_owned()),
        n if n > 1 && n % 2 == 0 => advice.push(format!(
            "{n} servers tolerate no more failures than {}; add one more, or remove one",
            n - 1
        )),
        _ => {}
    }
    report.advice.extend(advice);
}

async fn ask_leader(shared: &Shared, leader: &Member) -> Option<ClusterReport> {
    let host = leader.peer_urls.first().and_then(|url| url_host(url))?;
    let url = format!(
        "https://{host}:{}",
        shared
            .config
            .advertise_port
            .unwrap_or_else(|| shared.local.port())
    );
    let layout = &shared.config.layout;
    let (cert, key) = (
        layout.tls("client-supervisor.crt"),
        layout.tls("client-supervisor.key"),
    );
    let identity = tokio::task::spawn_blocking(move || Identity::load(&cert, &key))
        .await
        .ok()?
        .ok()?;
    let ca = shared.identity.server_ca.cert_pem().to_owned().into();
    let server = Supervisor::with_identity(&url, None, ca, &identity, LEADER_TIMEOUT).ok()?;
    tokio::time::timeout(
        LEADER_TIMEOUT,
        server.http().get_json("/v1-trivet/status?local=true"),
    )
    .await
    .ok()?
    .ok()
}

/// Hosts of all members, as they stand in URLs.
pub(crate) async fn member_hosts(opened: &Opened) -> Vec<String> {
    let Some(cluster) = opened.store.cluster() else {
        return Vec::new();
    };
    let Ok(status) = cluster.status().await else {
        return Vec::new();
    };
    status
        .members
        .iter()
        .filter_map(|member| url_host(member.peer_urls.first()?))
        .collect()
}

/// The host of `https://host:port`, in brackets where it is an IPv6 address.
pub(crate) fn url_host(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://")?;
    if let Ok(address) = rest.parse::<SocketAddr>() {
        return Some(match address {
            SocketAddr::V4(address) => address.ip().to_string(),
            SocketAddr::V6(address) => format!("[{}]", address.ip()),
        });
    }
    rest.rsplit_once(':').map(|(host, _)| host.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use trivet_datastore::MemberId;

    use super::*;

    fn member(id: u64, contact_ms: Option<u64>) -> Member {
        Member {
            id: MemberId(id),
            name: format!("server-{id}-0a0b0c0d"),
            peer_urls: vec![format!("https://127.0.0.{id}:2380")],
            client_urls: Vec::new(),
            role: MemberRole::Voter,
            matched_index: Some(90),
            last_contact: contact_ms.map(Duration::from_millis),
        }
    }

    fn status(members: Vec<Member>, leader: Option<u64>) -> ClusterStatus {
        ClusterStatus {
            cluster_id: 0xabc,
            local: MemberId(1),
            leader: leader.map(MemberId),
            term: 3,
            last_index: 100,
            committed_index: 100,
            applied_index: 100,
            members,
        }
    }

    fn made(status: &ClusterStatus, writable: bool) -> ClusterReport {
        let mut report = ClusterReport {
            writable,
            ..ClusterReport::default()
        };
        fill(&mut report, status);
        advise(&mut report);
        report
    }

    #[test]
    fn the_leader_knows_who_is_missing() {
        let report = made(
            &status(
                vec![member(1, None), member(2, Some(50)), member(3, Some(9000))],
                Some(1),
            ),
            true,
        );
        assert_eq!(
            (report.voters, report.quorum, report.tolerated_failures),
            (3, 2, Some(0))
        );
        assert_eq!(report.members[1].node, "server-2");
        assert_eq!(report.members[1].lag, Some(10));
        assert_eq!(report.members[2].reachable, Some(false));
        assert!(
            report.advice.iter().any(|line| line.contains("server-3")),
            "{:?}",
            report.advice
        );
    }

    #[test]
    fn even_numbers_and_lost_quorums_are_commented() {
        let report = made(
            &status(vec![member(1, None), member(2, Some(5))], Some(1)),
            true,
        );
        assert_eq!(report.tolerated_failures, Some(0));
        assert!(
            report
                .advice
                .iter()
                .any(|line| line.contains("2 servers tolerate")),
            "{:?}",
            report.advice
        );
        let report = made(
            &status(
                vec![member(1, None), member(2, None), member(3, None)],
                None,
            ),
            false,
        );
        assert_eq!(report.tolerated_failures, Some(0));
        assert!(report.advice[0].starts_with("no quorum: 2 of 3"));
        // A follower alone cannot tell.
        assert_eq!(
            made(
                &status(vec![member(1, None), member(2, None)], Some(2)),
                true
            )
            .tolerated_failures,
            None
        );
    }

    #[test]
    fn hosts_of_urls() {
        assert_eq!(url_host("https://10.0.0.1:2380").unwrap(), "10.0.0.1");
        assert_eq!(url_host("https://[::1]:2380").unwrap(), "[::1]");
        assert_eq!(url_host("https://a.example:2380").unwrap(), "a.example");
        assert_eq!(url_host("nonsense"), None);
    }
}
