//! The client-side load balancer: one local address that always leads to a living server.
//!
//! Agents, and everything on their machine, talk to 127.0.0.1:6444; connections are passed on,
//! byte for byte, to one of the cluster's servers. The list of servers follows the cluster and
//! survives restarts in a state file, so that an agent starts even when the server it was
//! configured with is gone.

mod servers;
mod state;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trivet_env::Rng;

use servers::Servers;
pub use state::StateError;

/// A server that does not accept within this time is passed over. Short: on a LAN a connection
/// takes milliseconds, and a client is waiting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections at once; a client that opens more is misbehaving and waits in the backlog.
const MAX_CONNECTIONS: usize = 1024;

/// A failed accept (out of file descriptors) is tried again after this time.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// The load balancer. Cloning shares it.
#[derive(Clone)]
pub struct Balancer {
    shared: Arc<Shared>,
    local: SocketAddr,
}

struct Shared {
    servers: Mutex<Servers>,
    state_file: PathBuf,
    server_url: String,
    stop: CancellationToken,
    tasks: TaskTracker,
    rng: Arc<dyn Rng>,
}

impl Balancer {
    /// Listens on `listen` and passes connections on. `server_url` is the configured server
    /// (`https://host:port`), used first and later as the last resort; a state file written
    /// for the same URL adds what was known of the cluster.
    ///
    /// Errors: the address is in use, or the URL names no host.
    pub async fn start(
        listen: SocketAddr,
        server_url: &str,
        state_file: PathBuf,
        rng: Arc<dyn Rng>,
    ) -> io::Result<Self> {
        let default = authority(server_url).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{server_url:?} names no host"),
            )
        })?;
        let known = match state::load(&state_file, server_url) {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(%error, "the load balancer's state file is unusable and is ignored");
                Vec::new()
            }
        };
        let mut servers = Servers::new(default);
        if !known.is_empty() {
            servers.replace(known, &mut |bound| below(rng.as_ref(), bound));
        }
        let listener = TcpListener::bind(listen).await?;
        let local = listener.local_addr()?;
        let shared = Arc::new(Shared {
            servers: Mutex::new(servers),
            state_file,
            server_url: server_url.to_owned(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            rng,
        });
        shared.tasks.spawn(accept(listener, shared.clone()));
        Ok(Self { shared, local })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The servers in the order in which they are tried, as `host:port`.
    pub fn servers(&self) -> Vec<String> {
        self.shared.lock().order()
    }

    /// Takes over the cluster's current list of servers (`host:port`) and records it. An empty
    /// list is ignored: a cluster without servers could not have told us.
    ///
    /// Connections to servers that left are closed, so that clients move on at once.
    pub fn update(&self, addresses: &[String]) -> Result<(), StateError> {
        if addresses.is_empty() {
            return Ok(());
        }
        let changed = {
            let rng = self.shared.rng.clone();
            self.shared
                .lock()
                .replace(addresses.to_vec(), &mut |bound| below(rng.as_ref(), bound))
        };
        if changed {
            tracing::info!(servers = ?addresses, "the list of servers changed");
            state::store(&self.shared.state_file, &self.shared.server_url, addresses)?;
        }
        Ok(())
    }

    /// Leaves the current server for the next one: it accepts connections but is of no use, as
    /// one that is cut off from the others and has no quorum.
    pub fn move_on(&self) {
        self.shared.lock().move_on();
    }

    /// Stops listening and closes every connection.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl std::fmt::Debug for Balancer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Balancer")
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Servers> {
        // Every critical section leaves the list whole, so a poisoned lock is still good.
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stop.cancelled() => return,
        };
        match accepted {
            Ok((client, _)) => {
                let task = shared.clone();
                shared.tasks.spawn(async move {
                    tokio::select! {
                        () = serve(client, &task) => {}
                        () = task.stop.cancelled() => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the load balancer cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Tries every server once, beginning with the current one, then gives up on this connection.
async fn serve(mut client: TcpStream, shared: &Shared) {
    let attempts = shared.lock().order();
    for address in attempts {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&address)).await;
        let mut server = match connected {
            Ok(Ok(server)) => server,
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "server not reachable, trying the next");
                shared.lock().failed(&address);
                continue;
            }
            Err(_) => {
                tracing::debug!(%address, "server does not answer, trying the next");
                shared.lock().failed(&address);
                continue;
            }
        };
        let gone = shared.lock().connected(&address);
        // Latency matters more than full segments for API requests; a failure is harmless.
        let _ = client.set_nodelay(true);
        let _ = server.set_nodelay(true);
        tokio::select! {
            // An error here is one side going away, which is the ordinary end.
            _ = copy_bidirectional(&mut client, &mut server) => {}
            () = gone.cancelled() => {}
        }
        return;
    }
    tracing::warn!("no server of the cluster is reachable; a client connection was closed");
}

/// `host:port` of an `https://host[:port]` URL.
pub(crate) fn authority(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://")?;
    let authority = rest
        .split('/')
        .next()
        .filter(|authority| !authority.is_empty())?;
    let has_port = match authority.rfind(']') {
        Some(end) => authority[end..].contains(':'),
        None => authority.contains(':'),
    };
    Some(if has_port {
        authority.to_owned()
    } else {
        format!("{authority}:443")
    })
}

/// A number below `bound` (which is small, so the modulo bias does not matter).
fn below(rng: &dyn Rng, bound: usize) -> usize {
    (rng.next_u64() % bound.max(1) as u64) as usize
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use trivet_env::RealRng;

    use super::*;

    /// A server that greets with its name and echoes.
    async fn greeter(name: &'static str) -> (String, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = socket.write_all(name.as_bytes()).await;
                    let mut buffer = [0; 64];
                    while let Ok(n @ 1..) = socket.read(&mut buffer).await {
                        let _ = socket.write_all(&buffer[..n]).await;
                    }
                });
            }
        });
        (address, task)
    }

    async fn balancer(url: &str, dir: &tempfile::TempDir) -> Balancer {
        Balancer::start(
            "127.0.0.1:0".parse().unwrap(),
            url,
            dir.path().join("state.json"),
            Arc::new(RealRng),
        )
        .await
        .unwrap()
    }

    /// The greeting that a new connection through the balancer gets; empty when it is closed.
    async fn greeting(balancer: &Balancer) -> (String, TcpStream) {
        let mut socket = TcpStream::connect(balancer.local_addr()).await.unwrap();
        let mut buffer = [0; 1];
        let n = socket.read(&mut buffer).await.unwrap_or(0);
        (String::from_utf8_lossy(&buffer[..n]).into_owned(), socket)
    }

    #[tokio::test]
    async fn fails_over_and_remembers_after_a_restart_without_the_configured_server() {
        let dir = tempfile::tempdir().unwrap();
        let (a, task_a) = greeter("a").await;
        let (b, _task_b) = greeter("b").await;
        let url = format!("https://{a}");
        let first = balancer(&url, &dir).await;
        assert_eq!(greeting(&first).await.0, "a");
        first.update(&[a.clone(), b.clone()]).unwrap();
        task_a.abort();
        let _ = task_a.await;
        assert_eq!(greeting(&first).await.0, "b");
        first.shutdown().await;

        let second = balancer(&url, &dir).await;
        assert_eq!(greeting(&second).await.0, "b");
        second.shutdown().await;
    }

    #[tokio::test]
    async fn a_server_that_leaves_loses_its_connections() {
        let dir = tempfile::tempdir().unwrap();
        let (a, _task_a) = greeter("a").await;
        let (b, _task_b) = greeter("b").await;
        let balancer = balancer(&format!("https://{a}"), &dir).await;
        let (name, mut socket) = greeting(&balancer).await;
        assert_eq!(name, "a");
        balancer.update(&[b]).unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut rest));
        closed.await.expect("the connection is closed").ok();
        assert_eq!(greeting(&balancer).await.0, "b");
        balancer.shutdown().await;
    }

    #[tokio::test]
    async fn no_server_closes_the_connection_and_the_balancer_lives_on() {
        let dir = tempfile::tempdir().unwrap();
        let (a, task_a) = greeter("a").await;
        task_a.abort();
        let _ = task_a.await;
        let balancer = balancer(&format!("https://{a}"), &dir).await;
        assert_eq!(greeting(&balancer).await.0, "");
        let (b, _task_b) = greeter("b").await;
        balancer.update(&[b]).unwrap();
        assert_eq!(greeting(&balancer).await.0, "b");
        balancer.shutdown().await;
    }

    #[test]
    fn authorities() {
        assert_eq!(authority("https://a:6443/x").as_deref(), Some("a:6443"));
        assert_eq!(authority("https://a").as_deref(), Some("a:443"));
        assert_eq!(
            authority("https://[::1]:6443").as_deref(),
            Some("[::1]:6443")
        );
        assert_eq!(authority("https://[::1]").as_deref(), Some("[::1]:443"));
        assert_eq!(authority("http://a"), None);
        assert_eq!(authority("https:///x"), None);
    }
}
