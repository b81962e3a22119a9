//! The encoding of commands and outcomes: a version byte, a kind byte, then fields in order.

mod txn;

use bytes::Bytes;
use trivet_etcd_auth::{AuthAnswer, AuthError, Caller};
use trivet_mvcc::{Error as Refusal, Invalid, LeaseId, Revision};

use self::txn::{read_txn, read_txn_result, write_txn, write_txn_result};
use super::alarm::{Alarm, AlarmAction, AlarmMember};
use super::command::{Command, CommandError, Outcome, Response};
use super::wire::{Reader, Writer};

/// Version of the encoding of commands and outcomes.
const VERSION: u8 = 1;

/// Why bytes could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not what was written by any version.
    #[error("malformed bytes")]
    Malformed,
    /// Written by a later version; this program is too old for it.
    #[error("version {version} kind {kind} is not known to this program; update it")]
    Unknown {
        /// Version byte.
        version: u8,
        /// Kind byte.
        kind: u8,
    },
}

type Decoded<T> = Result<T, DecodeError>;

pub(super) fn encode_command(command: &Command) -> Bytes {
    let mut out = Writer::with_capacity(256);
    write_command(&mut out, command);
    out.0.into()
}

pub(super) fn encode_command_as(caller: &Caller, command: &Command) -> Bytes {
    let mut out = Writer::with_capacity(256);
    write_command_as(&mut out, caller, command);
    out.0.into()
}

fn write_command_as(out: &mut Writer, caller: &Caller, command: &Command) {
    out.byte(VERSION);
    out.byte(8);
    match caller {
        Caller::Anonymous => out.byte(0),
        Caller::Root => out.byte(1),
        Caller::User {
            name,
            auth_revision,
        } => {
            out.byte(2);
            out.bytes(name.as_bytes());
            out.number(*auth_revision);
        }
    }
    write_command(out, command);
}

fn read_caller(input: &mut Reader) -> Decoded<Caller> {
    match input.byte()? {
        0 => Ok(Caller::Anonymous),
        1 => Ok(Caller::Root),
        2 => Ok(Caller::User {
            name: String::from_utf8(input.bytes()?.to_vec()).map_err(|_| DecodeError::Malformed)?,
            auth_revision: input.number()?,
        }),
        _ => Err(DecodeError::Malformed),
    }
}

fn write_command(out: &mut Writer, command: &Command) {
    if !matches!(command, Command::As { .. }) {
        out.byte(VERSION);
    }
    match command {
        Command::As { caller, command } => write_command_as(out, caller, command),
        Command::Txn(txn) => {
            out.byte(1);
            write_txn(out, txn);
        }
        Command::LeaseGrant { id, ttl_s } => {
            out.byte(2);
            out.signed(id.0);
            out.number(*ttl_s);
        }
        Command::LeaseRevoke { id } => {
            out.byte(3);
            out.signed(id.0);
        }
        Command::Compact { revision } => {
            out.byte(4);
            out.number(revision.0);
        }
        Command::Alarm { action, alarm } => {
            out.byte(5);
            out.byte(match action {
                AlarmAction::Activate => 1,
                AlarmAction::Deactivate => 2,
            });
            write_alarm(out, *alarm);
        }
        Command::LeaseCheckpoint { remaining } => {
            out.byte(6);
            write_list(out, remaining, |out, (id, seconds)| {
                out.signed(id.0);
                out.number(*seconds);
            });
        }
        Command::Auth(payload) => {
            out.byte(7);
            out.bytes(payload);
        }
    }
}

pub(super) fn decode_command(bytes: Bytes) -> Decoded<Command> {
    let mut input = Reader::new(bytes);
    let command = read_command(&mut input, false)?;
    input.end()?;
    Ok(command)
}

