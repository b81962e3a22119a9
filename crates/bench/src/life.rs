//! Rows about the life of a cluster: memory, restart, failover, snapshots.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tonic::Code;
use trivet_store_etcd::proto::etcdserverpb::SnapshotRequest;

use crate::load::{self, Measured};
use crate::peer::Peer;
use crate::report::Reading;

/// How long memory and caches settle before they are looked at.
const SETTLE: Duration = Duration::from_secs(3);

/// Writers beside a snapshot.
const WRITERS: usize = 16;

/// Resident memory of the largest member, once it had time to settle.
pub(crate) async fn memory(peer: &Peer) -> Reading {
    tokio::time::sleep(SETTLE).await;
    Reading::Value {
        value: peer.resident_mib(),
        unit: "MiB",
    }
}

/// A restart of all members together: the time until each serves again, and the memory then.
pub(crate) async fn restart(peer: &mut Peer) -> Result<[Reading; 2]> {
    let took = peer.restart().await?;
    Ok([
        Reading::Value {
            value: took.as_secs_f64(),
            unit: "s",
        },
        memory(peer).await,
    ])
}

/// From kill -9 of the leader to the next acknowledged write.
pub(crate) async fn fail_over(peer: &mut Peer) -> Result<Reading> {
    Ok(Reading::Value {
        value: peer.fail_over().await?.as_secs_f64(),
        unit: "s",
    })
}

/// What a snapshot found: its time, its size, the memory it took, and the writes beside it.
pub(crate) struct Snapshot {
    pub(crate) took: Reading,
    pub(crate) memory: Reading,
    pub(crate) writes: Measured,
}

/// Takes a snapshot while writes go on; `None` where the server does not know the call.
pub(crate) async fn snapshot(peer: &Peer, keys: u64) -> Result<Option<Snapshot>> {
    let client = peer.connect(1).await?.remove(0);
    let done = Arc::new(AtomicBool::new(false));
    let an_hour = Duration::from_secs(3600);
    let writing = {
        let done = done.clone();
        load::run(peer, WRITERS, an_hour, move |client, number| {
            let done = done.clone();
            async move {
                if done.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                let put = load::put(number.wrapping_mul(7919) % keys, number, 1024);
                client.kv().put(put).await?;
                Ok(true)
            }
        })
    };
    let reading = async {
        let outcome = receive(&client).await;
        done.store(true, Ordering::Relaxed);
        anyhow::Ok((outcome?, peer.resident_mib()))
    };
    let (writes, (took, resident)) = tokio::try_join!(writing, reading)?;
    Ok(took.map(|took| Snapshot {
        took: Reading::Value {
            value: took.as_secs_f64(),
            unit: "s",
        },
        memory: Reading::Value {
            value: resident,
            unit: "MiB",
        },
        writes,
    }))
}

async fn receive(client: &trivet_store_etcd::client::Client) -> Result<Option<Duration>> {
    let start = Instant::now();
    let mut maintenance = client.maintenance();
    let answer = match maintenance.snapshot(SnapshotRequest {}).await {
        Err(status) if status.code() == Code::Unimplemented => return Ok(None),
        answer => answer,
    };
    let mut stream = answer.context("asking for a snapshot")?.into_inner();
    let mut bytes = 0;
    loop {
        match stream.message().await {
            Ok(Some(part)) => bytes += part.blob.len(),
            Ok(None) => break,
            Err(status) if status.code() == Code::Unimplemented => return Ok(None),
            Err(status) => return Err(status).context("receiving a snapshot"),
        }
    }
    anyhow::ensure!(bytes > 0, "the snapshot is empty");
    Ok(Some(start.elapsed()))
}
