//! Which changes of members are safe enough to be carried out.
//!
//! etcd's rules, on what the asked member sees: enough members have started, and this one has been
//! in contact with enough of them for a while. A voter that was added and has not caught up yet
//! counts as a voter here, as it does in etcd.

use std::time::Duration;

use trivet_raft_node::{NodeStatus, Peer, PeerRole, PeerStatus};

use super::status::Refusal;

const UNSTARTED: &str = "unstarted@";

/// The name of a member that was added and never ran, until it tells its own. The log wants one;
/// etcd's clients know such a member by its empty name.
pub(super) fn unstarted(id: u64) -> String {
    format!("{UNSTARTED}{id:x}")
}

pub(super) fn is_started(peer: &Peer) -> bool {
    !peer.name.starts_with(UNSTARTED)
}

/// May a voter or a learner be added?
pub(super) fn may_add(
    status: &NodeStatus,
    learner: bool,
    connected: Duration,
) -> Result<(), Refusal> {
    let size = voters(status).count();
    // One alone may always get company: how else would it?
    if size <= 1 {
        return Ok(());
    }
    if !learner && started(status).count() < quorum(size + 1) {
        return Err(Refusal::NotEnoughStartedMembers);
    }
    if in_contact(status, connected) < quorum(size + 1) {
        return Err(Refusal::UnhealthyCluster);
    }
    Ok(())
}

/// May this member, a learner, become a voter? It counts as started: it has caught up.
pub(super) fn may_promote(status: &NodeStatus) -> Result<(), Refusal> {
    if started(status).count() + 1 < quorum(voters(status).count() + 1) {
        return Err(Refusal::NotEnoughStartedMembers);
    }
    Ok(())
}

/// May this member be removed?
pub(super) fn may_remove(
    status: &NodeStatus,
    target: &PeerStatus,
    connected: Duration,
) -> Result<(), Refusal> {
    if target.role == PeerRole::Learner {
        return Ok(());
    }
    let id = target.peer.id;
    let size = voters(status).count();
    let remaining = started(status).filter(|peer| peer.peer.id != id).count();
    if remaining < quorum(size - 1) {
        return Err(Refusal::NotEnoughStartedMembers);
    }
    // Whoever is gone already costs nothing more.
    if id != status.local && target.connected_for.is_none() {
        return Ok(());
    }
    if in_contact(status, connected) - 1 < 1 + (size - 1) / 2 {
        return Err(Refusal::UnhealthyCluster);
    }
    Ok(())
}

fn voters(status: &NodeStatus) -> impl Iterator<Item = &PeerStatus> {
    status
        .peers
        .iter()
        .filter(|peer| peer.role != PeerRole::Learner)
}

/// Voters that ever ran.
fn started(status: &NodeStatus) -> impl Iterator<Item = &PeerStatus> {
    voters(status).filter(|peer| is_started(&peer.peer))
}