fn read_command(input: &mut Reader, within: bool) -> Decoded<Command> {
    let (version, kind) = (input.byte()?, input.byte()?);
    if version == 0 || kind == 0 {
        return Err(DecodeError::Malformed);
    }
    let unknown = DecodeError::Unknown { version, kind };
    if version != VERSION {
        return Err(unknown);
    }
    Ok(match kind {
        1 => Command::Txn(read_txn(input, 0)?),
        2 => Command::LeaseGrant {
            id: read_lease_id(input)?,
            ttl_s: input.number()?,
        },
        3 => Command::LeaseRevoke {
            id: read_lease_id(input)?,
        },
        4 => Command::Compact {
            revision: Revision(input.number()?),
        },
        5 => Command::Alarm {
            action: match input.byte()? {
                1 => AlarmAction::Activate,
                2 => AlarmAction::Deactivate,
                _ => return Err(DecodeError::Malformed),
            },
            alarm: read_alarm(input)?,
        },
        6 => Command::LeaseCheckpoint {
            remaining: read_list(input, |input| Ok((read_lease_id(input)?, input.number()?)))?,
        },
        7 => Command::Auth(input.bytes()?),
        // One caller is enough.
        8 if within => return Err(DecodeError::Malformed),
        8 => Command::As {
            caller: read_caller(input)?,
            command: Box::new(read_command(input, true)?),
        },
        _ => return Err(unknown),
    })
}

fn write_alarm(out: &mut Writer, alarm: AlarmMember) {
    out.byte(alarm.alarm.number());
    out.number(alarm.member);
}

fn read_alarm(input: &mut Reader) -> Decoded<AlarmMember> {
    Ok(AlarmMember {
        alarm: Alarm::from_number(input.byte()?)?,
        member: input.number()?,
    })
}

pub(super) fn encode_outcome(outcome: &Outcome) -> Bytes {
    let mut out = Writer::with_capacity(64);
    out.byte(VERSION);
    match &outcome.result {
        Ok(Response::Txn(_)) => out.byte(1),
        Ok(Response::LeaseGranted { .. }) => out.byte(2),
        Ok(Response::LeaseRevoked { .. }) => out.byte(3),
        Ok(Response::Compacted) => out.byte(4),
        Ok(Response::Alarmed(_)) => out.byte(5),
        Ok(Response::LeasesCheckpointed) => out.byte(6),
        Ok(Response::Auth { .. }) => out.byte(7),
        Err(_) => out.byte(16),
    }
    out.number(outcome.revision.0);
    match &outcome.result {
        Ok(Response::Txn(result)) => write_txn_result(&mut out, result),
        Ok(Response::LeaseGranted { id, ttl_s }) => {
            out.signed(id.0);
            out.number(*ttl_s);
        }
        Ok(Response::LeaseRevoked { deleted }) => out.number(*deleted),
        Ok(Response::Compacted | Response::LeasesCheckpointed) => {}
        Ok(Response::Alarmed(alarm)) => {
            write_list(&mut out, alarm.as_slice(), |out, alarm| {
                write_alarm(out, *alarm);
            });
        }
        Ok(Response::Auth { answer, index }) => {
            out.bytes(&answer.encode());
            out.number(*index);
        }
        Err(error) => write_error(&mut out, error),
    }
    out.0.into()
}

pub(super) fn decode_outcome(bytes: Bytes) -> Decoded<Outcome> {
    let mut input = Reader::new(bytes);
    let (version, kind) = (input.byte()?, input.byte()?);
    if version != VERSION {
        return Err(DecodeError::Unknown { version, kind });
    }
    let revision = Revision(input.number()?);
    let result = match kind {
        1 => Ok(Response::Txn(read_txn_result(&mut input, 0)?)),
        2 => Ok(Response::LeaseGranted {
            id: read_lease_id(&mut input)?,
            ttl_s: input.number()?,
        }),
        3 => Ok(Response::LeaseRevoked {
            deleted: input.number()?,
        }),
        4 => Ok(Response::Compacted),
        5 => {
            let mut alarms = read_list(&mut input, read_alarm)?;
            if alarms.len() > 1 {
                return Err(DecodeError::Malformed);
            }
            Ok(Response::Alarmed(alarms.pop()))
        }
        6 => Ok(Response::LeasesCheckpointed),
        7 => Ok(Response::Auth {
            answer: AuthAnswer::decode(&input.bytes()?).map_err(|_| DecodeError::Malformed)?,
            index: input.number()?,
        }),
        16 => Err(read_error(&mut input)?),
        _ => return Err(DecodeError::Unknown { version, kind }),
    };
    input.end()?;
    Ok(Outcome { revision, result })
}

