//! Opening the state.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trivet_env::{Disk, Env};
use trivet_mvcc::{Store, WatchLogLimits};
use trivet_raft_node::LogPosition;

use super::auth::Tokens;
use super::checkpoint::{self, Loaded};
use super::damage::DamageLog;
use super::leases::LeaseLog;
use super::machine::Machine;
use super::maintain::Work;
use super::segments::{self, SegmentMark, Segments, damaged};
use super::shared::{Dirs, Inner, Shared};
use super::side::Side;

/// Sizes and intervals.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A value segment is full at this size.
    pub segment_bytes: u32,
    /// A checkpoint is due after this many bytes of commands, or twice the size of the last
    /// checkpoint if that is more.
    pub checkpoint_bytes: u64,
    /// A checkpoint is due after this many commands, or as many as there are keys if that is
    /// more.
    pub checkpoint_commands: u64,
    /// Recent events kept in memory for watchers.
    pub watch_log: WatchLogLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            checkpoint_bytes: 64 << 20,
            checkpoint_commands: 100_000,
            watch_log: WatchLogLimits::default(),
        }
    }
}

/// Where and how to open the state.
#[derive(Debug, Clone)]
pub struct StateConfig {
    /// The world.
    pub env: Env,
    /// Directory of the state alone; created when missing.
    pub dir: PathBuf,
    /// Write checkpoints and remove old versions on a thread of their own. Without it both
    /// happen inside [`checkpoint`](trivet_raft_node::StateMachine::checkpoint): for simulations.
    pub background: bool,
    /// Sizes and intervals.
    pub limits: Limits,
}

impl StateConfig {
    /// The state in `dir`, with a background thread and default limits.
    #[must_use]
    pub fn new(env: Env, dir: PathBuf) -> Self {
        Self {
            env,
            dir,
            background: true,
            limits: Limits::default(),
        }
    }
}

/// Why the state could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Data on disk is damaged; says where. Other members have it: remove this one from the
    /// cluster and let it join anew.
    #[error("{0}")]
    Damaged(String),
    /// The disk failed.
    #[error("cannot open the state in {}: {source}", dir.display())]
    Io {
        /// Directory of the state.
        dir: PathBuf,
        /// What failed.
        source: io::Error,
    },
}

/// Opens the state, or creates an empty one. The log is to be applied from
/// [`applied`](trivet_raft_node::StateMachine::applied) on.
///
/// A damaged checkpoint is reported and the one before it is used; the log may no longer reach
/// back that far, which the node then finds.
pub fn open(config: StateConfig) -> Result<(Machine, Arc<Shared>), OpenError> {
    let dir = config.dir.clone();
    open_dir(config).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => OpenError::Damaged(source.to_string()),
        _ => OpenError::Io { dir, source },
    })
}

fn open_dir(config: StateConfig) -> io::Result<(Machine, Arc<Shared>)> {
    let disk = config.env.disk;
    let values_dir = config.dir.join("values");
    let checkpoints_dir = config.dir.join("checkpoints");
    create_dirs(&*disk, &config.dir, &[&values_dir, &checkpoints_dir])?;
    let found = find_checkpoint(&disk, &checkpoints_dir)?;
    // A killed process may have left a checkpoint whose name is not durable yet. What is said to
    // be durable lets the log go.
    disk.sync_dir(&values_dir)?;
    disk.sync_dir(&checkpoints_dir)?;
    let names = disk.read_dir(&values_dir)?;
    let newest = names
        .iter()
        .filter_map(|name| segments::parse_name(name))
        .max();
    let next_number = newest.map_or(1, |number| number + 1);
    let max_size = config.limits.segment_bytes;
    let damage = Arc::new(DamageLog::default());
    let mut segments = Segments::new(
        Arc::clone(&disk),
        values_dir.clone(),
        next_number,
        max_size,
        Arc::clone(&damage),
    );
    let (store, side, applied, checkpoint_bytes) = match found.loaded {
        None => (
            Store::new(config.limits.watch_log),
            Side::default(),
            LogPosition::default(),
            0,
        ),
        Some((path, loaded)) => {
            segments.open(&loaded.segments)?;
            adopt(&mut segments, &path, &loaded)?;
            let store = Store::from_parts(loaded.parts, config.limits.watch_log);
            (store, loaded.side, loaded.position, loaded.size_bytes)
        }
    };
    let needed: BTreeSet<u32> = found
        .work
        .checkpoints
        .iter()
        .flat_map(|(_, marks)| marks)
        .map(|mark| mark.number)
        .collect();
    remove_strays(&*disk, &values_dir, &needed)?;
    let inner = Inner {
        store,
        side,
        tokens: Tokens::new(config.env.clock),
        segments,
        applied,
        lease_log: LeaseLog::default(),
        relocation: None,
        commands_since: 0,
        bytes_since: 0,
        checkpoint_bytes,
        failed: None,
        failed_by_damage: false,
    };
    let damaged = found.damaged;
    let dirs = Dirs {
        state: config.dir,
        values: values_dir,
        checkpoints: checkpoints_dir,
    };
    let shared = Shared::new(disk, dirs, config.limits, inner, found.work, damage);
    if damaged {
        // Should another state take the place of this one, the damaged checkpoint is kept.
        shared.keep_replaced();
    }
    let shared = Arc::new(shared);
    Ok((
        Machine::new(Arc::clone(&shared), config.background)?,
        shared,
    ))
}

