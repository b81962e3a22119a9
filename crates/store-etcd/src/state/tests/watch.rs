//! Watches and leases.

use trivet_mvcc::{EventKind, LeaseInfo, WatchEvent};

use super::*;
use crate::state::{LeaseChange, WatchError, WatchOp, Watcher};

fn all(start: Option<u64>) -> WatchOp {
    WatchOp {
        range: KeyRange::all(),
        start: start.map(Revision),
        no_put: false,
        no_delete: false,
        previous: true,
    }
}

fn workload_without_compaction(seed: u64, entries: u64) -> Vec<AppliedBatch> {
    let compacts =
        |bytes: &Bytes| matches!(Command::decode(bytes.clone()), Ok(Command::Compact { .. }));
    let mut log = workload(seed, entries);
    log.iter_mut()
        .for_each(|batch| batch.commands.retain(|bytes| !compacts(bytes)));
    log
}

async fn drain(watcher: &mut Watcher) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    while let Some(batch) = watcher.ready().await.unwrap() {
        assert!(!batch.events.is_empty());
        assert_eq!(watcher.position(), batch.revision);
        assert!(
            batch
                .events
                .iter()
                .all(|event| event.current.mod_revision <= batch.revision)
        );
        events.extend(batch.events);
    }
    events
}

#[tokio::test]
async fn history_and_log_tell_the_same() {
    let (mut machine, shared) = open_on(&SimDisk::new()).unwrap();
    let mut live = shared.watch(all(None));
    let mut told = Vec::new();
    for batch in workload_without_compaction(20, 200) {
        machine.apply(&batch).unwrap();
        machine.checkpoint(false).unwrap();
        told.extend(drain(&mut live).await);
    }
    assert_eq!(live.position(), shared.revision());
    // By far more than the log in memory holds.
    assert!(told.len() > 150);
    assert_eq!(drain(&mut shared.watch(all(Some(2)))).await, told);
    let middle = Revision(shared.revision().0 / 2);
    let later: Vec<_> = told
        .iter()
        .filter(|event| event.current.mod_revision >= middle)
        .cloned()
        .collect();
    assert_eq!(drain(&mut shared.watch(all(Some(middle.0)))).await, later);
    let deletions = WatchOp {
        no_put: true,
        range: KeyRange::prefix("/registry/1".into()),
        ..all(Some(0))
    };
    let expected: Vec<_> = told
        .iter()
        .filter(|event| {
            event.kind == EventKind::Delete && event.current.key.starts_with(b"/registry/1")
        })
        .cloned()
        .collect();
    assert!(!expected.is_empty());
    assert_eq!(drain(&mut shared.watch(deletions)).await, expected);
    for event in &told {
        let fresh = event.current.version == 1;
        assert_eq!(
            event.previous.is_none(),
            fresh && event.kind == EventKind::Put,
            "{event:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_catches_up_meets_the_writer_without_a_gap() {
    let (mut machine, shared) = open_on(&SimDisk::new()).unwrap();
    for index in 1..=200 {
        apply(&mut machine, index, &[put("old", index.to_string())]);
    }
    let watchers: Vec<_> = (0..4)
        .map(|number| {
            let mut watcher = shared.watch(all(Some(2 + number * 40)));
            tokio::spawn(async move {
                let mut next = watcher.start().0;
                while next <= 1401 {
                    for event in watcher.next().await.unwrap().events {
                        assert_eq!(event.current.mod_revision.0, next);
                        next += 1;
                    }
                }
            })
        })
        .collect();
    let writer = tokio::task::spawn_blocking(move || {
        for index in 201..=800 {
            apply(
                &mut machine,
                index,
                &[put("a", index.to_string()), put("b", "x")],
            );
        }
        machine
    });
    let machine = writer.await.unwrap();
    for watcher in watchers {
        watcher.await.unwrap();
    }
    // Ends with the machine.
    let mut waiting = shared.watch(all(None));
    let ended = tokio::spawn(async move { waiting.next().await });
    drop(machine);
    assert_eq!(ended.await.unwrap(), Err(WatchError::Closed));
}

#[tokio::test]
async fn compaction_ends_a_watch_that_needs_what_is_gone() {
    let (mut machine, shared) = open_on(&SimDisk::new()).unwrap();
    let mut slow = shared.watch(all(Some(2)));
    for index in 1..=50 {
        apply(&mut machine, index, &[put("k", index.to_string())]);
    }
    apply(&mut machine, 51, &[delete(KeyRange::all())]);
    apply(
        &mut machine,
        52,
        &[Command::Compact {
            revision: Revision(52),
        }],
    );
    machine.checkpoint(true).unwrap();
    let compacted = WatchError::Compacted {
        compact_revision: Revision(52),
    };
    assert_eq!(slow.ready().await, Err(compacted.clone()));
    assert_eq!(shared.watch(all(Some(51))).next().await, Err(compacted));
    let events = drain(&mut shared.watch(all(Some(52)))).await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].kind, EventKind::Delete);
    assert_eq!(events[0].current.mod_revision, Revision(52));
    // One that starts later hears nothing before its time.
    let mut future = shared.watch(all(Some(55)));
    apply(&mut machine, 53, &[put("a", "1"), put("a", "2")]);
    assert_eq!(future.ready().await, Ok(None));
    apply(&mut machine, 54, &[put("a", "3")]);
    assert_eq!(future.next().await.unwrap().revision, Revision(55));
}