/// Voters that this member has been in contact with for so long, itself included.
fn in_contact(status: &NodeStatus, at_least: Duration) -> usize {
    voters(status)
        .filter(|peer| {
            peer.peer.id == status.local
                || peer.connected_for.is_some_and(|since| since >= at_least)
        })
        .count()
        .max(1)
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    /// Member 1 looks at a cluster: for each member its role, whether it ever ran, and for how
    /// many seconds it has been in contact.
    fn cluster(members: &[(PeerRole, bool, Option<u64>)]) -> NodeStatus {
        let peers = (1..)
            .zip(members)
            .map(|(id, (role, ran, contact))| PeerStatus {
                peer: Peer {
                    id,
                    name: if *ran { "name".into() } else { unstarted(id) },
                    peer_url: format!("http://h:{id}"),
                    client_url: String::new(),
                },
                role: *role,
                matched_index: None,
                last_contact: None,
                connected_for: contact.map(Duration::from_secs),
            })
            .collect();
        NodeStatus {
            cluster_id: 1,
            local: 1,
            leader: Some(1),
            term: 1,
            last_index: 0,
            committed_index: 0,
            applied_index: 0,
            log_size_bytes: 0,
            peers,
            failed: None,
        }
    }

    const SELF: (PeerRole, bool, Option<u64>) = (PeerRole::Voter, true, None);
    const GOOD: (PeerRole, bool, Option<u64>) = (PeerRole::Voter, true, Some(9));
    const FRESH: (PeerRole, bool, Option<u64>) = (PeerRole::Voter, true, Some(2));
    const DEAD: (PeerRole, bool, Option<u64>) = (PeerRole::Voter, true, None);
    const NEVER: (PeerRole, bool, Option<u64>) = (PeerRole::VoterToBe, false, None);
    const LEARNER: (PeerRole, bool, Option<u64>) = (PeerRole::Learner, false, None);

    #[test]
    fn adding() {
        let add = |members: &[_]| may_add(&cluster(members), false, LONG);
        assert_eq!(add(&[SELF]), Ok(()));
        assert_eq!(add(&[SELF, GOOD]), Ok(()));
        // A second one that has not started yet would make three of which one runs.
        assert_eq!(add(&[SELF, NEVER]), Err(Refusal::NotEnoughStartedMembers));
        assert_eq!(add(&[SELF, GOOD, GOOD]), Ok(()));
        assert_eq!(add(&[SELF, GOOD, GOOD, LEARNER]), Ok(()));
        assert_eq!(add(&[SELF, GOOD, DEAD]), Err(Refusal::UnhealthyCluster));
        assert_eq!(add(&[SELF, GOOD, FRESH]), Err(Refusal::UnhealthyCluster));
        assert_eq!(
            add(&[SELF, GOOD, NEVER]),
            Err(Refusal::NotEnoughStartedMembers)
        );
        assert_eq!(add(&[SELF, GOOD, GOOD, GOOD, DEAD]), Ok(()));
        // A learner changes no quorum, but the change itself needs one.
        let learner = |members: &[_]| may_add(&cluster(members), true, LONG);
        assert_eq!(learner(&[SELF, GOOD, GOOD, GOOD, NEVER]), Ok(()));
        assert_eq!(
            learner(&[SELF, FRESH, GOOD]),
            Err(Refusal::UnhealthyCluster)
        );
    }

    #[test]
    fn promoting() {
        let promote = |members: &[_]| may_promote(&cluster(members));
        assert_eq!(promote(&[SELF, LEARNER]), Ok(()));
        assert_eq!(promote(&[SELF, GOOD, GOOD, LEARNER]), Ok(()));
        assert_eq!(
            promote(&[SELF, NEVER, NEVER, LEARNER]),
            Err(Refusal::NotEnoughStartedMembers)
        );
    }

    #[test]
    fn removing() {
        let remove = |members: &[_], id: usize| {
            let status = cluster(members);
            may_remove(&status, &status.peers[id - 1], LONG)
        };
        assert_eq!(remove(&[SELF], 1), Err(Refusal::NotEnoughStartedMembers));
        assert_eq!(remove(&[SELF, GOOD, GOOD], 2), Ok(()));
        assert_eq!(remove(&[SELF, GOOD, DEAD], 3), Ok(()));
        assert_eq!(
            remove(&[SELF, GOOD, DEAD], 2),
            Err(Refusal::UnhealthyCluster)
        );
        assert_eq!(
            remove(&[SELF, FRESH, GOOD], 1),
            Err(Refusal::UnhealthyCluster)
        );
        assert_eq!(remove(&[SELF, NEVER], 2), Ok(()));
        assert_eq!(
            remove(&[SELF, NEVER], 1),
            Err(Refusal::NotEnoughStartedMembers)
        );
        assert_eq!(remove(&[SELF, DEAD, LEARNER], 3), Ok(()));
    }
}
