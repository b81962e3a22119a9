//! `trivet datastore repair`: a member that is alone, and whose disk lost something.
//!
//! A plan says exactly what is damaged and what would be lost, and changes nothing. Carrying it
//! out builds the repaired directories beside the damaged ones, moves those out of the way and
//! puts the new ones in their place: a crash in between leaves the damaged ones where they were,
//! or set aside and the next run goes on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trivet_datastore::{Error, Result};
use trivet_env::{Disk, Env};
use trivet_mvcc::{KeyRange, Op, Txn};
use trivet_raft_node::{self as raft, Peer, Salvage};

use crate::aside;
use crate::format::Format;
use crate::members_file;
use crate::open::{RAFT_DIR, STATE_DIR, io, lock};
use crate::state::{self, Command, StateSurvey};

/// So many keys are named one by one.
const KEYS_NAMED: usize = 1000;

/// What is wrong, what a repair does, and what is lost by it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// The store's directory.
    pub dir: PathBuf,
    /// Damaged places.
    pub damage: Vec<String>,
    /// Why it cannot be repaired, if so.
    pub impossible: Option<String>,
    /// Where the newest checkpoint that can be read ends in the log.
    pub checkpoint_index: u64,
    /// Its revision.
    pub checkpoint_revision: u64,
    /// The last log entry that is kept.
    pub last_good_index: u64,
    /// Entries behind the last good one that can be read and are given up.
    pub lost_entries: u64,
    /// Keys that those entries wrote or deleted.
    pub lost_entries_keys: Vec<String>,
    /// Whether more may be lost, of which nothing is left to say what it was.
    pub unknown_entries: bool,
    /// Keys that are lost because their newest value does not read back.
    pub lost_keys: Vec<String>,
    /// Older versions that are lost, as key and revision.
    pub lost_versions: Vec<(String, u64)>,
    /// What is done, in words.
    pub steps: Vec<String>,
    /// Where the damaged directories are now; empty for a plan.
    pub kept: Vec<PathBuf>,
}

impl RepairReport {
    /// Whether there is anything to do.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty() && self.steps.is_empty()
    }
}

/// Looks at the store in `dir` ([`StoreConfig::dir`](crate::StoreConfig::dir)), and repairs it if
/// `apply` says so. The store must be stopped.
///
/// # Errors
/// `Invalid` when there is no store, it is in use, or cannot be repaired; `Unavailable` when the
/// disk fails.
pub fn repair(env: &Env, dir: &Path, apply: bool) -> Result<RepairReport> {
    let disk: Arc<dyn Disk> = env.disk.clone();
    let fail = |error: std::io::Error| io(&error);
    if !disk.exists(dir).map_err(fail)? {
        return Err(Error::Invalid(format!(
            "there is no store in {}",
            dir.display()
        )));
    }
    let _lock = lock(&*disk, dir)?;
    let format = Format::load(&*disk, dir)
        .map_err(fail)?
        .filter(|format| format.ready)
        .ok_or_else(|| {
            Error::Invalid(format!(
                "the store in {} never finished its first start: there is nothing to repair",
                dir.display()
            ))
        })?;
    let state = state::survey(&disk, &dir.join(STATE_DIR)).map_err(fail)?;
    let log = raft::salvage(env, &dir.join(RAFT_DIR), state.position).map_err(fail)?;
    let recorded = members_file::load(&*disk, dir);
    let members = if log.members.is_empty() {
        recorded
    } else {
        log.members.clone()
    };
    let mut report = plan(dir, &state, &log);
    let (new_state, new_log) = steps(&mut report, &state, &log);
    if members.iter().any(|peer| peer.id != format.member_id) && !report.is_sound() {
        report.impossible = Some(
            "this server has peers, and must not go on with less than it acknowledged: start it, and it gets everything from them".to_owned(),
        );
    }
    if !apply || report.is_sound() {
        return Ok(report);
    }
    if let Some(why) = &report.impossible {
        return Err(Error::Invalid(why.clone()));
    }
    let local = members
        .into_iter()
        .find(|peer| peer.id == format.member_id)
        .unwrap_or_else(|| Peer {
            id: format.member_id,
            name: "repaired".to_owned(),
            peer_url: "https://127.0.0.1:2380".to_owned(),
            client_url: String::new(),
        });
    let make = || -> std::io::Result<Vec<PathBuf>> {
        let (raft_dir, state_dir) = (dir.join(RAFT_DIR), dir.join(STATE_DIR));
        let fresh = |path: &Path| path.with_extension(format!("{:016x}.new", env.rng.next_u64()));
        let (raft_new, state_new) = (fresh(&raft_dir), fresh(&state_dir));
        if new_state && state.has_checkpoint() {
            state::rebuild(&disk, &state_new, &state)?;
        }
        if new_log {
            raft::rebuild(
                env,
                &raft_new,
                format.cluster_id,
                &local,
                state.position,
                &log,
            )?;
        }
        let mut kept = Vec::new();
        for (old, new, wanted) in [
            (&state_dir, &state_new, new_state),
            (&raft_dir, &raft_new, new_log),
        ] {
            if !wanted {
                continue;
            }
            kept.extend(aside::set_aside(&*disk, old)?);
            if disk.exists(new)? {
                disk.rename(new, old)?;
            }
            disk.sync_dir(dir)?;
        }
        Ok(kept)
    };
    report.kept = make().map_err(fail)?;
    Ok(report)
}