#[tokio::test]
async fn a_watch_goes_on_over_an_installed_snapshot() {
    let (mut from, from_shared) = open_on(&SimDisk::new()).unwrap();
    let (mut to, to_shared) = open_on(&SimDisk::new()).unwrap();
    let log = workload_without_compaction(21, 100);
    for batch in &log {
        from.apply(batch).unwrap();
    }
    let mut watcher = to_shared.watch(all(Some(2)));
    for batch in &log[..10] {
        to.apply(batch).unwrap();
    }
    let mut told = drain(&mut watcher).await;
    let (position, mut source) = from.snapshot().unwrap();
    to.install(
        position,
        &mut std::iter::from_fn(|| source.next_chunk().transpose()),
    )
    .unwrap();
    apply(&mut from, 101, &[put("after", "it")]);
    apply(&mut to, 101, &[put("after", "it")]);
    told.extend(drain(&mut watcher).await);
    assert_eq!(told, drain(&mut from_shared.watch(all(Some(2)))).await);
}

#[test]
fn changes_of_leases_are_told_in_order() {
    let (mut machine, shared) = open_on(&SimDisk::new()).unwrap();
    let cursor = shared.lease_cursor();
    let grant = |id| Command::LeaseGrant {
        id: LeaseId(id),
        ttl_s: 10,
    };
    apply(&mut machine, 1, &[grant(1), grant(2), grant(1)]);
    let op = PutOp {
        lease: Some(LeaseId(2)),
        ..PutOp::new("k", "v")
    };
    apply(&mut machine, 2, &[Command::Txn(Txn::single(Op::Put(op)))]);
    assert_eq!(shared.lease_keys(LeaseId(2)), Some(vec!["k".into()]));
    let outcomes = apply(&mut machine, 3, &[Command::LeaseRevoke { id: LeaseId(2) }]);
    assert_eq!(
        outcomes[0].result,
        Ok(crate::state::Response::LeaseRevoked { deleted: 1 })
    );
    assert_eq!(outcomes[0].revision, Revision(3));
    let info = |id| LeaseInfo {
        remaining_s: 0,
        id: LeaseId(id),
        ttl_s: 10,
    };
    let changes = shared.lease_changes(cursor);
    let expected = vec![
        LeaseChange::Granted(info(1)),
        LeaseChange::Granted(info(2)),
        LeaseChange::Revoked(LeaseId(2)),
    ];
    assert_eq!(changes.changes, Ok(expected));
    assert_eq!(shared.lease_changes(changes.next).changes, Ok(vec![]));
    assert_eq!(shared.leases(), [info(1)]);
    assert_eq!(*shared.lease_notify().borrow(), changes.next);
    let (position, mut source) = machine.snapshot().unwrap();
    let position = LogPosition {
        index: position.index + 1,
        ..position
    };
    machine
        .install(
            position,
            &mut std::iter::from_fn(|| source.next_chunk().transpose()),
        )
        .unwrap();
    assert!(shared.lease_changes(changes.next).changes.is_err());
}
