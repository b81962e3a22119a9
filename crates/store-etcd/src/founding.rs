//! How a member comes into being: alone, by joining, or by etcd's ways, where a list of members
//! is given.
//!
//! With such a list every founder derives the same identities from the peer URLs and the token,
//! without asking anybody; a member that is added later is given its identity by the cluster and
//! finds itself by its peer URLs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use trivet_datastore::{ClusterStart, Effect, Error, Result};
use trivet_raft_node::{ClusterView, Peer, PeerRole, REMOVED};

/// How long a member looks for the cluster that it is to belong to.
const SEARCH: Duration = Duration::from_secs(15);
const SEARCH_PAUSE: Duration = Duration::from_millis(300);

/// What one round of questions may take.
pub(crate) const QUESTION: Duration = Duration::from_secs(2);

/// What to do when there is no data yet. With data a member always resumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Become the first and only voter of a new cluster.
    Found,
    /// Ask these peer URLs to be taken in.
    Join {
        /// Members to ask; any one of them is enough.
        peer_urls: Vec<String>,
    },
    /// Found a cluster with others, each of which is started with the same list and token
    /// (etcd: `--initial-cluster-state new`).
    Static {
        /// All founders, this one among them by the name of the member.
        members: Vec<Founder>,
        /// Makes clusters with the same addresses different ones.
        token: String,
    },
    /// Become the member that was added to a running cluster with this member's peer URLs
    /// (etcd: `--initial-cluster-state existing`).
    Existing {
        /// All members, this one among them by the name of the member.
        members: Vec<Founder>,
    },
    /// There must be data.
    Resume,
}

impl From<ClusterStart> for Start {
    fn from(start: ClusterStart) -> Self {
        match start {
            ClusterStart::Found => Self::Found,
            ClusterStart::Join { peer_urls } => Self::Join { peer_urls },
            ClusterStart::Resume => Self::Resume,
        }
    }
}

/// A member in the list that a cluster is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founder {
    /// Its name.
    pub name: String,
    /// Where peers reach it.
    pub peer_urls: Vec<String>,
}

impl Founder {
    /// The URLs as the membership keeps them.
    pub(crate) fn joined_urls(&self) -> String {
        join_urls(&self.peer_urls)
    }

    fn id(&self, token: &str) -> u64 {
        member_id(&self.peer_urls, token)
    }
}

/// Several URLs as one text: in order and without duplicates, so that equal sets are equal texts.
pub(crate) fn join_urls(urls: &[String]) -> String {
    let urls: BTreeSet<&str> = urls.iter().map(String::as_str).collect();
    urls.into_iter().collect::<Vec<_>>().join(",")
}

/// The reverse of [`join_urls`].
pub(crate) fn split_urls(urls: &str) -> Vec<String> {
    if urls.is_empty() {
        return Vec::new();
    }
    urls.split(',').map(str::to_owned).collect()
}

/// The identities of a cluster and of its founders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identities {
    pub(crate) cluster_id: u64,
    pub(crate) founders: Vec<Peer>,
}

/// Derives them, by etcd's recipe. Nothing secret is protected by the hash.
pub(crate) fn identities(members: &[Founder], token: &str) -> Result<Identities> {
    let mut founders: Vec<Peer> = members
        .iter()
        .map(|founder| Peer {
            id: founder.id(token),
            name: founder.name.clone(),
            peer_url: founder.joined_urls(),
            client_url: String::new(),
        })
        .collect();
    founders.sort_by_key(|peer| peer.id);
    let ids: BTreeSet<u64> = founders.iter().map(|peer| peer.id).collect();
    if ids.len() != founders.len() || ids.contains(&0) {
        return Err(Error::Invalid(
            "two members of the list have the same peer URLs".to_owned(),
        ));
    }
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
    Ok(Identities {
        cluster_id: first_bytes(&bytes).max(1),
        founders,
    })
}

fn member_id(peer_urls: &[String], token: &str) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut text = urls.concat();
    text.push_str(token);
    first_bytes(text.as_bytes())
}

fn first_bytes(bytes: &[u8]) -> u64 {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_ref()[..8]);
    u64::from_be_bytes(first)
}

/// The member of this name in the list.
pub(crate) fn own<'a>(members: &'a [Founder], name: &str) -> Result<&'a Founder> {
    members
        .iter()
        .find(|founder| founder.name == name)
        .ok_or_else(|| {
            Error::Invalid(format!(
                "couldn't find local name {name:?} in the initial cluster configuration"
            ))
        })
}

