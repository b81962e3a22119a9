//! What can be saved of a damaged state, and a new state made of it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use trivet_env::Disk;
use trivet_mvcc::{IndexBuilder, ReadValues, Revision, Values, View};
use trivet_raft_node::LogPosition;

use super::checkpoint::{self, Image, Loaded};
use super::segments::{self, Segments, Table};

/// Segments of a repaired state are full at this size.
const SEGMENT_BYTES: u32 = 64 << 20;

/// A version whose value is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) key: Bytes,
    pub(crate) revision: u64,
    /// Whether it is what the key has now; the key is lost with it then.
    pub(crate) newest: bool,
}

/// A state that was looked at.
pub(crate) struct StateSurvey {
    /// Damaged places.
    pub(crate) damage: Vec<String>,
    /// Where the newest checkpoint ends that can be read; the beginning if there is none.
    pub(crate) position: LogPosition,
    /// Its newest revision.
    pub(crate) revision: Revision,
    pub(crate) keys: u64,
    pub(crate) unreadable: Vec<Unreadable>,
    loaded: Option<(Loaded, Table)>,
}

impl StateSurvey {
    /// Whether there is a checkpoint to go on from.
    pub(crate) fn has_checkpoint(&self) -> bool {
        self.loaded.is_some()
    }
}

/// Looks at the state in `dir`. Changes nothing.
pub(crate) fn survey(disk: &Arc<dyn Disk>, dir: &Path) -> io::Result<StateSurvey> {
    let mut survey = StateSurvey {
        damage: Vec::new(),
        position: LogPosition::default(),
        revision: Revision(1),
        keys: 0,
        unreadable: Vec::new(),
        loaded: None,
    };
    let checkpoints = dir.join("checkpoints");
    if !disk.exists(&checkpoints)? {
        return Ok(survey);
    }
    let names = disk.read_dir(&checkpoints)?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| checkpoint::parse_name(name))
        .collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    for number in numbers {
        match checkpoint::load(disk, &checkpoints.join(checkpoint::file_name(number))) {
            Ok(loaded) => {
                let values = dir.join("values");
                let (table, damage) = Table::of_what_is_there(&**disk, &values, &loaded.segments)?;
                survey.damage.extend(damage);
                survey.look(loaded, table)?;
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                survey.damage.push(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(survey)
}

impl StateSurvey {
    fn look(&mut self, loaded: Loaded, table: Table) -> io::Result<()> {
        let view = &loaded.parts.view;
        self.position = loaded.position;
        self.revision = view.revision;
        self.keys = view.index.len() as u64;
        for entry in view.index.entries() {
            let newest = entry.head.main;
            for version in entry.older.iter().chain([entry.head]) {
                match table.read_any(version.location) {
                    Ok(_) => {}
                    Err(error) if is_lost(&error) => {
                        self.unreadable.push(Unreadable {
                            key: Bytes::copy_from_slice(entry.key),
                            revision: version.main,
                            newest: version.main == newest,
                        });
                        if error.kind() == io::ErrorKind::InvalidData {
                            self.damage.push(error.to_string());
                        } else {
                            let number = version.location.segment;
                            let text = segments::missing(number);
                            if !self.damage.contains(&text) {
                                self.damage.push(text);
                            }
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        self.loaded = Some((loaded, table));
        Ok(())
    }
}

fn is_lost(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::NotFound
    )
}

/// Writes what is readable as a new state in the empty directory `dir`. A key whose newest value
/// is lost is left out with its history: an older value must not pass for the present one.
pub(crate) fn rebuild(disk: &Arc<dyn Disk>, dir: &Path, survey: &StateSurvey) -> io::Result<()> {
    let Some((loaded, table)) = &survey.loaded else {
        return Err(io::Error::other("there is no checkpoint to go on from"));
    };
    let (values, checkpoints) = (dir.join("values"), dir.join("checkpoints"));
    disk.create_dir_all(&values)?;
    disk.create_dir_all(&checkpoints)?;
    let mut segments = Segments::new(
        Arc::clone(disk),
        values.clone(),
        1,
        SEGMENT_BYTES,
        Arc::default(),
    );
    let mut index = IndexBuilder::default();
    for entry in loaded.parts.view.index.entries() {
        let mut versions = Vec::new();
        let mut whole = true;
        for version in entry.older.iter().chain([entry.head]) {
            let value = match table.read_any(version.location) {
                Ok(value) => value,
                Err(error) if is_lost(&error) => {
                    whole &= version.main != entry.head.main;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut version = *version;
            if !value.is_empty() {
                version.location = segments.append(&value)?;
            }
            versions.push(version);
        }
        segments.flush()?;
        if whole && !index.push(entry.key, &versions) {
            return Err(io::Error::other("the index is out of order"));
        }
    }
    for file in &segments.take_unsynced().files {
        file.sync_data()?;
    }
    disk.sync_dir(&values)?;
    let image = Image {
        position: loaded.position,
        view: View {
            index: index.finish(),
            revision: loaded.parts.view.revision,
            compacted: loaded.parts.view.compacted,
        },
        leases: loaded.parts.leases.iter().collect(),
        side: loaded.side.clone(),
        segments: segments.marks(),
    };
    checkpoint::write(&**disk, &checkpoints, 1, &image)?;
    disk.sync_dir(dir)
}
