//! Bytes from members and from clients.

use anyhow::Result;
use bytes::Bytes;
use prost::Message;
use trivet_datastore::{LeaseId, Revision};
use trivet_etcd_diff::{Answer, Generator, Op, Ours, Side, View};
use trivet_mvcc::{Op as Step, PutOp, Txn};
use trivet_store_etcd::state::{Command, Outcome};

use crate::Target;

/// Replicated commands, as they stand in the log and go between members.
pub(crate) fn commands() -> Result<Target> {
    let put = PutOp {
        key: "a".into(),
        value: "some value".into(),
        lease: Some(LeaseId(7)),
        prev_kv: true,
        ignore_value: false,
        ignore_lease: false,
    };
    let commands = [
        Command::Txn(Txn::single(Step::Put(put))),
        Command::Compact {
            revision: Revision(900),
        },
        Command::LeaseRevoke { id: LeaseId(-1) },
        Command::LeaseCheckpoint {
            remaining: vec![(LeaseId(1), 5), (LeaseId(2), u64::MAX)],
        },
    ];
    Ok(Target {
        name: "commands",
        corpus: commands.iter().map(|it| it.encode().to_vec()).collect(),
        read: Box::new(|input| {
            let bytes = Bytes::copy_from_slice(input);
            if let Ok(command) = Command::decode(bytes.clone()) {
                assert!(Command::decode(command.encode()).is_ok_and(|again| again == command));
            }
            std::hint::black_box(Outcome::decode(bytes).is_ok());
        }),
    })
}

/// The methods that take requests of any bytes here; none that would stop the server or raise an
/// alarm that refuses everything after it.
const METHODS: [&str; 12] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.KV/Compact",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Cluster/MemberList",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/HashKV",
    "/etcdserverpb.Lease/LeaseLeases",
];

/// Request bodies over HTTP/2 to a member in this process; the first byte says which method.
pub(crate) fn client_port() -> Result<Target> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let (ours, mut side) = runtime.block_on(async {
        let ours = Ours::start().await?;
        let side = Side::connect(ours.address, false).await?;
        anyhow::Ok((ours, side))
    })?;
    // Real requests, of the comparison with etcd.
    let mut generator = Generator::new(1);
    let mut corpus = Vec::new();
    while corpus.len() < 200 {
        let (method, body) = match generator.next(&View::default()) {
            Op::Range(request) => (0, request.encode_to_vec()),
            Op::Put(request) => (1, request.encode_to_vec()),
            Op::Delete(request) => (2, request.encode_to_vec()),
            Op::Txn(request) => (3, request.encode_to_vec()),
            Op::Compact(request) => (4, request.encode_to_vec()),
            Op::Grant(request) => (6, request.encode_to_vec()),
            _ => continue,
        };
        if body.len() < 10_000 {
            corpus.push([vec![method], body].concat());
        }
    }
    Ok(Target {
        name: "client-port",
        corpus,
        read: Box::new(move |input| {
            let _serves = &ours;
            let Some((method, body)) = input.split_first() else {
                return;
            };
            let method = METHODS[usize::from(*method) % METHODS.len()];
            // A watch that is taken has no end; its answer is not waited for.
            let wait =
                std::time::Duration::from_millis(if method.contains("Watch") { 20 } else { 4000 });
            let op = Op::Raw(method, body.to_vec());
            let answer =
                runtime.block_on(async { tokio::time::timeout(wait, side.perform(&op)).await });
            match answer {
                Ok(Answer::Refused(code, text)) => {
                    // A handler that panics ends its stream without a status.
                    let lost = format!("{code:?}");
                    let broken = ["Cancelled", "DataLoss", "Unavailable"];
                    assert!(!broken.contains(&lost.as_str()), "{method}: {lost} {text}");
                }
                Err(_) => assert!(method.contains("Watch"), "{method} is never answered"),
                Ok(_) => {}
            }
        }),
    })
}