/// The peer URLs of the others.
pub(crate) fn others(members: &[Founder], name: &str) -> Vec<String> {
    members
        .iter()
        .filter(|founder| founder.name != name)
        .flat_map(|founder| founder.peer_urls.iter().cloned())
        .collect()
}

/// Whether what the others say speaks against founding a cluster: a member whose data is gone
/// must not come back under an identity by which it promised something.
pub(crate) fn may_found(
    identities: &Identities,
    local: u64,
    urls: &[String],
    answers: &[std::result::Result<ClusterView, String>],
) -> Result<()> {
    for (url, view) in urls.iter().zip(answers) {
        let Ok(view) = view else { continue };
        if view.cluster_id != identities.cluster_id {
            return Err(Error::Invalid(format!(
                "cluster ID mismatch: {url} belongs to cluster {:x}, this member would found {:x}; the members must be started with the same list of members and the same token",
                view.cluster_id, identities.cluster_id
            )));
        }
        let known = view.members.iter().find(|(peer, _)| peer.id == local);
        match known {
            Some((peer, _)) if !peer.client_url.is_empty() => {
                return Err(Error::Invalid(format!(
                    "member {local:x} has already been bootstrapped, and its data is not here: remove it from the cluster and add a new member"
                )));
            }
            Some(_) => {}
            // The founding membership was replaced by one without this member.
            None if view.membership_index > 0 => {
                return Err(Error::Invalid(format!(
                    "{REMOVED}: member {local:x} was removed; add a new member"
                )));
            }
            None => {}
        }
    }
    Ok(())
}

/// Where a member that was added before belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
}

/// Why a place is not to be had now.
#[derive(Debug)]
enum Miss {
    /// Nobody has answered, or only those who may be behind.
    NotYet(String),
    Never(Error),
}

/// Asks until the cluster knows this member, for a bounded time.
pub(crate) async fn find_place<F>(
    members: &[Founder],
    name: &str,
    recorded: Option<u64>,
    mut ask: impl FnMut(Vec<String>) -> F,
) -> Result<Place>
where
    F: Future<Output = Vec<std::result::Result<ClusterView, String>>>,
{
    let local = own(members, name)?;
    let urls = others(members, name);
    if urls.is_empty() {
        return Err(Error::Invalid(
            "joining an existing cluster takes a list with its other members".to_owned(),
        ));
    }
    let deadline = tokio::time::Instant::now() + SEARCH;
    loop {
        let answers = ask(urls.clone()).await;
        match place(members, local, recorded, &urls, &answers).await {
            Ok(place) => return Ok(place),
            Err(Miss::Never(error)) => return Err(error),
            Err(Miss::NotYet(reason)) if tokio::time::Instant::now() >= deadline => {
                return Err(Error::Unavailable {
                    reason,
                    retry_after: None,
                    effect: Effect::None,
                });
            }
            Err(Miss::NotYet(reason)) => tracing::info!(reason, "looking for the cluster"),
        }
        tokio::time::sleep(SEARCH_PAUSE).await;
    }
}

