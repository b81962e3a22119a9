//! What is measured round after round, on both sides in turn.

use std::time::Duration;

use anyhow::Result;

use crate::load::Measured;
use crate::peer::Peer;
use crate::{kv, streams};

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Row {
    /// Puts over existing keys.
    Put { clients: usize, bytes: usize },
    /// One key of 1 KiB.
    Point { clients: usize, serializable: bool },
    /// 500 keys of 1 KiB.
    Range { clients: usize, serializable: bool },
    /// Kubernetes: a put if the key does not exist.
    Create { clients: usize },
    /// Kubernetes: a put if the key was not modified since it was read.
    Update { clients: usize },
    /// Kubernetes: a deletion if the key was not modified since it was read.
    Delete { clients: usize },
    /// Nine linearizable reads to one write.
    Mixed { clients: usize },
    /// One writer; every watcher sees every write. An operation is one delivered event.
    Watch { watchers: usize },
    /// Leases, each renewed every ten seconds. An operation is one renewal.
    Leases { count: u64 },
}

/// The rows in their order; `quick` leaves the large ones out.
pub(crate) fn all(quick: bool) -> Vec<Row> {
    let puts = |bytes| [1, 16, 100, 1000].map(|clients| Row::Put { clients, bytes });
    let reads = [false, true].into_iter();
    let mut rows = Vec::new();
    rows.extend(puts(256));
    rows.extend(puts(1024));
    rows.extend(reads.clone().map(|serializable| Row::Point {
        clients: 100,
        serializable,
    }));
    rows.extend(reads.map(|serializable| Row::Range {
        clients: 10,
        serializable,
    }));
    rows.extend([
        Row::Create { clients: 100 },
        Row::Update { clients: 100 },
        Row::Delete { clients: 100 },
        Row::Mixed { clients: 100 },
        Row::Watch { watchers: 1000 },
        Row::Watch { watchers: 10_000 },
        Row::Leases { count: 5000 },
    ]);
    if quick {
        rows.retain(|row| !matches!(row, Row::Watch { watchers: 10_000 } | Row::Leases { .. }));
        rows.push(Row::Leases { count: 500 });
    }
    rows
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
            Self::Put { clients, bytes } if *bytes < 1024 => format!("put {bytes} B x{clients}"),
            Self::Put { clients, bytes } => format!("put {} KiB x{clients}", bytes / 1024),
            Self::Point {
                clients,
                serializable,
            } => format!("get {} x{clients}", kind(*serializable)),
            Self::Range {
                clients,
                serializable,
            } => format!("range 500 {} x{clients}", kind(*serializable)),
            Self::Create { clients } => format!("txn create x{clients}"),
            Self::Update { clients } => format!("txn update x{clients}"),
            Self::Delete { clients } => format!("txn delete x{clients}"),
            Self::Mixed { clients } => format!("mixed 90/10 x{clients}"),
            Self::Watch { watchers } => format!("watch fan-out x{watchers}"),
            Self::Leases { count } => format!("leases renewed x{count}"),
        }
    }

    /// `round` makes the keys of a measurement its own; `keys` is how many are loaded.
    pub(crate) async fn measure(
        &self,
        peer: &Peer,
        length: Duration,
        keys: u64,
        round: usize,
    ) -> Result<Measured> {
        match *self {
            Self::Put { clients, bytes } => kv::put(peer, clients, length, keys, bytes).await,
            Self::Point {
                clients,
                serializable,
            } => kv::point(peer, clients, length, keys, serializable).await,
            Self::Range {
                clients,
                serializable,
            } => kv::range(peer, clients, length, keys, serializable).await,
            Self::Create { clients } => kv::create(peer, clients, length, round).await,
            Self::Update { clients } => kv::update(peer, clients, length, round).await,
            Self::Delete { clients } => kv::delete(peer, clients, length, round).await,
            Self::Mixed { clients } => kv::mixed(peer, clients, length, keys).await,
            Self::Watch { watchers } => streams::watch(peer, watchers, length).await,
            Self::Leases { count } => streams::leases(peer, count, length).await,
        }
    }
}