fn write_list<T>(out: &mut Writer, list: &[T], write: fn(&mut Writer, &T)) {
    out.number(list.len() as u64);
    for item in list {
        write(out, item);
    }
}

fn read_list<T>(
    input: &mut Reader,
    mut read: impl FnMut(&mut Reader) -> Decoded<T>,
) -> Decoded<Vec<T>> {
    // A short input may announce many elements of which each takes far more memory than its
    // one byte; growth follows what is really there.
    let count = input.count()?;
    let mut list = Vec::with_capacity(count.min(64));
    for _ in 0..count {
        list.push(read(input)?);
    }
    Ok(list)
}

fn read_lease_id(input: &mut Reader) -> Decoded<LeaseId> {
    match input.signed()? {
        0 => Err(DecodeError::Malformed),
        id => Ok(LeaseId(id)),
    }
}

fn write_error(out: &mut Writer, error: &CommandError) {
    match error {
        CommandError::Malformed => out.byte(0),
        CommandError::Alarm(alarm) => {
            out.byte(7);
            out.byte(alarm.number());
        }
        CommandError::Auth(error) => {
            out.byte(8);
            out.bytes(&error.encode());
        }
        CommandError::Refused(refusal) => match refusal {
            Refusal::Compacted { compact_revision } => {
                out.byte(1);
                out.number(compact_revision.0);
            }
            Refusal::FutureRevision { requested, current } => {
                out.byte(2);
                out.number(requested.0);
                out.number(current.0);
            }
            Refusal::LeaseNotFound => out.byte(3),
            Refusal::LeaseExists => out.byte(4),
            Refusal::KeyNotFound => out.byte(5),
            Refusal::Invalid(invalid) => {
                out.byte(6);
                out.byte(match invalid {
                    Invalid::EmptyKey => 0,
                    Invalid::ValueProvided => 1,
                    Invalid::LeaseProvided => 2,
                    Invalid::TooManyOps => 3,
                    Invalid::DuplicateKey => 4,
                    Invalid::TooDeep => 5,
                });
            }
        },
    }
}

fn read_error(input: &mut Reader) -> Decoded<CommandError> {
    let refusal = match input.byte()? {
        0 => return Ok(CommandError::Malformed),
        1 => Refusal::Compacted {
            compact_revision: Revision(input.number()?),
        },
        2 => Refusal::FutureRevision {
            requested: Revision(input.number()?),
            current: Revision(input.number()?),
        },
        3 => Refusal::LeaseNotFound,
        4 => Refusal::LeaseExists,
        5 => Refusal::KeyNotFound,
        6 => Refusal::Invalid(match input.byte()? {
            0 => Invalid::EmptyKey,
            1 => Invalid::ValueProvided,
            2 => Invalid::LeaseProvided,
            3 => Invalid::TooManyOps,
            4 => Invalid::DuplicateKey,
            5 => Invalid::TooDeep,
            _ => return Err(DecodeError::Malformed),
        }),
        7 => return Ok(CommandError::Alarm(Alarm::from_number(input.byte()?)?)),
        8 => {
            return AuthError::decode(&input.bytes()?)
                .map(CommandError::Auth)
                .map_err(|_| DecodeError::Malformed);
        }
        _ => return Err(DecodeError::Malformed),
    };
    Ok(CommandError::Refused(refusal))
}
