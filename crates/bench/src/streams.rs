//! Rows about streams: watches and leases.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb::watch_request::RequestUnion;
use trivet_store_etcd::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest, WatchCreateRequest,
    WatchRequest,
};

use crate::load::{self, Measured};
use crate::peer::Peer;

/// Connections, each with one stream.
const STREAMS: usize = 24;

/// How often each lease is renewed, and how long it would live without.
const RENEWAL: Duration = Duration::from_secs(10);
const TTL_SECONDS: i64 = 60;

/// A writer writes one key after another; each of `watchers` watches reports when it saw each
/// write. The next write starts when every watcher has seen the last one.
pub(crate) async fn watch(peer: &Peer, watchers: usize, length: Duration) -> Result<Measured> {
    let connections = peer.connect(STREAMS).await?;
    let (seen, mut arrivals) = mpsc::channel::<(u64, Instant)>(4096);
    let prefix = format!("watched/{}/", std::process::id());
    let mut readers = Vec::new();
    let mut keep_open = Vec::new();
    for (place, client) in connections.iter().enumerate() {
        let count = watchers / STREAMS + usize::from(place < watchers % STREAMS);
        let (requests, receiver) = mpsc::channel(count + 1);
        for _ in 0..count {
            let create = WatchCreateRequest {
                key: prefix.as_bytes().to_vec().into(),
                range_end: format!("watched/{}0", std::process::id()).into(),
                ..WatchCreateRequest::default()
            };
            let request = WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(create)),
            };
            requests.send(request).await?;
        }
        let mut stream = client
            .watch()
            .watch(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        for _ in 0..count {
            let created = stream.message().await?.context("the watch stream ended")?;
            if !created.created || created.canceled {
                bail!("a watch was not created: {}", created.cancel_reason);
            }
        }
        keep_open.push(requests);
        let seen = seen.clone();
        readers.push(tokio::spawn(async move {
            while let Ok(Some(response)) = stream.message().await {
                for event in &response.events {
                    let number = event
                        .kv
                        .as_ref()
                        .and_then(|kv| std::str::from_utf8(&kv.value).ok()?.parse::<u64>().ok());
                    if let Some(number) = number
                        && seen.send((number, Instant::now())).await.is_err()
                    {
                        return;
                    }
                }
            }
        }));
    }
    let writer = connections[0].clone();
    let cpu_before = peer.cpu_time();
    let start = Instant::now();
    let mut latencies = Vec::new();
    let mut number = 0u64;
    while start.elapsed() < length {
        number += 1;
        let put = PutRequest {
            key: format!("{prefix}key").into(),
            value: number.to_string().into(),
            ..PutRequest::default()
        };
        let began = Instant::now();
        writer.kv().put(put).await?;
        for _ in 0..watchers {
            let arrival = tokio::time::timeout(Duration::from_secs(20), arrivals.recv());
            let (seen, at) = arrival
                .await
                .context("an event is missing")?
                .context("all watches ended")?;
            if seen != number {
                bail!("saw write {seen} while waiting for {number}: lost or doubled");
            }
            latencies.push(at.saturating_duration_since(began));
        }
    }
    let measured = load::summary(
        latencies,
        start.elapsed(),
        peer.cpu_time().saturating_sub(cpu_before),
    );
    for reader in readers {
        reader.abort();
    }
    Ok(measured)
}

/// Renews `count` leases evenly over [`RENEWAL`], from one stream a connection, and revokes them
/// in the end, which is not measured.
pub(crate) async fn leases(peer: &Peer, count: u64, length: Duration) -> Result<Measured> {
    let connections = peer.connect(STREAMS).await?;
    let mut grants = Vec::new();
    for (place, client) in connections.iter().enumerate() {
        let own = count / STREAMS as u64 + u64::from((place as u64) < count % STREAMS as u64);
        grants.push(tokio::spawn(grant(client.clone(), own)));
    }
    let mut held = Vec::new();
    for grant in grants {
        held.push(grant.await??);
    }
    let cpu_before = peer.cpu_time();
    let start = Instant::now();
    let mut renewals = Vec::new();
    for (client, ids) in connections.iter().zip(&held) {
        renewals.push(tokio::spawn(renew(client.clone(), ids.clone(), length)));
    }
    let mut latencies = Vec::new();
    for renewal in renewals {
        latencies.extend(renewal.await??);
    }
    let measured = load::summary(
        latencies,
        start.elapsed(),
        peer.cpu_time().saturating_sub(cpu_before),
    );
    let mut revocations = Vec::new();
    for (client, ids) in connections.into_iter().zip(held) {
        revocations.push(tokio::spawn(async move {
            for id in ids {
                client
                    .lease()
                    .lease_revoke(LeaseRevokeRequest { id })
                    .await?;
            }
            anyhow::Ok(())
        }));
    }
    for revocation in revocations {
        revocation.await??;
    }
    Ok(measured)
}

async fn grant(client: Client, count: u64) -> Result<Vec<i64>> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let request = LeaseGrantRequest {
            ttl: TTL_SECONDS,
            ..LeaseGrantRequest::default()
        };
        ids.push(client.lease().lease_grant(request).await?.into_inner().id);
    }
    Ok(ids)
}

async fn renew(client: Client, ids: Vec<i64>, length: Duration) -> Result<Vec<Duration>> {
    let Some(first) = ids.first() else {
        return Ok(Vec::new());
    };
    let (requests, receiver) = mpsc::channel(16);
    // etcd answers the call itself only together with the first renewal.
    requests.send(LeaseKeepAliveRequest { id: *first }).await?;
    let mut answers = client
        .lease()
        .lease_keep_alive(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    answers.message().await?.context("the stream ended")?;
    let pause = RENEWAL / u32::try_from(ids.len())?;
    let mut clock = tokio::time::interval(pause);
    let start = Instant::now();
    let mut latencies = Vec::new();
    for id in ids.iter().cycle() {
        clock.tick().await;
        if start.elapsed() >= length {
            break;
        }
        let began = Instant::now();
        requests.send(LeaseKeepAliveRequest { id: *id }).await?;
        let answer = answers.message().await?.context("the stream ended")?;
        if answer.id != *id || answer.ttl <= 0 {
            bail!("lease {id:x} was not renewed");
        }
        latencies.push(began.elapsed());
    }
    Ok(latencies)
}
