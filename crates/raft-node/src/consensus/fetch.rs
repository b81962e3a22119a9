//! Fetching a snapshot: how a member whose state is damaged gets another copy.
//!
//! Only the state is replaced. Log and vote stay as they are, so the member remembers everything
//! it ever acknowledged or promised; what a peer has applied is committed, so it may be installed
//! without asking who leads.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trivet_env::Env;

use crate::api::LogPosition;
use crate::consensus::snapshot::Spool;
use crate::consensus::{SnapshotMeta, StoredMembership, codec, from_position};
use crate::peers::proto::snapshot_chunk::Part;
use crate::peers::{PeerAddress, PeerTransport, proto};

/// A peer that sends nothing for this long is given up for the next one. A peer that first has to
/// catch up itself takes part of it.
const STALL: Duration = Duration::from_secs(10);
/// Pause between two rounds through the peers.
const PAUSE: Duration = Duration::from_millis(200);
/// How often waiting is spoken of.
const SPEAK: Duration = Duration::from_secs(10);

/// Gets snapshots from peers.
#[derive(Clone)]
pub(crate) struct Fetcher {
    pub(crate) env: Env,
    /// Where snapshots are spooled.
    pub(crate) dir: PathBuf,
    pub(crate) transport: Arc<dyn PeerTransport>,
    pub(crate) cluster_id: u64,
    pub(crate) local: u64,
    pub(crate) membership: watch::Receiver<StoredMembership>,
    pub(crate) stop: CancellationToken,
    pub(crate) runtime: tokio::runtime::Handle,
}

/// A fetched snapshot.
pub(crate) type Fetched = (SnapshotMeta, Spool);

impl Fetcher {
    /// Whether there is anybody to ask.
    pub(crate) fn has_peers(&self) -> bool {
        !self.peers(&[]).is_empty()
    }

    fn peers(&self, only: &[u64]) -> Vec<PeerAddress> {
        let membership = self.membership.borrow();
        let others = membership
            .nodes()
            .filter(|(id, _)| **id != self.local && (only.is_empty() || only.contains(*id)));
        others
            .map(|(id, member)| PeerAddress {
                id: *id,
                url: member.peer_url.clone(),
            })
            .collect()
    }

    /// [`Fetcher::fetch`] for a thread that may block, and is not one of the runtime's.
    pub(crate) fn fetch_blocking(
        &self,
        at_least: LogPosition,
        only: &[u64],
    ) -> io::Result<Fetched> {
        self.runtime.block_on(self.fetch(at_least, only))
    }

    /// A snapshot that reaches `at_least`, of one of the members in `only` unless that is empty.
    /// Asks until one has it or the node stops.
    async fn fetch(&self, at_least: LogPosition, only: &[u64]) -> io::Result<Fetched> {
        let (since, mut spoken) = (Instant::now(), Instant::now());
        loop {
            let peers = self.peers(only);
            if peers.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    "there is no other member to fetch the state from",
                ));
            }
            let mut why = String::new();
            for peer in &peers {
                let fetched = self
                    .stop
                    .run_until_cancelled(self.fetch_from(peer, at_least));
                match fetched.await {
                    Some(Ok(fetched)) => return Ok(fetched),
                    Some(Err(error)) => why = format!("{}: {error}", peer.url),
                    None => return Err(io::Error::other("the member is stopping")),
                }
            }
            if spoken.elapsed() >= SPEAK {
                spoken = Instant::now();
                tracing::warn!(
                    waiting_s = since.elapsed().as_secs(),
                    why,
                    "still waiting for another member's copy of the state"
                );
            }
            let pause = self.stop.run_until_cancelled(tokio::time::sleep(PAUSE));
            if pause.await.is_none() {
                return Err(io::Error::other("the member is stopping"));
            }
        }
    }

    async fn fetch_from(&self, peer: &PeerAddress, at_least: LogPosition) -> io::Result<Fetched> {
        let stalled = || io::Error::new(io::ErrorKind::TimedOut, "the snapshot does not move");
        let request = proto::FetchRequest {
            header: Some(proto::Header {
                cluster_id: self.cluster_id,
                from: self.local,
                to: peer.id,
            }),
            at_least: from_position(at_least).as_ref().map(codec::log_id_to_proto),
        };
        let mut chunks = tokio::time::timeout(STALL, self.transport.fetch(peer, request))
            .await
            .map_err(|_| stalled())?
            .map_err(io::Error::other)?;
        let mut next = async || {
            let chunk = tokio::time::timeout(STALL, chunks.next()).await;
            match chunk.map_err(|_| stalled())? {
                Some(Ok(chunk)) => match chunk.part {
                    Some(Part::Failure(failure)) => Err(io::Error::other(failure.message)),
                    part => Ok(part),
                },
                Some(Err(error)) => Err(io::Error::other(error)),
                None => Err(io::Error::other("the snapshot broke off")),
            }
        };
        let Some(Part::Head(head)) = next().await? else {
            return Err(io::Error::other("a snapshot without a head"));
        };
        let meta = meta_of(&head)?;
        if meta
            .last_log_id
            .is_none_or(|last| last.index < at_least.index)
        {
            return Err(io::Error::other("its state does not reach far enough"));
        }
        let (disk, dir) = (self.env.disk.clone(), self.dir.clone());
        let unique = self.env.rng.next_u64();
        let mut spool = blocking(move || Spool::create(disk, &dir, unique)).await?;
        loop {
            match next().await? {
                Some(Part::Data(data)) => {
                    spool = blocking(move || spool.push(&data).map(|()| spool)).await?;
                }
                Some(Part::End(end)) => {
                    spool.verify(end.chunks, end.size_bytes, end.crc32c)?;
                    return Ok((meta, spool));
                }
                _ => return Err(io::Error::other("an unexpected part of a snapshot")),
            }
        }
    }
}

fn meta_of(head: &proto::SnapshotHead) -> io::Result<SnapshotMeta> {
    let membership = head
        .membership
        .as_ref()
        .ok_or_else(|| io::Error::other("a snapshot without a membership"))?;
    Ok(SnapshotMeta {
        last_log_id: head.last.as_ref().map(codec::log_id_from_proto),
        last_membership: codec::stored_membership_from_proto(membership)?,
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}
