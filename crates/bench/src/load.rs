//! Generating load and measuring it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb::PutRequest;

use crate::peer::Peer;

/// What one measurement found.
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

/// A value of 1 KiB that differs from number to number.
pub(crate) fn value(number: u64) -> Vec<u8> {
    let mut state = number | 1;
    let mut bytes = Vec::with_capacity(1024);
    while bytes.len() < 1024 {
        // xorshift: incompressible enough for stores that compress.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// Runs `operation` from `clients` tasks for about `length` and sums up. `operation` gets its
/// client and the number of the operation over all tasks.
pub(crate) async fn run<F, Fut>(
    peer: &Peer,
    clients: usize,
    length: Duration,
    operation: F,
) -> Result<Measured>
where
    F: Fn(Client, u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let connections = peer.connect(connections(clients)).await?;
    let operation = Arc::new(operation);
    let next = Arc::new(AtomicU64::new(0));
    let cpu_before = peer.cpu_time();
    let start = Instant::now();
    let mut tasks = Vec::new();
    for task in 0..clients {
        let client = connections[task % connections.len()].clone();
        let (operation, next) = (operation.clone(), next.clone());
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            while start.elapsed() < length {
                let began = Instant::now();
                operation(client.clone(), next.fetch_add(1, Ordering::Relaxed)).await?;
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

/// Writes keys 0 to `count`, 256 at a time.
pub(crate) async fn fill(peer: &Peer, count: u64) -> Result<Duration> {
    let connections = peer.connect(24).await?;
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut tasks = Vec::new();
    for task in 0..256 {
        let client = connections[task % connections.len()].clone();
        let next = next.clone();
        tasks.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok(());
                }
                let put = PutRequest {
                    key: key(number).into(),
                    value: value(number).into(),
                    ..PutRequest::default()
                };
                client.kv().put(put).await?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(start.elapsed())
}
