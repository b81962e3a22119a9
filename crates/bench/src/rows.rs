//! What is measured.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use trivet_store_etcd::proto::etcdserverpb::watch_request::RequestUnion;
use trivet_store_etcd::proto::etcdserverpb::{
    PutRequest, RangeRequest, WatchCreateRequest, WatchRequest,
};

use crate::load::{self, Measured};
use crate::peer::Peer;

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Row {
    /// Puts of 1 KiB over existing keys.
    Put { clients: usize },
    /// One key.
    Point { clients: usize, serializable: bool },
    /// 500 keys of 1 KiB.
    Range { clients: usize, serializable: bool },
    /// One writer; every watcher sees every write. An operation is one delivered event.
    Watch { watchers: usize },
}

/// Every row.
pub(crate) fn all() -> Vec<Row> {
    vec![
        Row::Put { clients: 1 },
        Row::Put { clients: 100 },
        Row::Put { clients: 1000 },
        Row::Point {
            clients: 100,
            serializable: false,
        },
        Row::Point {
            clients: 100,
            serializable: true,
        },
        Row::Range {
            clients: 10,
            serializable: false,
        },
        Row::Range {
            clients: 10,
            serializable: true,
        },
        Row::Watch { watchers: 1000 },
    ]
}

impl Row {
    pub(crate) fn name(&self) -> String {
        let kind = |serializable: bool| {
            if serializable {
                "serializable"
            } else {
                "linearizable"
            }
        };
        match self {
            Self::Put { clients } => format!("put 1 KiB x{clients}"),
            Self::Point {
                clients,
                serializable,
            } => {
                format!("get {} x{clients}", kind(*serializable))
            }
            Self::Range {
                clients,
                serializable,
            } => {
                format!("range 500 {} x{clients}", kind(*serializable))
            }
            Self::Watch { watchers } => format!("watch fan-out x{watchers}"),
        }
    }

    pub(crate) async fn measure(
        &self,
        peer: &Peer,
        length: Duration,
        keys: u64,
    ) -> Result<Measured> {
        match *self {
            Self::Put { clients } => {
                load::run(peer, clients, length, move |client, number| async move {
                    let put = PutRequest {
                        key: load::key(number.wrapping_mul(7919) % keys).into(),
                        value: load::value(number).into(),
                        ..PutRequest::default()
                    };
                    client.kv().put(put).await?;
                    Ok(())
                })
                .await
            }
            Self::Point {
                clients,
                serializable,
            } => {
                load::run(peer, clients, length, move |client, number| async move {
                    let request = RangeRequest {
                        key: load::key(number.wrapping_mul(7919) % keys).into(),
                        serializable,
                        ..RangeRequest::default()
                    };
                    let found = client.kv().range(request).await?.into_inner();
                    if found.kvs.len() != 1 {
                        bail!("a key that was loaded is missing");
                    }
                    Ok(())
                })
                .await
            }
            Self::Range {
                clients,
                serializable,
            } => {
                load::run(peer, clients, length, move |client, number| async move {
                    let group = number.wrapping_mul(31) % (keys / 500).max(1);
                    let request = RangeRequest {
                        key: format!("bench/{group:05}/").into(),
                        range_end: format!("bench/{group:05}0").into(),
                        serializable,
                        ..RangeRequest::default()
                    };
                    let found = client.kv().range(request).await?.into_inner();
                    if found.kvs.len() as u64 != keys.min(500) {
                        bail!("expected 500 keys, found {}", found.kvs.len());
                    }
                    Ok(())
                })
                .await
            }
            Self::Watch { watchers } => watch(peer, watchers, length).await,
        }
    }
}

/// A writer writes one key after another; each of `watchers` watches reports when it saw each
/// write. The next write starts when every watcher has seen the last one.
async fn watch(peer: &Peer, watchers: usize, length: Duration) -> Result<Measured> {
    const STREAMS: usize = 24;
    let connections = peer.connect(STREAMS).await?;
    let (seen, mut arrivals) = mpsc::channel::<(u64, Instant)>(4096);
    let prefix = Arc::new(format!("watched/{}/", std::process::id()));
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
