//! One member of an etcd-compatible store as a process of its own: for benchmarks beside a
//! genuine etcd, and as an example of embedding the store.
//!
//! Clients are served without TLS, so only on loopback addresses; peers always use mutual TLS.
//! Members that share `--tls-dir` trust each other.
//!
//! ```text
//! store --data-dir D --client 127.0.0.1:2379
//! store --data-dir D --client 127.0.0.1:2379 --peer 127.0.0.1:2380 --tls-dir T
//! store --data-dir E --client 127.0.0.2:2379 --peer 127.0.0.2:2380 --tls-dir T --join https://127.0.0.1:2380
//! ```
//!
//! Prints `ready <client address>` once it serves. A data directory that holds a member already
//! is resumed from.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use trivet_datastore::Datastore;
use trivet_env::Env;
use trivet_pki::{
    Authority, ClientAuth, LeafRequest, ServerTrust, SwappableIdentity, Usage, client_config,
    server_config,
};
use trivet_store_etcd::{ClientListener, PeerSecurity, PeerSettings, Start, StoreConfig, open};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Default)]
struct Options {
    data_dir: Option<PathBuf>,
    client: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    tls_dir: Option<PathBuf>,
    join: Vec<String>,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self::default();
        while let Some(word) = words.next() {
            let value = words
                .next()
                .ok_or_else(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--data-dir" => options.data_dir = Some(value.into()),
                "--client" => options.client = Some(value.parse()?),
                "--metrics" => options.metrics = Some(value.parse()?),
                "--peer" => options.peer = Some(value.parse()?),
                "--tls-dir" => options.tls_dir = Some(value.into()),
                "--join" => options.join.push(value),
                _ => return Err(format!("unknown option {word}").into()),
            }
        }
        Ok(options)
    }

    fn config(self) -> Result<StoreConfig> {
        let data_dir = self.data_dir.ok_or("--data-dir is missing")?;
        let client = self.client.ok_or("--client is missing")?;
        let mut config = StoreConfig::single(Env::real(), data_dir);
        config.clients = vec![ClientListener::new(client, None)];
        config.client_urls = vec![format!("http://{client}")];
        config.metrics_listen = self
            .metrics
            .into_iter()
            .map(|address| ClientListener::new(address, None))
            .collect();
        if let Some(peer) = self.peer {
            let tls_dir = self.tls_dir.ok_or("--peer needs --tls-dir")?;
            config.member_name = format!("member@{peer}");
            config.peers = Some(peer_settings(peer, &tls_dir, self.join.is_empty())?);
        }
        if !self.join.is_empty() {
            config.start = Start::Join {
                peer_urls: self.join,
            };
        }
        Ok(config)
    }
}

/// A certificate for this member from the CA in `dir`; the founder makes the CA.
fn peer_settings(address: SocketAddr, dir: &Path, founder: bool) -> Result<PeerSettings> {
    let (cert, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    let now = SystemTime::now();
    let authority = if founder && !cert.exists() {
        let authority = Authority::generate("store-example", now)?;
        std::fs::create_dir_all(dir)?;
        std::fs::write(&key, authority.key_pem().expose())?;
        std::fs::write(&cert, authority.cert_pem())?;
        authority
    } else {
        Authority::from_pem(
            &std::fs::read_to_string(cert)?,
            &std::fs::read_to_string(key)?,
        )?
    };
    let request = LeafRequest {
        common_name: "store-example".to_owned(),
        organization: None,
        usage: Usage::ServerAndClient,
        dns: vec!["localhost".to_owned()],
        ips: vec![address.ip()],
    };
    let identity = authority.issue(&request, now)?.identity()?;
    let ca = authority.cert_pem().as_bytes();
    Ok(PeerSettings {
        listen: vec![address],
        url: format!("https://{address}"),
        security: PeerSecurity::Mutual {
            client: client_config(ServerTrust::Pinned(ca), Some(&identity), &[b"h2"])?,
            server: server_config(
                SwappableIdentity::new(identity),
                ClientAuth::Required(ca),
                &[b"h2"],
            )?,
        },
    })
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let config = Options::parse(std::env::args().skip(1))?.config()?;
    let store = open(config).await?;
    for address in store.client_addresses() {
        println!("ready {address}");
    }
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        reason = store.stopped() => {
            return Err(reason.unwrap_or_else(|| "the store has stopped".to_owned()).into());
        }
    }
    if tokio::time::timeout(Duration::from_secs(10), store.shutdown())
        .await
        .is_err()
    {
        eprintln!("the store did not stop in time");
    }
    Ok(())
}
