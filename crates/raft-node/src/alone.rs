//! Going on alone after the quorum is lost for good.
//!
//! One entry at the end of the log says that this member is the only one. Everything before it
//! stays: an entry may have been acknowledged by a quorum of which nobody else is left, so none
//! is thrown away.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use openraft::EntryPayload;
use openraft::storage::{RaftLogReader as _, RaftLogStorage as _};

use crate::api::{LogPosition, Peer};
use crate::consensus::log::LogStore;
use crate::consensus::{LogId, Member, Membership, Vote, from_position};

/// Appends the entry, durably, unless this member is alone already.
pub(crate) async fn rewrite(log: &LogStore, applied: LogPosition, local: &Peer) -> io::Result<()> {
    let mut log = log.clone();
    let applied = from_position(applied);
    let mut state = log.get_log_state().await?;
    if let Some(applied) = applied
        && state.last_log_id.is_none_or(|last| last < applied)
    {
        // An installed snapshot whose predecessors were not removed in time.
        log.purge(applied).await?;
        state = log.get_log_state().await?;
    }
    let Some(last) = state.last_log_id else {
        return Err(io::Error::other("there is no data to go on with"));
    };
    let from = state.last_purged_log_id.map_or(0, |id| id.index + 1);
    let present = newest_membership(&mut log, from, last.index).await?;
    let only_this = |membership: &Membership| {
        membership.nodes().map(|(id, _)| *id).eq([local.id])
            && membership.get_joint_config().len() == 1
    };
    if present.as_ref().is_some_and(only_this) {
        return Ok(());
    }
    let known = present
        .as_ref()
        .and_then(|membership| membership.get_node(&local.id).cloned())
        .unwrap_or_else(|| Member::from(local));
    let dropped = present.map_or(0, |membership| membership.nodes().count().saturating_sub(1));
    let vote = log.read_vote().await?;
    let term = vote
        .map_or(0, |vote| vote.leader_id.term)
        .max(last.leader_id.term)
        + 1;
    // The entry belongs to a term in which nobody else was voted for here.
    log.save_vote(&Vote::new(term, local.id)).await?;
    let membership = Membership::new(
        vec![BTreeSet::from([local.id])],
        BTreeMap::from([(local.id, known)]),
    )
    .map_err(io::Error::other)?;
    let log_id = LogId::new_term_index(term, last.index + 1);
    log.append_membership(&log_id, membership).await?;
    tracing::warn!(
        member = format_args!("{:x}", local.id),
        dropped,
        "going on as the only member; the others must not be started again with their old data"
    );
    Ok(())
}

/// The last membership of all that are known here, committed or not.
async fn newest_membership(
    log: &mut LogStore,
    from: u64,
    last: u64,
) -> io::Result<Option<Membership>> {
    const STEP: u64 = 256;
    let mut end = last + 1;
    while end > from {
        let start = end.saturating_sub(STEP).max(from);
        for entry in log.try_get_log_entries(start..end).await?.into_iter().rev() {
            if let EntryPayload::Membership(membership) = entry.payload {
                return Ok(Some(membership));
            }
        }
        end = start;
    }
    Ok(log.membership()?.map(|stored| stored.membership().clone()))
}
