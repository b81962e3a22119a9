//! The look around before a cluster is founded.
//!
//! A cluster that still has this machine as a member keeps trying to reach it on its peer
//! port. So before founding, a server listens there for a moment: whoever starts a TLS
//! handshake is a member of a living cluster, because nobody else has been told this address.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::StartError;

/// First bytes of a TLS handshake record.
const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];

/// Time for a connection to say something.
const FIRST_BYTES: Duration = Duration::from_millis(500);

/// Fails when somebody tries to reach a member here within `time`.
pub(crate) async fn nobody_counts_on_us(
    addresses: &[SocketAddr],
    time: Duration,
) -> Result<(), StartError> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| StartError::Bind {
                address: address.to_string(),
                source,
            })?;
        listeners.push(listener);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listeners {
        tasks.spawn(first_peer(listener));
    }
    match tokio::time::timeout(time, tasks.join_next()).await {
        Ok(Some(Ok((peer, local)))) => Err(StartError::LivingCluster { peer, local }),
        // Nobody came, or there was nothing to listen on.
        _ => Ok(()),
    }
}

async fn first_peer(listener: TcpListener) -> (SocketAddr, SocketAddr) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let local = stream
            .local_addr()
            .or_else(|_| listener.local_addr())
            .unwrap_or(peer);
        if speaks_tls(stream).await {
            return (peer, local);
        }
    }
}

async fn speaks_tls(mut stream: TcpStream) -> bool {
    let mut start = [0; 2];
    let read = tokio::time::timeout(FIRST_BYTES, stream.read_exact(&mut start)).await;
    matches!(read, Ok(Ok(_))) && start == TLS_HANDSHAKE
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn free_address() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
    }

    async fn knock(address: SocketAddr, bytes: &'static [u8]) {
        let mut stream = loop {
            match TcpStream::connect(address).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        stream.write_all(bytes).await.unwrap();
        // Keep it open for as long as the other side reads.
        let _ = stream.read_u8().await;
    }

    #[tokio::test]
    async fn a_peer_is_noticed_and_a_port_scan_is_not() {
        let address = free_address().await;
        let caller = tokio::spawn(knock(address, &[0x16, 0x03, 0x01]));
        let result = nobody_counts_on_us(&[address], Duration::from_secs(10)).await;
        assert!(matches!(result, Err(StartError::LivingCluster { local, .. }) if local == address));
        caller.abort();

        let address = free_address().await;
        let caller = tokio::spawn(knock(address, b"GET /"));
        nobody_counts_on_us(&[address], Duration::from_millis(300))
            .await
            .unwrap();
        caller.abort();
    }

    #[tokio::test]
    async fn an_address_in_use_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let result = nobody_counts_on_us(&[taken.local_addr().unwrap()], Duration::ZERO).await;
        assert!(matches!(result, Err(StartError::Bind { .. })));
    }
}