async fn place(
    members: &[Founder],
    local: &Founder,
    recorded: Option<u64>,
    urls: &[String],
    answers: &[std::result::Result<ClusterView, String>],
) -> std::result::Result<Place, Miss> {
    let newest = answers
        .iter()
        .flatten()
        .max_by_key(|view| (view.leader.is_some(), view.membership_index));
    let Some(view) = newest else {
        let reasons: Vec<String> = urls
            .iter()
            .zip(answers)
            .filter_map(|(url, answer)| Some(format!("{url}: {}", answer.as_ref().err()?)))
            .collect();
        return Err(Miss::NotYet(format!(
            "cannot fetch cluster info from peer urls: {}",
            reasons.join("; ")
        )));
    };
    let mut own = None;
    for (peer, role) in &view.members {
        if same_urls(&local.peer_urls, &split_urls(&peer.peer_url)).await {
            own = Some((peer, *role));
            break;
        }
    }
    let Some((peer, role)) = own else {
        let reason = format!(
            "no member with the peer URLs {} has been added to cluster {:x} yet: add it first",
            local.joined_urls(),
            view.cluster_id
        );
        return Err(match recorded {
            Some(id) => Miss::Never(Error::Invalid(format!(
                "{REMOVED}: member {id:x} was removed before it had finished its first start"
            ))),
            // The member that answered may be behind.
            None => Miss::NotYet(reason),
        });
    };
    if recorded.is_some_and(|id| id != peer.id) {
        return Err(Miss::Never(Error::Invalid(format!(
            "the data directory was made for member {:x}, and {} is member {:x} now: use another directory",
            recorded.unwrap_or(0),
            local.joined_urls(),
            peer.id
        ))));
    }
    // A learner runs without voting, so only what it has told about itself says that it ran.
    if recorded.is_none() && !peer.client_url.is_empty() {
        return Err(Miss::Never(Error::Invalid(format!(
            "member {:x} has already been bootstrapped, and its data is not here: remove it from the cluster and add a new member",
            peer.id
        ))));
    }
    same_members(members, &view.members, view.cluster_id)
        .await
        .map_err(Miss::Never)?;
    tracing::info!(
        member = format_args!("{:x}", peer.id),
        cluster = format_args!("{:x}", view.cluster_id),
        learner = role == PeerRole::Learner,
        "the cluster expects this member"
    );
    Ok(Place {
        cluster_id: view.cluster_id,
        member_id: peer.id,
    })
}

/// Whether the list names exactly the members that there are.
async fn same_members(list: &[Founder], real: &[(Peer, PeerRole)], cluster_id: u64) -> Result<()> {
    let mut missing: Vec<&Peer> = real.iter().map(|(peer, _)| peer).collect();
    let mut unmatched: Vec<String> = Vec::new();
    for member in list {
        let mut found = None;
        for (place, peer) in missing.iter().enumerate() {
            if same_urls(&member.peer_urls, &split_urls(&peer.peer_url)).await {
                found = Some(place);
                break;
            }
        }
        match found {
            Some(place) => drop(missing.swap_remove(place)),
            None => unmatched.push(format!("{}={}", member.name, member.joined_urls())),
        }
    }
    if unmatched.is_empty() && missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<String> = missing
        .iter()
        .map(|peer| format!("{:x}={}", peer.id, peer.peer_url))
        .collect();
    Err(Error::Invalid(format!(
        "error validating peerURLs: the list of members does not match those of cluster {cluster_id:x}: {} in the list only, {} in the cluster only",
        named(&unmatched),
        named(&missing)
    )))
}

fn named(items: &[String]) -> String {
    if items.is_empty() {
        "nothing".to_owned()
    } else {
        items.join(" ")
    }
}

/// Whether two sets of URLs are the same, be it that one has names where the other has addresses.
/// Nobody is asked for addresses where the texts are the same.
async fn same_urls(some: &[String], others: &[String]) -> bool {
    let texts = |urls: &[String]| urls.iter().cloned().collect::<BTreeSet<_>>();
    if texts(some) == texts(others) {
        return true;
    }
    some.len() == others.len() && resolved(some).await == resolved(others).await
}

/// URLs in a form in which a name and its address are the same.
async fn resolved(urls: &[String]) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for url in urls {
        all.insert(resolve(url).await.unwrap_or_else(|| url.clone()));
    }
    all
}

