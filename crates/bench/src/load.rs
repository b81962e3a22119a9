//! Generating load and measuring it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op};

use crate::peer::Peer;

/// What one measurement of a stream of operations found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Processor time of all members per operation, in microseconds.
    pub(crate) cpu_us: f64,
}

/// Connections for this many clients: enough that no connection is the bottleneck.
pub(crate) fn connections(clients: usize) -> usize {
    clients.clamp(3, 24)
}

/// Key number `number`.
pub(crate) fn key(number: u64) -> String {
    format!("bench/{:05}/{:03}", number / 500, number % 500)
}

/// A value of `bytes` bytes that differs from number to number.
pub(crate) fn value(number: u64, bytes: usize) -> Bytes {
    let mut state = number | 1;
    let mut value = Vec::with_capacity(bytes + 8);
    while value.len() < bytes {
        // xorshift: incompressible enough for stores that compress.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.extend_from_slice(&state.to_le_bytes());
    }
    value.truncate(bytes);
    value.into()
}

/// A put of key number `number`.
pub(crate) fn put(number: u64, seed: u64, bytes: usize) -> PutRequest {
    PutRequest {
        key: key(number).into(),
        value: value(seed, bytes),
        ..PutRequest::default()
    }
}

/// Runs `operation` from `clients` tasks for about `length` and sums up. `operation` gets its
/// client and the number of the operation over all tasks; one that answers `false` ends its task.
pub(crate) async fn run<F, Fut>(
    peer: &Peer,
    clients: usize,
    length: Duration,
    operation: F,
) -> Result<Measured>
where
    F: Fn(Client, u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<bool>> + Send,
{
    let operation = Arc::new(operation);
    let next = Arc::new(AtomicU64::new(0));
    tasks(peer, clients, length, move |_, client| {
        let (operation, next) = (operation.clone(), next.clone());
        move || operation(client.clone(), next.fetch_add(1, Ordering::Relaxed))
    })
    .await
}

/// Like [`run`], with a state of its own for each task: `prepare` gets the task's number and
/// client and answers the task's operation.
pub(crate) async fn tasks<P, F, Fut>(
    peer: &Peer,
    clients: usize,
    length: Duration,
    prepare: P,
) -> Result<Measured>
where
    P: Fn(usize, Client) -> F,
    F: FnMut() -> Fut + Send + 'static,
    Fut: Future<Output = Result<bool>> + Send,
{
    let connections = peer.connect(connections(clients)).await?;
    let cpu_before = peer.cpu_time();
    let start = Instant::now();
    let mut tasks = Vec::new();
    for task in 0..clients {
        let mut operation = prepare(task, connections[task % connections.len()].clone());
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while start.elapsed() < length {
                let began = Instant::now();
                if !operation().await? {
                    break;
                }
                latencies.push(began.elapsed());
            }
            anyhow::Ok(latencies)
        }));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let elapsed = start.elapsed();
    Ok(summary(
        latencies,
        elapsed,
        peer.cpu_time().saturating_sub(cpu_before),
    ))
}

/// Sums up latencies.
pub(crate) fn summary(mut latencies: Vec<Duration>, elapsed: Duration, cpu: Duration) -> Measured {
    latencies.sort_unstable();
    let at = |share: f64| {
        let place = (latencies.len() as f64 * share) as usize;
        latencies
            .get(place.min(latencies.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    };
    let count = latencies.len().max(1) as f64;
    Measured {
        per_second: latencies.len() as f64 / elapsed.as_secs_f64(),
        p50_ms: at(0.50).as_secs_f64() * 1e3,
        p99_ms: at(0.99).as_secs_f64() * 1e3,
        cpu_us: cpu.as_secs_f64() * 1e6 / count,
    }
}

/// Writes keys `first` to `first + count` of 1 KiB, `batch` in one transaction, 256 at a time.
pub(crate) async fn fill(peer: &Peer, first: u64, count: u64, batch: u64) -> Result<Duration> {
    let connections = peer.connect(24).await?;
    let next = Arc::new(AtomicU64::new(first));
    let end = first + count;
    let start = Instant::now();
    let mut tasks = Vec::new();
    for task in 0..256u64.div_ceil(batch) as usize {
        let client = connections[task % connections.len()].clone();
        let next = next.clone();
        tasks.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(batch, Ordering::Relaxed);
                if number >= end {
                    return anyhow::Ok(());
                }
                if batch == 1 {
                    client.kv().put(put(number, number, 1024)).await?;
                    continue;
                }
                let success = (number..end.min(number + batch))
                    .map(|number| RequestOp {
                        request: Some(request_op::Request::RequestPut(put(number, number, 1024))),
                    })
                    .collect();
                let txn = TxnRequest {
                    success,
                    ..TxnRequest::default()
                };
                client.kv().txn(txn).await?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(start.elapsed())
}
