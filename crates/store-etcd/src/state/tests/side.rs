//! Side tables: alarms, the time leases have left, auth.

use super::*;
use crate::state::{CommandError, Response};

fn raise(alarm: Alarm, member: u64) -> Command {
    Command::Alarm {
        action: AlarmAction::Activate,
        alarm: AlarmMember { alarm, member },
    }
}

fn end(alarm: Alarm, member: u64) -> Command {
    Command::Alarm {
        action: AlarmAction::Deactivate,
        alarm: AlarmMember { alarm, member },
    }
}

fn grant(id: i64) -> Command {
    Command::LeaseGrant {
        id: LeaseId(id),
        ttl_s: 60,
    }
}

/// What is refused under an alarm, of a put, a deletion, a nested put in the branch that is not
/// taken, a grant, a revocation, a compaction.
fn refused(machine: &mut Machine, index: u64) -> Vec<Option<Alarm>> {
    let nested = Txn {
        failure: vec![Op::Txn(Txn::single(Op::Put(PutOp::new("n", "1"))))],
        ..Txn::default()
    };
    let commands = [
        put("k", "v"),
        delete(KeyRange::Key("none".into())),
        Command::Txn(nested),
        grant(index as i64),
        Command::LeaseRevoke { id: LeaseId(9999) },
        Command::Compact {
            revision: Revision(9999),
        },
    ];
    apply(machine, index, &commands)
        .into_iter()
        .map(|outcome| match outcome.result {
            Err(CommandError::Alarm(alarm)) => Some(alarm),
            _ => None,
        })
        .collect()
}

#[test]
fn alarms_refuse_what_they_are_about() {
    let (mut machine, shared) = open_on(&SimDisk::new()).unwrap();
    assert_eq!(refused(&mut machine, 1), [None; 6]);
    apply(&mut machine, 2, &[raise(Alarm::NoSpace, 7)]);
    assert!(shared.alarms().any(Alarm::NoSpace));
    let space = Some(Alarm::NoSpace);
    let full = [space, None, space, space, None, None];
    assert_eq!(refused(&mut machine, 3), full);
    // Damage weighs more, and forbids deletions too.
    apply(&mut machine, 4, &[raise(Alarm::Corrupt, 0)]);
    assert_eq!(refused(&mut machine, 5), [Some(Alarm::Corrupt); 6]);
    apply(&mut machine, 6, &[end(Alarm::Corrupt, 0)]);
    assert_eq!(refused(&mut machine, 7), full);
    // One member's alarm is enough.
    apply(
        &mut machine,
        8,
        &[raise(Alarm::NoSpace, 8), end(Alarm::NoSpace, 7)],
    );
    assert_eq!(refused(&mut machine, 9), full);
    apply(&mut machine, 10, &[end(Alarm::NoSpace, 8)]);
    assert_eq!(refused(&mut machine, 11), [None; 6]);
    assert!(shared.alarms().is_empty());
}

#[test]
fn raising_and_ending_answer_as_etcd_does() {
    let (mut machine, _) = open_on(&SimDisk::new()).unwrap();
    let alarm = AlarmMember {
        alarm: Alarm::NoSpace,
        member: 7,
    };
    let commands = [
        end(Alarm::NoSpace, 7),
        raise(Alarm::NoSpace, 7),
        raise(Alarm::NoSpace, 7),
        end(Alarm::Corrupt, 7),
        end(Alarm::NoSpace, 8),
        end(Alarm::NoSpace, 7),
        end(Alarm::NoSpace, 7),
    ];
    let answers: Vec<_> = apply(&mut machine, 1, &commands)
        .into_iter()
        .map(|outcome| outcome.result.unwrap())
        .collect();
    let expected = [
        None,
        Some(alarm),
        Some(alarm),
        None,
        None,
        Some(alarm),
        None,
    ];
    assert_eq!(answers, expected.map(Response::Alarmed));
}

/// Adds a role with a long name: two of them make the table longer than a frame.
fn role(letter: char) -> Command {
    let role = String::from(letter).repeat(3 << 19);
    Command::Auth(AuthCommand::RoleAdd { role }.encode())
}

