//! What can be saved of a damaged log, and a new log made of it: for a member that is alone.
//!
//! A member with peers must not do this: it would go on under an identity whose promises it has
//! forgotten.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use openraft::EntryPayload;
use prost::Message as _;
use trivet_env::{Disk, Env};
use trivet_wal::{Entry, Position, Stretch, Wal, WalOptions};

use crate::api::{AppliedBatch, LogPosition, Peer};
use crate::consensus::log::{COMMITTED, IDENTITY, MEMBERSHIP, VOTE};
use crate::consensus::{Member, Membership, StoredMembership, Vote, codec, from_position};
use crate::peers::proto;
use crate::start::LOG_DIR;

/// A log that was looked at.
#[derive(Debug, Clone)]
pub struct Salvage {
    /// Damaged places: file, offset, what is wrong.
    pub damage: Vec<trivet_wal::DamagedPlace>,
    /// The last membership that can be read; empty when there is none.
    pub members: Vec<Peer>,
    /// Everything behind the state, up to the first damage.
    pub kept: Vec<AppliedBatch>,
    /// Entries behind that. They can be read, but not what comes before them.
    pub lost: Vec<AppliedBatch>,
    /// Whether entries that cannot be read may have followed.
    pub more_may_be_lost: bool,
    /// Whether the log reaches back to the state.
    pub reaches_back: bool,
    entries: Vec<Entry>,
    term: u64,
}

/// Looks at the log in `dir`, whose state ends at `state`. Changes nothing.
///
/// # Errors
/// When files cannot be read.
pub fn salvage(env: &Env, dir: &Path, state: LogPosition) -> io::Result<Salvage> {
    let log_dir = dir.join(LOG_DIR);
    let survey = if env.disk.exists(&log_dir)? {
        trivet_wal::survey(env.disk.clone(), &log_dir)?
    } else {
        trivet_wal::Survey {
            damage: vec![trivet_wal::DamagedPlace {
                file: log_dir,
                offset: 0,
                what: "the log is missing".to_owned(),
            }],
            ..trivet_wal::Survey::default()
        }
    };
    let next = state.index + 1;
    let begins = |stretch: &Stretch| {
        let first = stretch.entries.first().map(|entry| entry.index);
        // An entry of index 0 is the founding membership, which no state holds.
        first.map_or(u64::MAX, |first| if first == 0 { 1 } else { first })
    };
    let ends = |stretch: &Stretch| stretch.entries.last().map_or(0, |entry| entry.index);
    // The last stretch that continues the state.
    let chosen = survey
        .stretches
        .iter()
        .rposition(|stretch| begins(stretch) <= next && ends(stretch) >= state.index);
    let mut kept = Vec::new();
    let mut lost = Vec::new();
    for (place, stretch) in survey.stretches.iter().enumerate() {
        for entry in &stretch.entries {
            if entry.index < next && !(state.index == 0 && entry.index == 0) {
                continue;
            }
            if chosen == Some(place) {
                kept.push(entry.clone());
            } else {
                lost.push(entry.clone());
            }
        }
    }
    let last = kept.last().map_or(state.index, |entry| entry.index);
    lost.retain(|entry| entry.index > last);
    let stored = survey.meta.get(&MEMBERSHIP);
    let stored = stored.and_then(|bytes| codec::decode_stored_membership(bytes.clone()).ok());
    let members = stored.unwrap_or_default();
    let vote = survey.meta.get(&VOTE);
    let vote = vote.and_then(|bytes| codec::decode_vote(bytes.clone()).ok());
    let all = survey.stretches.iter().flat_map(|stretch| &stretch.entries);
    let term = all
        .map(|entry| entry.term)
        .chain([state.term, vote.map_or(0, |vote| vote.leader_id.term)])
        .max()
        .unwrap_or(0);
    Ok(Salvage {
        members: members
            .nodes()
            .map(|(id, member)| member.to_peer(*id))
            .collect(),
        more_may_be_lost: !survey.damage.is_empty()
            && chosen.is_none_or(|place| place + 1 == survey.stretches.len()),
        reaches_back: chosen.is_some()
            || !survey.stretches.iter().any(|stretch| {
                ends(stretch) > state.index
                    || stretch
                        .purged
                        .is_some_and(|purged| purged.index > state.index)
            }),
        damage: survey.damage,
        kept: kept.iter().filter_map(batch).collect(),
        lost: lost.iter().filter_map(batch).collect(),
        entries: kept,
        term,
    })
}

fn batch(entry: &Entry) -> Option<AppliedBatch> {
    let commands = match codec::decode_payload(entry.payload.clone()) {
        Ok(EntryPayload::Normal(commands)) => commands.items,
        _ => Vec::new(),
    };
    (entry.index > 0).then_some(AppliedBatch {
        position: LogPosition {
            term: entry.term,
            index: entry.index,
        },
        commands,
    })
}

/// Writes a new log in the empty directory `dir`: what is kept of a damaged one, behind `state`.
///
/// # Errors
/// When the disk fails.
pub fn rebuild(
    env: &Env,
    dir: &Path,
    cluster_id: u64,
    local: &Peer,
    state: LogPosition,
    salvage: &Salvage,
) -> io::Result<()> {
    let disk: Arc<dyn Disk> = env.disk.clone();
    disk.create_dir_all(dir)?;
    let options = WalOptions {
        prepare_ahead: false,
        ..WalOptions::new(env.rng.next_u64())
    };
    let (wal, _) = Wal::open(disk, &dir.join(LOG_DIR), options)?;
    let ignore = || Box::new(|_| ()) as trivet_wal::Callback;
    let identity = proto::Identity {
        cluster_id,
        node_id: local.id,
        joined: true,
        ..Default::default()
    };
    wal.put_meta(IDENTITY, identity.encode_to_vec().into(), ignore())?;
    let members = std::collections::BTreeMap::from([(local.id, Member::from(local))]);
    let membership =
        Membership::new(vec![BTreeSet::from([local.id])], members).map_err(io::Error::other)?;
    let stored = StoredMembership::new(from_position(state), membership);
    wal.put_meta(
        MEMBERSHIP,
        codec::encode_stored_membership(&stored),
        ignore(),
    )?;
    // A term that no lost entry can have had.
    let vote = Vote::new(salvage.term + 1, local.id);
    wal.put_meta(VOTE, codec::encode_vote(&vote), ignore())?;
    if state.index > 0 {
        let position = Position {
            index: state.index,
            term: state.term,
        };
        wal.purge_up_to(position, ignore())?;
    }
    for entry in &salvage.entries {
        wal.append(vec![entry.clone()], ignore())?;
    }
    // Alone, whatever is in the log is committed.
    let last = salvage.entries.last().map(|entry| LogPosition {
        term: entry.term,
        index: entry.index,
    });
    if let Some(committed) = from_position(last.unwrap_or(state)) {
        wal.put_meta(COMMITTED, codec::encode_log_id(&committed), ignore())?;
    }
    wal.flush()?;
    wal.close()?;
    Ok(())
}

/// The bytes of commands, for whoever knows what they mean.
pub fn commands(batches: &[AppliedBatch]) -> impl Iterator<Item = &Bytes> {
    batches.iter().flat_map(|batch| &batch.commands)
}