/// Creates directories below `dir`, and `dir`, durably.
fn create_dirs(disk: &dyn Disk, dir: &Path, below: &[&PathBuf]) -> io::Result<()> {
    let mut unsynced = vec![dir];
    // Always the parent: a process that died here may have created but not synced it.
    let parents = dir
        .ancestors()
        .skip(1)
        .filter(|parent| !parent.as_os_str().is_empty());
    for parent in parents {
        unsynced.push(parent);
        if disk.exists(parent)? {
            break;
        }
    }
    for dir in below {
        disk.create_dir_all(dir)?;
    }
    unsynced.into_iter().try_for_each(|dir| disk.sync_dir(dir))
}

struct Found {
    loaded: Option<(PathBuf, Loaded)>,
    work: Work,
    /// Whether there is a checkpoint that cannot be read.
    damaged: bool,
}

fn find_checkpoint(disk: &Arc<dyn Disk>, dir: &Path) -> io::Result<Found> {
    let names = disk.read_dir(dir)?;
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        disk.remove_file(&dir.join(name))?;
    }
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| checkpoint::parse_name(name))
        .collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    let next_number = numbers.first().map_or(1, |number| number + 1);
    let (mut loaded, mut first_damage) = (None, None);
    let mut damaged: Vec<(u64, Vec<SegmentMark>)> = Vec::new();
    let mut good: Vec<(u64, Vec<SegmentMark>)> = Vec::new();
    for number in numbers {
        let path = dir.join(checkpoint::file_name(number));
        let segments = if loaded.is_some() {
            checkpoint::load_segments(disk, &path)
        } else {
            checkpoint::load(disk, &path).map(|found| {
                let segments = found.segments.clone();
                loaded = Some((path, found));
                segments
            })
        };
        match segments {
            Ok(segments) => good.insert(0, (number, segments)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!(%error, "a checkpoint of the state is damaged");
                damaged.push((number, Vec::new()));
                first_damage.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    if let (None, Some(error)) = (&loaded, first_damage) {
        return Err(error);
    }
    let any = !damaged.is_empty();
    // Damaged ones first: they are the first to be removed.
    damaged.append(&mut good);
    Ok(Found {
        damaged: any,
        loaded,
        work: Work {
            checkpoints: damaged,
            next_number,
        },
    })
}

/// Counts what the index refers to.
fn adopt(segments: &mut Segments, checkpoint: &Path, loaded: &Loaded) -> io::Result<()> {
    for entry in loaded.parts.view.index.entries() {
        for version in entry.older.iter().chain([entry.head]) {
            if !segments.adopt(version.location) {
                let what = "it refers to a value outside of its segments";
                return Err(damaged(checkpoint, 0, what));
            }
        }
    }
    Ok(())
}

/// Removes segments that no checkpoint needs: left over from before a crash.
pub(super) fn remove_strays(disk: &dyn Disk, dir: &Path, needed: &BTreeSet<u32>) -> io::Result<()> {
    for name in disk.read_dir(dir)? {
        if segments::parse_name(&name).is_some_and(|number| !needed.contains(&number)) {
            disk.remove_file(&dir.join(name))?;
        }
    }
    Ok(())
}
