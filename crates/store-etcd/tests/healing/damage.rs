//! What can happen to files.

use std::path::{Path, PathBuf};

use trivet_env::Disk;
use trivet_sim::SimDisk;

use crate::cluster::DIR;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// A bit in the oldest segment of the log, which has successors.
    SealedSegment,
    /// A bit in a record in the middle of the newest segment.
    MiddleOfLog,
    /// A bit in the last record but one, behind which the log was closed.
    TailOfLog,
    /// A bit in the copies of vote, membership and identity.
    VoteAndMembership,
    /// A segment in the middle is gone.
    MissingSegment,
    /// `log.id` is not what it was.
    LogIdentity,
    /// No log at all.
    NoLog,
    /// A bit in the newest checkpoint.
    NewestCheckpoint,
    /// A bit in every checkpoint.
    AllCheckpoints,
    /// A bit in the header of a value segment.
    ValueSegmentHeader,
    /// A value segment is gone.
    MissingValueSegment,
    /// A bit in `FORMAT`.
    Format,
    /// A bit in the log and one in every checkpoint.
    LogAndCheckpoints,
}

impl Damage {
    pub(crate) const ALL: [Self; 13] = [
        Self::SealedSegment,
        Self::MiddleOfLog,
        Self::TailOfLog,
        Self::VoteAndMembership,
        Self::MissingSegment,
        Self::LogIdentity,
        Self::NoLog,
        Self::NewestCheckpoint,
        Self::AllCheckpoints,
        Self::ValueSegmentHeader,
        Self::MissingValueSegment,
        Self::Format,
        Self::LogAndCheckpoints,
    ];

    /// Whether what the member promised is lost with it.
    pub(crate) fn is_of_the_log(self) -> bool {
        match self {
            Self::SealedSegment
            | Self::MiddleOfLog
            | Self::TailOfLog
            | Self::VoteAndMembership
            | Self::MissingSegment
            | Self::LogIdentity
            | Self::NoLog
            | Self::LogAndCheckpoints => true,
            Self::NewestCheckpoint
            | Self::AllCheckpoints
            | Self::ValueSegmentHeader
            | Self::MissingValueSegment
            | Self::Format => false,
        }
    }

    /// Plants it.
    pub(crate) fn plant(self, disk: &SimDisk) {
        let segments = files(disk, "raft/log", ".wal");
        let checkpoints = files(disk, "state/checkpoints", ".ckpt");
        let values = files(disk, "state/values", ".seg");
        let newest = segments.last().unwrap();
        let flip = |path: &Path, byte: usize| disk.flip_bit(path, byte as u64, 3);
        let middle = |path: &Path| flip(path, disk.content(path).len() / 2);
        match self {
            Self::SealedSegment => {
                assert!(segments.len() > 1, "one segment only");
                flip(&segments[0], value_in(disk, &segments[0]));
            }
            Self::MiddleOfLog => flip(newest, value_in(disk, newest)),
            Self::TailOfLog => flip(newest, records_of(disk, newest) - 100),
            Self::VoteAndMembership => flip(newest, 64 + 40),
            Self::MissingSegment => {
                assert!(segments.len() > 2, "{} segments only", segments.len());
                disk.remove_file(&segments[1]).unwrap();
            }
            Self::LogIdentity => flip(&Path::new(DIR).join("raft/log/log.id"), 20),
            Self::NoLog => {
                for path in disk.files() {
                    if path.starts_with(Path::new(DIR).join("raft/log")) {
                        disk.remove_file(&path).unwrap();
                    }
                }
            }
            Self::NewestCheckpoint => middle(checkpoints.last().unwrap()),
            Self::AllCheckpoints => checkpoints.iter().for_each(|path| middle(path)),
            Self::ValueSegmentHeader => flip(&values[values.len() / 2], 13),
            Self::MissingValueSegment => disk.remove_file(&values[values.len() / 2]).unwrap(),
            Self::Format => flip(&Path::new(DIR).join("FORMAT"), 40),
            Self::LogAndCheckpoints => {
                Self::AllCheckpoints.plant(disk);
                Self::MiddleOfLog.plant(disk);
            }
        }
    }
}

/// Files of a directory of the store, in order of their numbers.
pub(crate) fn files(disk: &SimDisk, dir: &str, suffix: &str) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join(dir);
    let mut files = disk.files();
    files.retain(|path| path.parent() == Some(&dir) && path.to_string_lossy().ends_with(suffix));
    files
}

/// A byte of a value in the middle of a segment: what lies between records means nothing.
fn value_in(disk: &SimDisk, segment: &Path) -> usize {
    let content = disk.content(segment);
    let middle = records_of(disk, segment) / 2;
    let digits = |at: &usize| content[*at..*at + 8].iter().all(u8::is_ascii_digit);
    (0..middle).rev().find(digits).unwrap()
}

/// Where the bytes of a segment end that mean something.
fn records_of(disk: &SimDisk, segment: &Path) -> usize {
    let content = disk.content(segment);
    content.iter().rposition(|byte| *byte != 0).unwrap()
}