fn plan(dir: &Path, state: &StateSurvey, log: &Salvage) -> RepairReport {
    let places = log.damage.iter().map(|place| {
        format!(
            "{} is damaged at byte {}: {}",
            place.file.display(),
            place.offset,
            place.what
        )
    });
    let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    let lost_keys: BTreeSet<String> = state
        .unreadable
        .iter()
        .filter(|lost| lost.newest)
        .map(|lost| text(&lost.key))
        .collect();
    let mut touched = BTreeSet::new();
    for command in raft::commands(&log.lost) {
        if let Ok(command) = Command::decode(command.clone())
            && let Command::Txn(txn) = command.inner()
        {
            keys_of(txn, &mut touched);
        }
    }
    RepairReport {
        dir: dir.to_owned(),
        damage: state.damage.iter().cloned().chain(places).collect(),
        checkpoint_index: state.position.index,
        checkpoint_revision: state.revision.0,
        last_good_index: log
            .kept
            .last()
            .map_or(state.position.index, |batch| batch.position.index),
        lost_entries: log.lost.len() as u64,
        lost_entries_keys: touched.into_iter().take(KEYS_NAMED).collect(),
        unknown_entries: log.more_may_be_lost || (!log.reaches_back && !log.lost.is_empty()),
        lost_versions: state
            .unreadable
            .iter()
            .filter(|lost| !lost.newest && !lost_keys.contains(&text(&lost.key)))
            .map(|lost| (text(&lost.key), lost.revision))
            .collect(),
        lost_keys: lost_keys.into_iter().collect(),
        ..RepairReport::default()
    }
}

/// What there is to do: whether state and log are made anew.
fn steps(report: &mut RepairReport, state: &StateSurvey, log: &Salvage) -> (bool, bool) {
    let from_start = state.position.index == 0 && !log.kept.is_empty() && log.reaches_back;
    if !state.has_checkpoint() && !from_start && !report.damage.is_empty() {
        report.impossible = Some(
            "no checkpoint can be read, and the log does not reach back to the beginning: restore a snapshot".to_owned(),
        );
    }
    let new_state = !state.damage.is_empty();
    let new_log = !log.damage.is_empty() || !log.reaches_back;
    if new_state {
        report.steps.push(if state.has_checkpoint() {
            format!(
                "write the state of revision {} anew, without what cannot be read",
                state.revision.0
            )
        } else {
            "set the state aside; the next start makes it again from the log".to_owned()
        });
    }
    if new_log {
        report.steps.push(format!(
            "write the log anew: entries {} to {}",
            state.position.index + 1,
            report.last_good_index
        ));
    }
    (new_state, new_log)
}

fn keys_of(txn: &Txn, keys: &mut BTreeSet<String>) {
    let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Put(put) => drop(keys.insert(text(&put.key))),
            Op::DeleteRange(delete) => drop(keys.insert(match &delete.range {
                KeyRange::Key(key) => text(key),
                range => format!("{}...", text(range.start())),
            })),
            Op::Txn(txn) => keys_of(txn, keys),
            Op::Range(_) => {}
        }
    }
}
