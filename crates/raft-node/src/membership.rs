//! Changes of membership and leadership. The leader carries them out, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, LogIdOptionExt};
use tokio::time::Instant;

use crate::api::{Error, PeerRole, Result};
use crate::change::change_call;
use crate::consensus::{Member, codec};
use crate::discover::role;
use crate::peers::proto;
use crate::peers::proto::{call_request, change};
use crate::propose::AskError;
use crate::shared::{Route, Shared};

/// A learner may be this many entries behind and still become a voter: the rest is on its way.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// How long the leader works on one join before it lets the next one have its turn. The
/// joining member asks again.
const JOIN_TURN: Duration = Duration::from_secs(30);

/// A learner that moved nothing for this long is spoken of.
const STALL: Duration = Duration::from_secs(10);

/// Limits of what a member says about itself. All of them together must fit one record of the
/// log's metadata.
const NAME_BYTES_MAX: usize = 300;
const URL_BYTES_MAX: usize = 1024;
const MEMBERSHIP_BYTES_MAX: usize = 4000;

/// The name without the suffix that tells incarnations of one server apart.
fn server_name(name: &str) -> &str {
    name.rsplit_once('-').map_or(name, |(server, _)| server)
}

fn refused<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Refused(message.into()))
}

impl Shared {
    /// Carries out a change wherever the leader is.
    pub(crate) async fn change(&self, mut change: proto::Change) -> Result<()> {
        let deadline = Instant::now() + self.patience.route;
        loop {
            let to = match self.route(deadline).await? {
                Route::Local => match self.change_here(change.clone()).await {
                    // Lost the leadership, or has not settled in it yet.
                    Err(Error::NoLeader { .. }) => {
                        self.pause(deadline).await?;
                        continue;
                    }
                    done => return done,
                },
                // Two members that each believe the other leads must not play ball.
                Route::Remote(_) if change.forwarded => return Err(self.no_leader()),
                Route::Remote(to) => to,
            };
            change.forwarded = true;
            let request = proto::CallRequest {
                header: Some(self.header(to.id)),
                body: Some(call_request::Body::Change(change.clone())),
            };
            change.forwarded = false;
            let limit = JOIN_TURN + self.patience.outcome;
            match change_call(self.transport.as_ref(), &to, request, limit).await {
                Ok(()) => return Ok(()),
                Err(AskError::Retry) => self.pause(deadline).await?,
                Err(AskError::Lost(reason)) => return Err(Error::Unknown(reason)),
                Err(AskError::Failed(error)) => return Err(error),
            }
        }
    }

    async fn change_here(&self, change: proto::Change) -> Result<()> {
        let Some(kind) = change.kind else {
            return refused("an unknown change");
        };
        if let change::Kind::Transfer(to) = kind {
            return self.hand_over((to != 0).then_some(to)).await;
        }
        if let change::Kind::CheckJoin(member) = &kind {
            let (id, member) = codec::member_from_proto(member);
            return self.check_newcomer(id, &member);
        }
        if let change::Kind::CheckReplace(replace) = kind {
            return self.check_replacement(&replace);
        }
        let _one_at_a_time = self.changes.lock().await;
        match kind {
            change::Kind::AddLearner(member) => {
                let (id, member) = codec::member_from_proto(&member);
                self.add_learner(id, member).await
            }
            change::Kind::AddVoter(member) => {
                let (id, mut member) = codec::member_from_proto(&member);
                member.voter_to_be = true;
                self.add_learner(id, member).await
            }
            change::Kind::Promote(id) => self.promote(id).await,
            change::Kind::Remove(id) => self.remove(id).await,
            change::Kind::Update(member) => {
                let (id, member) = codec::member_from_proto(&member);
                self.update(id, member).await
            }
            change::Kind::Join(member) => {
                let (id, member) = codec::member_from_proto(&member);
                self.take_in(id, member).await
            }
            change::Kind::Replace(replace) => self.replace(&replace).await,
            change::Kind::Transfer(_)
            | change::Kind::CheckJoin(_)
            | change::Kind::CheckReplace(_) => Ok(()),
        }
    }