async fn resolve(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']);
    let port = uri.port_u16()?;
    let addresses = tokio::net::lookup_host((host, port)).await.ok()?;
    let first: SocketAddr = addresses.min()?;
    Some(format!("{}://{first}", uri.scheme_str()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn founder(name: &str, urls: &[&str]) -> Founder {
        Founder {
            name: name.to_owned(),
            peer_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        }
    }

    #[test]
    fn identities_are_those_that_etcd_derives() {
        // What etcd prints for its defaults.
        let alone = [founder("default", &["http://localhost:2380"])];
        let derived = identities(&alone, "etcd-cluster").unwrap();
        assert_eq!(derived.cluster_id, 0xcdf8_1819_4e3a_8c32);
        assert_eq!(derived.founders[0].id, 0x8e9e_05c5_2164_694d);
        // The order of members and of URLs does not count, the token does.
        let list = [
            founder("a", &["http://1.1.1.1:1", "http://1.1.1.1:2"]),
            founder("b", &["http://1.1.1.2:1"]),
        ];
        let other_way_round = [
            founder("b", &["http://1.1.1.2:1"]),
            founder("a", &["http://1.1.1.1:2", "http://1.1.1.1:1"]),
        ];
        let derived = identities(&list, "t").unwrap();
        assert_eq!(derived, identities(&other_way_round, "t").unwrap());
        let other = identities(&list, "u").unwrap();
        assert_ne!(derived.cluster_id, other.cluster_id);
        assert_ne!(derived.founders[0].id, other.founders[0].id);
        let twins = [founder("a", &["http://h:1"]), founder("b", &["http://h:1"])];
        assert!(identities(&twins, "t").is_err());
    }

    fn view(identities: &Identities, index: u64) -> ClusterView {
        ClusterView {
            cluster_id: identities.cluster_id,
            answered_by: 1,
            leader: Some(1),
            membership_index: index,
            members: identities
                .founders
                .iter()
                .map(|peer| (peer.clone(), PeerRole::Voter))
                .collect(),
        }
    }

    fn text<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn founding_is_refused_where_the_member_has_a_past() {
        let list = [founder("a", &["http://h:1"]), founder("b", &["http://h:2"])];
        let derived = identities(&list, "t").unwrap();
        let local = list[1].id("t");
        let urls = others(&list, "b");
        assert_eq!(urls, ["http://h:1"]);
        let check = |answer| may_found(&derived, local, &urls, &[answer]);
        check(Err("nobody there".to_owned())).unwrap();
        check(Ok(view(&derived, 0))).unwrap();
        check(Ok(view(&derived, 7))).unwrap();
        let mut published = view(&derived, 7);
        for (peer, _) in &mut published.members {
            peer.client_url = "http://h:3".to_owned();
        }
        assert!(text(check(Ok(published))).contains("already been bootstrapped"));
        let mut removed = view(&derived, 7);
        removed.members.retain(|(peer, _)| peer.id != local);
        assert!(text(check(Ok(removed))).contains(REMOVED));
        let mut foreign = view(&derived, 7);
        foreign.cluster_id += 1;
        assert!(text(check(Ok(foreign))).contains("cluster ID mismatch: http://h:1"));
    }

    #[tokio::test]
    async fn an_added_member_finds_itself_by_its_urls() {
        let list = [
            founder("a", &["http://127.0.0.1:1"]),
            founder("b", &["http://127.0.0.1:2"]),
        ];
        let derived = identities(&list, "t").unwrap();
        let urls = others(&list, "b");
        let look = |recorded, view: ClusterView, list: [Founder; 2]| {
            let urls = urls.clone();
            async move { place(&list, &list[1], recorded, &urls, &[Ok(view)]).await }
        };
        let local = list[1].id("t");
        let found = look(None, view(&derived, 3), list.clone()).await.unwrap();
        assert_eq!(
            (found.member_id, found.cluster_id),
            (local, derived.cluster_id)
        );
        // A name and its address are the same.
        let mut named = list.clone();
        named[1].peer_urls = vec!["http://localhost:2".to_owned()];
        assert_eq!(look(None, view(&derived, 3), named).await.unwrap(), found);

        let never = |miss: std::result::Result<Place, Miss>| match miss.unwrap_err() {
            Miss::Never(error) => error.to_string(),
            Miss::NotYet(reason) => panic!("{reason}"),
        };
        let mut other = list.clone();
        other[0].peer_urls = vec!["http://127.0.0.1:9".to_owned()];
        let message = never(look(None, view(&derived, 3), other).await);
        assert!(
            message.contains("a=http://127.0.0.1:9 in the list only")
                && message.contains("=http://127.0.0.1:1 in the cluster only"),
            "{message}"
        );
        let mut ran = view(&derived, 3);
        for (peer, _) in &mut ran.members {
            peer.client_url = "http://h:3".to_owned();
        }
        let message = never(look(None, ran.clone(), list.clone()).await);
        assert!(message.contains("already been bootstrapped"), "{message}");
        assert!(look(Some(local), ran.clone(), list.clone()).await.is_ok());
        let message = never(look(Some(7), ran, list.clone()).await);
        assert!(message.contains("made for member 7"), "{message}");

        let mut gone = view(&derived, 3);
        gone.members.retain(|(peer, _)| peer.id != local);
        let message = never(look(Some(local), gone.clone(), list.clone()).await);
        assert!(message.contains(REMOVED), "{message}");
        let not_yet = look(None, gone, list.clone()).await;
        assert!(matches!(not_yet, Err(Miss::NotYet(_))), "{not_yet:?}");
    }
}
