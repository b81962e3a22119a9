//! The comparison itself, short; and that it finds what is different.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};
use trivet_etcd_diff::{Generator, Genuine, Op, Ours, Report, Side, Source, find_etcd, run};
use trivet_store_etcd::proto::etcdserverpb as pb;

/// One comparison at a time: they wait for each other's servers otherwise.
static TURN: Mutex<()> = Mutex::const_new(());

async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

fn seed() -> u64 {
    let given = std::env::var("TRIVET_TEST_SEED").ok();
    given.and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

fn is_full() -> bool {
    std::env::var("TRIVET_TEST_PROFILE").is_ok_and(|profile| profile == "full")
}

fn told(report: &Report) -> String {
    report
        .mismatches
        .iter()
        .map(|m| {
            format!(
                "\nseed {}, operation {}: {}\n  ours:   {}\n  theirs: {}",
                seed(),
                m.index,
                m.op,
                m.ours,
                m.theirs
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_cannot_tell_us_from_etcd() {
    let Some(program) = find_etcd() else {
        assert!(
            std::env::var_os("TRIVET_REQUIRE_CLIENTS").is_none_or(|value| value != "1"),
            "etcd is required and missing"
        );
        eprintln!("SKIPPED: etcd is not installed");
        return;
    };
    let _turn = turn().await;
    let count = if is_full() { 40_000 } else { 5000 };
    let genuine = Genuine::start(&program).await.unwrap();
    let ours = Ours::start().await.unwrap();
    let mut our_side = Side::connect(ours.address, false).await.unwrap();
    let mut their_side = Side::connect(genuine.address, true).await.unwrap();
    eprintln!("seed {}, etcd {}", seed(), their_side.version);
    let source = Source::Generated(Box::new(Generator::new(seed())), count);
    let report = run(&mut our_side, &mut their_side, source, 3)
        .await
        .unwrap();
    assert!(
        report.mismatches.is_empty(),
        "{}\nrepeat with: cargo xtask diff-etcd --ops {count} --seed {}",
        told(&report),
        seed()
    );

    // The generator must have gone where it says it goes.
    assert_eq!(report.ops.len(), count);
    assert!(report.events > 1000, "{} events", report.events);
    let kinds = [
        "Range",
        "RangeStream",
        "Put",
        "DeleteRange",
        "Txn",
        "Compact",
        "LeaseGrant",
        "LeaseRevoke",
        "LeaseTimeToLive",
        "LeaseLeases",
        "LeaseKeepAlive",
        "lease expiry",
        "watch stream",
        "watch create",
        "watch cancel",
        "watch progress",
        "watch blank",
        "watch half-close",
        "MemberList",
        "MemberAdd",
        "MemberRemove",
        "MemberUpdate",
        "MemberPromote",
        "Status",
        "Hash",
        "HashKV",
        "Alarm",
        "Defragment",
        "MoveLeader",
        "raw bytes",
    ];
    for kind in kinds {
        assert!(report.kinds.contains_key(kind), "no {kind} was sent");
    }
    let refusals = [
        "InvalidArgument etcdserver: key is not provided",
        "InvalidArgument etcdserver: key not found",
        "InvalidArgument etcdserver: value is provided",
        "InvalidArgument etcdserver: lease is provided",
        "InvalidArgument etcdserver: duplicate key given in txn request",
        "InvalidArgument etcdserver: too many operations in txn request",
        "InvalidArgument etcdserver: request is too large",
        "NotFound etcdserver: requested lease not found",
        "NotFound etcdserver: member not found",
        "FailedPrecondition etcdserver: lease already exists",
        "OutOfRange etcdserver: mvcc: required revision has been compacted",
        "OutOfRange etcdserver: mvcc: required revision is a future revision",
        "OutOfRange etcdserver: too large lease TTL",
        "ResourceExhausted grpc: received message larger than max",
    ];
    for text in refusals {
        assert!(report.refusals.contains_key(text), "never met: {text}");
    }
    drop((our_side, their_side));
    ours.stop().await;
}

/// Two of ours, the second one after `before`.
async fn ours_twice(before: &[Op], source: Source) -> Report {
    let _turn = turn().await;
    let pair = [Ours::start().await.unwrap(), Ours::start().await.unwrap()];
    let mut first = Side::connect(pair[0].address, false).await.unwrap();
    let mut second = Side::connect(pair[1].address, false).await.unwrap();
    for op in before {
        second.perform(op).await;
    }
    let report = run(&mut first, &mut second, source, 3).await.unwrap();
    drop((first, second));
    for ours in Arc::new(pair).iter() {
        ours.stop().await;
    }
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_ours_are_the_same() {
    let source = Source::Generated(Box::new(Generator::new(seed())), 600);
    let report = ours_twice(&[], source).await;
    assert!(report.mismatches.is_empty(), "{}", told(&report));
    assert!(report.tolerated.is_empty(), "{:?}", report.tolerated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_difference_is_found() {
    let put = Op::Put(pb::PutRequest {
        key: "a".into(),
        ..Default::default()
    });
    let source = Source::Generated(Box::new(Generator::new(seed())), 200);
    let report = ours_twice(std::slice::from_ref(&put), source).await;
    assert_eq!(report.mismatches.len(), 1, "{}", told(&report));

    // One that shows nowhere but in what a watch delivers.
    let open = Op::Watch(0, trivet_etcd_diff::WatchStep::Open);
    let create = Op::Watch(
        0,
        trivet_etcd_diff::WatchStep::Create(pb::WatchCreateRequest {
            key: "a".into(),
            start_revision: 2,
            ..Default::default()
        }),
    );
    let lease = Op::Grant(pb::LeaseGrantRequest { id: 5, ttl: 900 });
    let leased = Op::Put(pb::PutRequest {
        key: "a".into(),
        lease: 5,
        ..Default::default()
    });
    let gone = Op::Delete(pb::DeleteRangeRequest {
        key: "a".into(),
        ..Default::default()
    });
    let mut ops = vec![lease, leased, gone.clone(), open, create];
    let same = ours_twice(&[], Source::Given(ops.clone())).await;
    assert!(same.mismatches.is_empty(), "{}", told(&same));
    // The first of the two: the same revisions by other changes.
    ops.drain(0..3);
    let report = ours_twice(&[put, gone], Source::Given(ops)).await;
    assert!(!report.mismatches.is_empty());
}