/// Fills every side table, beside a key.
fn fill(machine: &mut Machine) {
    let remaining = vec![(LeaseId(1), 17), (LeaseId(3), 0), (LeaseId(99), 5)];
    apply(
        machine,
        1,
        &[
            put("k", "v"),
            grant(1),
            grant(2),
            grant(3),
            Command::LeaseCheckpoint { remaining },
            role('a'),
            role('b'),
            raise(Alarm::NoSpace, u64::MAX),
            raise(Alarm::Corrupt, 0),
        ],
    );
}

#[test]
fn side_tables_survive_a_checkpoint_and_a_snapshot() {
    let disk = SimDisk::new();
    let (mut machine, shared) = open_on(&disk).unwrap();
    fill(&mut machine);
    machine.checkpoint(true).unwrap();
    let expected = dump(&shared);
    assert_eq!(expected.leases[&LeaseId(1)].1, 17);
    assert_eq!(expected.alarms.iter().count(), 2);
    let (_, restarted) = open_on(&disk.crash_image(1)).unwrap();
    assert_eq!(dump(&restarted), expected);
    assert_eq!(restarted.alarms(), shared.alarms());
    assert_eq!(restarted.auth(), shared.auth());
    let (position, mut source) = machine.snapshot().unwrap();
    let mut chunks = std::iter::from_fn(|| source.next_chunk().transpose());
    let (mut to, to_shared) = open_on(&SimDisk::new()).unwrap();
    to.install(position, &mut chunks).unwrap();
    assert_eq!(dump(&to_shared), expected);
    assert_eq!(to_shared.alarms(), shared.alarms());
    assert_eq!(to_shared.auth(), shared.auth());
}

/// What version 1 wrote: the same frames, without side tables.
#[test]
fn files_of_version_1_are_read() {
    let disk = SimDisk::new();
    let (mut machine, shared) = open_on(&disk).unwrap();
    apply(&mut machine, 1, &[put("k", "v"), grant(1)]);
    machine.checkpoint(true).unwrap();
    let (position, mut source) = machine.snapshot().unwrap();
    let expected = dump(&shared);
    let path = disk
        .files()
        .into_iter()
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "ckpt")
        })
        .unwrap();
    let mut checkpoint = disk.content(&path);
    assert_eq!(checkpoint[8..12], 2u32.to_le_bytes());
    checkpoint[8] = 1;
    disk.overwrite(&path, &checkpoint);
    assert_eq!(dump(&open_on(&disk).unwrap().1), expected);
    checkpoint[8] = 3;
    disk.overwrite(&path, &checkpoint);
    let error = open_on(&disk).unwrap_err().to_string();
    assert!(error.contains("another version"), "{error}");

    let mut chunks = Vec::new();
    while let Some(chunk) = source.next_chunk().unwrap() {
        chunks.extend_from_slice(&chunk);
    }
    let install = |version: u8| {
        let stream = snapshot_of_version(&chunks, version);
        let (mut to, to_shared) = open_on(&SimDisk::new()).unwrap();
        to.install(position, &mut std::iter::once(Ok(stream.into())))
            .map(|()| dump(&to_shared))
    };
    assert_eq!(install(1).unwrap(), expected);
    assert_eq!(install(2).unwrap(), expected);
    assert!(install(3).is_err());
}

/// The same stream under another version.
fn snapshot_of_version(stream: &[u8], version: u8) -> Vec<u8> {
    use crate::state::frame::{KIND_END, take_frame, write_frame};
    use crate::state::wire::{Reader, Writer};
    let (mut input, mut out) = (bytes::BytesMut::from(stream), Vec::new());
    while let Some((kind, payload)) = take_frame(&mut input).unwrap() {
        let mut payload = payload.to_vec();
        if out.is_empty() {
            // After the magic.
            payload[8] = version;
        }
        if kind == KIND_END {
            let records = Reader::new(payload.into()).number().unwrap();
            let mut end = Writer::default();
            end.number(records);
            end.number(crc32c::crc32c(&out).into());
            payload = end.0;
        }
        write_frame(&mut out, kind, &payload);
    }
    out
}
