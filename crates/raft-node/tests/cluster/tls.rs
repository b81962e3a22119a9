//! The real transport: gRPC over mTLS on loopback, with the settings for production.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trivet_env::Env;
use trivet_pki::{
    Authority, ClientAuth, Identity, LeafRequest, ServerTrust, SwappableIdentity, Usage,
};
use trivet_raft_node::{Error, NodeConfig, Peer, PeerSecurity, RaftNode, StartMode};

use crate::toy::{Memory, Named, Toy, command, eventually};

struct Site {
    authority: Authority,
    dir: tempfile::TempDir,
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address")
}

fn identity(authority: &Authority) -> Identity {
    let leaf = authority
        .issue(
            &LeafRequest {
                common_name: "peer".into(),
                organization: None,
                usage: Usage::ServerAndClient,
                dns: Vec::new(),
                ips: vec!["127.0.0.1".parse().expect("an address")],
            },
            SystemTime::now(),
        )
        .expect("a certificate");
    leaf.identity().expect("an identity")
}

impl Site {
    fn new() -> Self {
        let authority = Authority::generate("peer-ca", SystemTime::now()).expect("a CA");
        Self {
            authority,
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    fn config(&self, id: u64, address: SocketAddr, start: StartMode) -> NodeConfig {
        let ca = self.authority.cert_pem().as_bytes();
        let identity = identity(&self.authority);
        let client =
            trivet_pki::client_config(ServerTrust::Pinned(ca), Some(&identity), &[]).expect("TLS");
        let server = trivet_pki::server_config(
            SwappableIdentity::new(identity),
            ClientAuth::Required(ca),
            &[],
        )
        .expect("TLS");
        NodeConfig {
            env: Env::real(),
            dir: self.dir.path().join(id.to_string()),
            local: Peer {
                id,
                name: format!("server{id}-{id:08x}"),
                peer_url: format!("https://{address}"),
                client_url: String::new(),
            },
            cluster_id: 0xfeed,
            listen: vec![address],
            security: PeerSecurity::Mutual { server, client },
            heartbeat: Duration::from_millis(100),
            election_timeout: Duration::from_millis(500),
            start,
        }
    }

    async fn start(
        &self,
        id: u64,
        address: SocketAddr,
        memory: &Memory,
        start: StartMode,
    ) -> Arc<RaftNode> {
        let config = self.config(id, address, start);
        RaftNode::start(config, Toy::open(memory, 100), Arc::new(Named(id)))
            .await
            .expect("the member starts")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_over_tls() {
    let site = Site::new();
    let addresses = [free_address(), free_address(), free_address()];
    let memories = [Memory::default(), Memory::default(), Memory::default()];
    let seed = vec![format!("https://{}", addresses[0])];
    let mut nodes = Vec::new();
    for (id, address) in (1..).zip(addresses) {
        let mode = if id == 1 {
            StartMode::Found
        } else {
            StartMode::Join {
                peer_urls: seed.clone(),
            }
        };
        nodes.push(site.start(id, address, &memories[nodes.len()], mode).await);
    }
    for node in &nodes {
        node.propose(command("a")).await.expect("committed");
    }
    // A large command crosses in one piece.
    let large = bytes::Bytes::from(vec![7; 3 << 20]);
    nodes[2].propose(large).await.expect("committed");
    nodes[1].read_index().await.expect("readable");
    assert_eq!(memories[1].commands().len(), 4);

    // The leader dies without a word.
    let leader = nodes[1].leadership().borrow().leader.expect("a leader");
    let position = (leader - 1) as usize;
    let dead = nodes.remove(position);
    let start = Instant::now();
    trivet_raft_node::testing::abort(&dead).await;
    let stopped = start.elapsed();
    while nodes[0].propose(command("b")).await.is_err() {}
    assert!(
        start.elapsed() - stopped < Duration::from_secs(2),
        "{:?} after {stopped:?}",
        start.elapsed()
    );

    // It comes back at the same address; the others reconnect.
    drop(dead);
    let again = site
        .start(
            leader,
            addresses[position],
            &memories[position],
            StartMode::Resume,
        )
        .await;
    again.read_index().await.expect("readable");
    again.propose(command("c")).await.expect("committed");
    eventually("the same state everywhere", || {
        memories
            .iter()
            .all(|memory| memory.commands() == memories[0].commands())
    })
    .await;
    nodes.push(again);
    for node in nodes {
        node.shutdown().await;
    }
}

/// What a stranger gets to read after the handshake, as far as it gets.
async fn knock(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> std::io::Result<Vec<u8>> {
    let tcp = tokio::net::TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let mut tls = tokio_rustls::TlsConnector::from(config)
        .connect(name, tcp)
        .await?;
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await?;
    let mut answer = vec![0; 64];
    let length = tls.read(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused() {
    let site = Site::new();
    let address = free_address();
    let memory = Memory::default();
    let node = site.start(1, address, &memory, StartMode::Found).await;
    let ca = site.authority.cert_pem().as_bytes();
    let config = |identity: Option<&Identity>| {
        trivet_pki::client_config(ServerTrust::Pinned(ca), identity, &[b"h2"]).expect("TLS")
    };

    let friend = knock(address, config(Some(&identity(&site.authority))))
        .await
        .expect("a peer is let in");
    assert!(!friend.is_empty());
    let without = knock(address, config(None)).await;
    assert!(without.is_err(), "without a certificate: {without:?}");
    let elsewhere = Authority::generate("other-ca", SystemTime::now()).expect("a CA");
    let foreign = knock(address, config(Some(&identity(&elsewhere)))).await;
    assert!(
        foreign.is_err(),
        "with a certificate of another CA: {foreign:?}"
    );

    // A member whose peers are not who they should be waits, and writes nothing.
    let other = Site::new();
    let joining = other.config(
        2,
        free_address(),
        StartMode::Join {
            peer_urls: vec![format!("https://{address}")],
        },
    );
    let dir = joining.dir.clone();
    let started = RaftNode::start(
        joining,
        Toy::open(&Memory::default(), 100),
        Arc::new(Named(2)),
    );
    assert!(
        tokio::time::timeout(Duration::from_secs(1), started)
            .await
            .is_err()
    );
    assert!(!dir.exists());
    assert_eq!(node.status().peers.len(), 1);
    node.shutdown().await;

    // The address in use is an error with a name, not a hang.
    let taken = TcpListener::bind(address).expect("the port is free again");
    let config = site.config(1, address, StartMode::Resume);
    let started = RaftNode::start(config, Toy::open(&memory, 100), Arc::new(Named(1))).await;
    match started {
        Err(Error::Storage(message)) => assert!(message.contains("cannot listen"), "{message}"),
        other => panic!("{other:?}"),
    }
    drop(taken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_is_spoken_only_where_it_was_decided() {
    let site = Site::new();
    let addresses = [free_address(), free_address()];
    let config = |id: u64, start| {
        let mut config = site.config(id, addresses[(id - 1) as usize], start);
        config.security = PeerSecurity::Plaintext;
        config.local.peer_url = format!("http://{}", addresses[(id - 1) as usize]);
        config
    };
    let memories = [Memory::default(), Memory::default()];
    let first = RaftNode::start(
        config(1, StartMode::Found),
        Toy::open(&memories[0], 100),
        Arc::new(Named(1)),
    )
    .await
    .expect("the founder starts");
    let url = format!("http://{}", addresses[0]);
    let join = StartMode::Join {
        peer_urls: vec![url.clone()],
    };
    let second = RaftNode::start(
        config(2, join.clone()),
        Toy::open(&memories[1], 100),
        Arc::new(Named(2)),
    )
    .await
    .expect("the second joins");
    second.propose(command("a")).await.expect("committed");
    eventually("both have it", || {
        memories
            .iter()
            .all(|memory| memory.commands() == [command("a")])
    })
    .await;

    // A member that insists on TLS neither asks without nor takes such an address.
    let strict = site.config(3, free_address(), join);
    let answers = trivet_raft_node::ask_members(
        &strict.security,
        std::slice::from_ref(&url),
        Duration::from_secs(2),
    )
    .await;
    let why = answers[0].as_ref().expect_err("no TLS, no answer");
    assert!(why.contains("over TLS only"), "{why}");
    let open = trivet_raft_node::ask_members(
        &PeerSecurity::Plaintext,
        &[url, "https://localhost:1".to_owned()],
        Duration::from_secs(2),
    )
    .await;
    assert_eq!(open[0].as_ref().expect("an answer").members.len(), 2);
    assert!(open[1].is_err());
    first.shutdown().await;
    second.shutdown().await;

    let memory = Memory::default();
    let founder = site
        .start(9, free_address(), &memory, StartMode::Found)
        .await;
    let plain = Peer {
        id: 10,
        name: "plain-1".into(),
        peer_url: "http://127.0.0.1:1".into(),
        client_url: String::new(),
    };
    let refused = founder.add_learner(plain).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    founder.shutdown().await;
}
