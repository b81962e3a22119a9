//! Alarms: what every member has to know about a member in trouble.

use std::collections::BTreeSet;

use bytes::Bytes;
use trivet_mvcc::{Op, Txn};

use super::codec::DecodeError;
use super::command::Command;
use super::wire::{Reader, Writer};

/// More alarms than this a table does not hold: far more than a cluster has members, and few
/// enough for one frame.
const MAX_ALARMS: usize = 4096;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alarm {
    /// A member has used up its quota: nothing is added any more, anywhere.
    NoSpace,
    /// A member's data differs from the others': nothing is changed any more, anywhere.
    Corrupt,
}

impl Alarm {
    /// etcd's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        }
    }

    pub(super) fn number(self) -> u8 {
        match self {
            Self::NoSpace => 1,
            Self::Corrupt => 2,
        }
    }

    pub(super) fn from_number(number: u8) -> Result<Self, DecodeError> {
        match number {
            1 => Ok(Self::NoSpace),
            2 => Ok(Self::Corrupt),
            _ => Err(DecodeError::Malformed),
        }
    }
}

/// What to do about an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlarmAction {
    /// Raise it.
    Activate,
    /// End it.
    Deactivate,
}

/// An alarm of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AlarmMember {
    /// What is wrong.
    pub alarm: Alarm,
    /// With whom; 0 when that is not known.
    pub member: u64,
}

/// All alarms of a cluster, in order of kind and member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alarms(BTreeSet<AlarmMember>);

impl Alarms {
    /// Whether any member has raised this one.
    #[must_use]
    pub fn any(&self, alarm: Alarm) -> bool {
        self.0.iter().any(|raised| raised.alarm == alarm)
    }

    /// Whether this one is raised.
    #[must_use]
    pub fn contains(&self, raised: AlarmMember) -> bool {
        self.0.contains(&raised)
    }

    /// Every alarm.
    pub fn iter(&self) -> impl Iterator<Item = AlarmMember> {
        self.0.iter().copied()
    }

    /// Whether all is well.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The alarm under which a command is refused when it is applied, as in etcd: no change at
    /// all to a cluster whose members differ, and nothing that adds to a full one.
    pub(super) fn forbid(&self, command: &Command) -> Option<Alarm> {
        if self.0.is_empty() {
            return None;
        }
        let (changes, adds) = match command {
            Command::Txn(txn) => (true, puts(txn)),
            Command::LeaseGrant { .. } => (true, true),
            Command::LeaseRevoke { .. } | Command::Compact { .. } => (true, false),
            _ => (false, false),
        };
        if changes && self.any(Alarm::Corrupt) {
            Some(Alarm::Corrupt)
        } else if adds && self.any(Alarm::NoSpace) {
            Some(Alarm::NoSpace)
        } else {
            None
        }
    }

    /// Raises or ends an alarm. The answer is etcd's: the alarm, unless there was nothing to end.
    pub(super) fn change(
        &mut self,
        action: AlarmAction,
        alarm: AlarmMember,
    ) -> Option<AlarmMember> {
        let there = match action {
            AlarmAction::Activate => {
                self.0.contains(&alarm) || (self.0.len() < MAX_ALARMS && self.0.insert(alarm))
            }
            AlarmAction::Deactivate => self.0.remove(&alarm),
        };
        there.then_some(alarm)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.number(self.0.len() as u64);
        for raised in &self.0 {
            out.byte(raised.alarm.number());
            out.number(raised.member);
        }
        out.0
    }

    pub(super) fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(payload);
        let mut alarms = BTreeSet::new();
        for _ in 0..input.count()? {
            let raised = AlarmMember {
                alarm: Alarm::from_number(input.byte()?)?,
                member: input.number()?,
            };
            if alarms.len() == MAX_ALARMS || !alarms.insert(raised) {
                return Err(DecodeError::Malformed);
            }
        }
        input.end()?;
        Ok(Self(alarms))
    }
}

/// Whether a transaction may put something, whichever way it goes.
fn puts(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put(_) => true,
        Op::Txn(txn) => puts(txn),
        Op::Range(_) | Op::DeleteRange(_) => false,
    })
}