    fn check_newcomer(&self, id: u64, member: &Member) -> Result<()> {
        self.check_member(id, member)?;
        let membership = self.membership();
        for (other, known) in membership.nodes() {
            if *other == id {
                continue;
            }
            if known.peer_url == member.peer_url {
                return refused(format!(
                    "{} is the address of member {other:x} ({}) already; remove that member first if it is gone for good",
                    member.peer_url, known.name
                ));
            }
            if server_name(&known.name) == server_name(&member.name) {
                return refused(format!(
                    "duplicate node name: {} is member {other:x} already; remove that member first if its data is gone, or choose another name",
                    server_name(&member.name)
                ));
            }
        }
        let size = codec::encode_stored_membership(&membership).len()
            + member.name.len()
            + member.peer_url.len()
            + member.client_url.len();
        if size > MEMBERSHIP_BYTES_MAX {
            return refused("the cluster has no room for another member's description");
        }
        Ok(())
    }

    async fn write(&self, changes: ChangeMembers<u64, Member>, retain: bool) -> Result<()> {
        let written = tokio::time::timeout(
            self.patience.outcome,
            self.raft.change_membership(changes, retain),
        )
        .await;
        match written {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(self.no_leader())
            }
            // Another change is on its way, or a new leader has not committed anything yet.
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_)
                | ChangeMembershipError::UncommittedLeaderLog(_),
            )))) => Err(self.no_leader()),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
                refused(error.to_string())
            }
            Ok(Err(error)) => Err(Error::Unknown(error.to_string())),
            Err(_) => Err(Error::Unknown("no quorum answered in time".into())),
        }
    }

    /// Ends a change whose leader was lost between its two steps.
    pub(crate) async fn finish_change(&self) {
        let joint = self.membership().get_joint_config().len() > 1;
        if !joint || !self.leadership.borrow().local {
            return;
        }
        let Ok(_nobody_changes) = self.changes.try_lock() else {
            return;
        };
        if let Err(error) = self
            .write(ChangeMembers::AddVoterIds(BTreeSet::new()), false)
            .await
        {
            tracing::warn!(%error, "an interrupted change of members is not finished yet");
        }
    }

    async fn add_learner(&self, id: u64, member: Member) -> Result<()> {
        self.check_newcomer(id, &member)?;
        if self.membership().get_node(&id).is_some() {
            return self.update(id, member).await;
        }
        self.write(
            ChangeMembers::AddNodes(BTreeMap::from([(id, member)])),
            true,
        )
        .await
    }

    fn is_voter(&self, id: u64) -> bool {
        self.membership().voter_ids().any(|voter| voter == id)
    }

    /// Entries of the local log that the member is not known to hold; `None` when nothing is
    /// known of it.
    fn lag(&self, id: u64) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref()?.get(&id)?.as_ref()?.index;
        Some(metrics.last_log_index.unwrap_or(0).saturating_sub(matched))
    }

    /// Makes voters of those that were added as such and have caught up.
    pub(crate) async fn promote_added(&self) {
        for id in self.voters_to_be() {
            if self.lag(id).is_none_or(|lag| lag > CAUGHT_UP_ENTRIES) {
                continue;
            }
            let _one_at_a_time = self.changes.lock().await;
            match self.promote(id).await {
                Ok(()) => tracing::info!(
                    id = format_args!("{id:x}"),
                    "a member that was added has caught up and is a voter now"
                ),
                // It may just have been removed; whoever leads then looks again.
                Err(error) => tracing::debug!(%error, "an added member is no voter yet"),
            }
        }
    }

    /// Members that were added as voters and are none yet.
    pub(crate) fn voters_to_be(&self) -> Vec<u64> {
        let membership = self.membership();
        membership
            .nodes()
            .filter(|(id, _)| role(&membership, **id) == PeerRole::VoterToBe)
            .map(|(id, _)| *id)
            .collect()
    }

    async fn promote(&self, id: u64) -> Result<()> {
        if self.membership().get_node(&id).is_none() {
            return refused(format!("there is no member {id:x}"));
        }
        if self.is_voter(id) {
            return Ok(());
        }
        if self.lag(id).is_none_or(|lag| lag > CAUGHT_UP_ENTRIES) {
            return refused(format!("learner {id:x} is not in sync with the leader yet"));
        }
        self.write(ChangeMembers::AddVoterIds(BTreeSet::from([id])), true)
            .await
    }

    /// Learner first, voter once caught up. Asking again goes on where the last time ended.
    async fn take_in(&self, id: u64, member: Member) -> Result<()> {
        self.add_learner(id, member.clone()).await?;
        let end = Instant::now() + JOIN_TURN;
        let mut metrics = self.raft.metrics();
        let mut best = u64::MAX;
        let mut moved = Instant::now();
        let mut spoken = false;
        while !self.is_voter(id) {
            let lag = self.lag(id);
            if lag.is_some_and(|lag| lag <= CAUGHT_UP_ENTRIES) {
                tracing::info!(
                    id = format_args!("{id:x}"),
                    name = member.name,
                    "a learner has caught up and becomes a voter"
                );
                return self.promote(id).await;
            }
            if lag.is_some_and(|lag| lag < best) {
                best = lag.unwrap_or(best);
                moved = Instant::now();
            }
            if moved.elapsed() > STALL && !spoken {
                spoken = true;
                tracing::warn!(
                    id = format_args!("{id:x}"),
                    name = member.name,
                    url = member.peer_url,
                    "a learner makes no progress; is its peer address reachable from here?"
                );
            }
            if Instant::now() >= end {
                return Err(Error::Overloaded);
            }
            if !self.leadership.borrow().local {
                return Err(self.no_leader());
            }
            let wait = tokio::time::timeout(Duration::from_millis(200), metrics.changed());
            if let Ok(Err(_)) = wait.await {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }

    /// Whether `replace` would be carried out now.
    fn check_replacement(&self, replace: &proto::Replace) -> Result<()> {
        let (id, member) = successor(replace)?;
        self.check_member(id, &member)?;
        let membership = self.membership();
        let Some(known) = membership.get_node(&replace.old) else {
            // Removed already: what is left to do is an ordinary join.
            return self.check_newcomer(id, &member);
        };
        if server_name(&known.name) != server_name(&member.name)
            && known.peer_url != member.peer_url
        {
            return refused(format!(
                "member {:x} is {} at {}, and no earlier life of {} at {}",
                replace.old, known.name, known.peer_url, member.name, member.peer_url
            ));
        }
        // It was heard a moment ago: either that was its last word, or it is not lost at all.
        if replace.old != self.local.id && self.is_started(replace.old) {
            return Err(Error::Overloaded);
        }
        // Too few members run; that may change.
        if self.is_voter(replace.old) && self.removable(replace.old).is_err() {
            return Err(self.no_leader());
        }
        Ok(())
    }

    /// The old member goes first. It is dead, so the quorum that is left does not get harder to
    /// reach; and at no time do two members stand for one server.
    async fn replace(&self, replace: &proto::Replace) -> Result<()> {
        let (id, member) = successor(replace)?;
        self.check_replacement(replace)?;
        if self.membership().get_node(&replace.old).is_some() {
            self.remove(replace.old).await?;
            tracing::warn!(
                old = format_args!("{:x}", replace.old),
                new = format_args!("{id:x}"),
                name = member.name,
                "a member that lost its log was removed; its successor is taken in"
            );
        }
        self.take_in(id, member).await
    }

    async fn remove(&self, id: u64) -> Result<()> {
        let membership = self.membership();
        if membership.get_node(&id).is_none() {
            return refused(format!("there is no member {id:x}"));
        }
        if !self.is_voter(id) {
            return self
                .write(ChangeMembers::RemoveNodes(BTreeSet::from([id])), false)
                .await;
        }
        self.removable(id)?;
        self.write(ChangeMembers::RemoveVoters(BTreeSet::from([id])), false)
            .await
    }

    /// Whether enough voters run without this one.
    fn removable(&self, id: u64) -> Result<()> {
        let remaining: BTreeSet<u64> = self
            .membership()
            .voter_ids()
            .filter(|voter| *voter != id)
            .collect();
        if remaining.is_empty() {
            return refused("the last voter cannot be removed");
        }
        let started = remaining
            .iter()
            .filter(|voter| self.is_started(**voter))
            .count();
        let quorum = remaining.len() / 2 + 1;
        if started < quorum {
            return refused(format!(
                "re-configuration failed due to not enough started members: without member {id:x} the cluster has {} voters and needs {quorum} running, but {started} are",
                remaining.len()
            ));
        }
        Ok(())
    }

    /// Whether the leader has lately heard of a member.
    fn is_started(&self, id: u64) -> bool {
        if id == self.local.id {
            return true;
        }
        self.last_contact(id)
            .is_some_and(|age| age < self.election_timeout * 2)
    }

    /// Time since the leader last had an answer from a member.
    pub(crate) fn last_contact(&self, id: u64) -> Option<Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let acked = metrics.heartbeat.as_ref()?.get(&id)?.as_ref()?;
        Some(acked.elapsed())
    }

    async fn update(&self, id: u64, mut member: Member) -> Result<()> {
        self.check_member(id, &member)?;
        let membership = self.membership();
        let Some(known) = membership.get_node(&id) else {
            return refused(format!("there is no member {id:x}"));
        };
        // What it is to become is not up to the member.
        member.voter_to_be = known.voter_to_be;
        if *known == member {
            return Ok(());
        }
        if let Some((other, _)) = membership
            .nodes()
            .find(|(other, known)| **other != id && known.peer_url == member.peer_url)
        {
            return refused(format!(
                "{} is the address of member {other:x} already",
                member.peer_url
            ));
        }
        self.write(
            ChangeMembers::SetNodes(BTreeMap::from([(id, member)])),
            true,
        )
        .await
    }

    /// Hands leadership over; returns when another member leads.
    pub(crate) async fn hand_over(&self, to: Option<u64>) -> Result<()> {
        if to == Some(self.local.id) {
            return Ok(());
        }
        let candidates: Vec<u64> = self
            .membership()
            .voter_ids()
            .filter(|id| *id != self.local.id && self.is_started(*id))
            .collect();
        let target = match to {
            Some(id) if candidates.contains(&id) => id,
            Some(id) => return refused(format!("member {id:x} is no running voter")),
            None => {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow_watched();
                let matched = |id: &u64| {
                    metrics
                        .replication
                        .as_ref()
                        .and_then(|known| known.get(id))
                        .and_then(|id| id.index())
                };
                match candidates.iter().max_by_key(|id| matched(id)) {
                    Some(id) => *id,
                    None => return refused("there is no other running voter"),
                }
            }
        };
        self.raft
            .trigger()
            .transfer_leader(target)
            .await
            .map_err(|_| Error::Stopped)?;
        let mut metrics = self.raft.server_metrics();
        let moved = async {
            loop {
                let leader = metrics.borrow_watched().current_leader;
                if leader.is_some_and(|leader| leader != self.local.id) {
                    return;
                }
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        match tokio::time::timeout(self.election_timeout * 4, moved).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::Unknown("the transfer did not finish in time".into())),
        }
    }
}

fn successor(replace: &proto::Replace) -> Result<(u64, Member)> {
    match &replace.member {
        Some(member) => Ok(codec::member_from_proto(member)),
        None => refused("a replacement without a successor"),
    }
}

impl Shared {
    fn check_member(&self, id: u64, member: &Member) -> Result<()> {
        check_member(id, member, self.plaintext_urls)
    }
}

/// What a member says about itself must be usable by the others.
fn check_member(id: u64, member: &Member, plaintext: bool) -> Result<()> {
    if id == 0 {
        return refused("a member needs an identity");
    }
    if member.name.is_empty() || member.name.len() > NAME_BYTES_MAX {
        return refused(format!("a member's name has 1 to {NAME_BYTES_MAX} bytes"));
    }
    if member.client_url.len() > URL_BYTES_MAX || member.peer_url.len() > URL_BYTES_MAX {
        return refused(format!(
            "a member's addresses have at most {URL_BYTES_MAX} bytes"
        ));
    }
    let usable = |url: &str| {
        url.parse::<http::Uri>().is_ok_and(|uri| {
            let scheme = uri.scheme_str();
            (scheme == Some("https") || (plaintext && scheme == Some("http")))
                && uri.host().is_some_and(|host| !host.is_empty())
                && uri.port_u16().is_some()
        })
    };
    if member.peer_url.split(',').all(usable) {
        return Ok(());
    }
    let schemes = if plaintext {
        "https://host:port or http://host:port"
    } else {
        "https://host:port"
    };
    refused(format!(
        "{:?} is no peer address of the form {schemes}",
        member.peer_url
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_ignore_the_incarnation() {
        assert_eq!(server_name("server-1-ab12cd34"), "server-1");
        assert_eq!(server_name("server"), "server");
    }

    #[test]
    fn members_must_be_reachable() {
        let check = |id, url: &str, plaintext| {
            let member = Member {
                name: "a".into(),
                peer_url: url.into(),
                ..Member::default()
            };
            check_member(id, &member, plaintext)
        };
        for good in [
            "https://127.0.0.1:2380",
            "https://[::1]:2380",
            "https://a:1,https://b:2",
        ] {
            assert!(check(1, good, false).is_ok(), "{good}");
            assert!(check(0, good, false).is_err(), "{good}");
        }
        for bad in [
            "",
            "http://127.0.0.1:2380",
            "https://127.0.0.1",
            "127.0.0.1:2380",
            "https://a:1,",
            "https://a:1,http://b:2",
        ] {
            assert!(check(1, bad, false).is_err(), "{bad}");
        }
        assert!(check(1, "http://127.0.0.1:2380", true).is_ok());
        assert!(check(1, "ftp://127.0.0.1:2380", true).is_err());
    }
}
