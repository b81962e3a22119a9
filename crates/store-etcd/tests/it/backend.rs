//! Opening, recognising and refusing directories; TLS from files.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use trivet_datastore::{
    Backend, BackendConfig, ClusterConfig, ClusterStart, Datastore, Error, Expect, KeyRange,
    PutRequest, RangeRequest, ReadOnlyDir, TlsFiles,
};
use trivet_env::Env;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::etcdserverpb as pb;
use trivet_store_etcd::{EtcdBackend, K3S_ETCD, Start, StoreConfig, open};

use crate::support::{Tls, free_address, soon};

struct Dir(PathBuf);

impl ReadOnlyDir for Dir {
    fn read_dir(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = std::fs::read_dir(self.0.join(path))?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()?;
        names.sort();
        Ok(names)
    }

    fn read(&self, path: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let bytes = std::fs::read(self.0.join(path))?;
        Ok(bytes
            .into_iter()
            .skip(offset as usize)
            .take(length)
            .collect())
    }

    fn file_size_bytes(&self, path: &str) -> io::Result<Option<u64>> {
        Ok(std::fs::metadata(self.0.join(path))
            .ok()
            .filter(|m| m.is_file())
            .map(|m| m.len()))
    }

    fn is_dir(&self, path: &str) -> io::Result<bool> {
        Ok(self.0.join(path).is_dir())
    }
}

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest {
        key: key.into(),
        value: value.into(),
        expect: Expect::Any,
        lease: None,
    }
}

async fn value_of(store: &dyn Datastore, key: &'static str) -> Option<bytes::Bytes> {
    let request = RangeRequest {
        range: KeyRange::Key(key.into()),
        after: None,
        limit: 0,
        at: None,
        serializable: false,
        count_only: false,
    };
    store
        .range(request)
        .await
        .unwrap()
        .items
        .pop()
        .map(|pair| pair.value)
}

fn write_tls(dir: &Path, tls: &Tls) -> TlsFiles {
    let leaf = tls.leaf();
    let files = TlsFiles {
        ca: dir.join("ca.crt"),
        cert: dir.join("leaf.crt"),
        key: dir.join("leaf.key"),
    };
    std::fs::write(&files.ca, tls.ca_pem()).unwrap();
    std::fs::write(&files.cert, &leaf.cert_pem).unwrap();
    std::fs::write(&files.key, leaf.key_pem.expose()).unwrap();
    files
}

#[tokio::test]
async fn the_backend_founds_resumes_and_recognises_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let backend = EtcdBackend::default();
    let config = || BackendConfig {
        env: Env::real(),
        db_dir: dir.path().to_owned(),
        cluster: None,
    };
    assert_eq!(backend.probe(&Dir(dir.path().to_owned())).unwrap(), []);

    let store = soon(backend.open(config())).await.unwrap();
    store.put(put("a", "1")).await.unwrap();
    store.shutdown().await;
    assert!(matches!(
        store.put(put("a", "2")).await,
        Err(Error::Unavailable { .. })
    ));

    let found = backend.probe(&Dir(dir.path().to_owned())).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].backend.as_str(), found[0].path.as_path()),
        ("etcd", Path::new("trivet"))
    );
    assert!(
        found[0].description.contains("member"),
        "{}",
        found[0].description
    );

    let store = soon(backend.open(config())).await.unwrap();
    assert_eq!(
        soon(value_of(&*store, "a")).await.as_deref(),
        Some(&b"1"[..])
    );
    store.shutdown().await;
}

#[tokio::test]
async fn mutual_tls_from_files_and_plaintext_only_on_loopback() {
    let dir = tempfile::tempdir().unwrap();
    let tls = Tls::new();
    let files = write_tls(dir.path(), &tls);
    let (client_address, metrics) = (free_address(), free_address());
    let cluster = ClusterConfig {
        member_name: "server-1".to_owned(),
        peer_listen: vec![free_address()],
        peer_url: "https://127.0.0.1:2380".to_owned(),
        client_listen: vec![client_address],
        client_url: format!("https://{client_address}"),
        metrics_listen: Some(metrics),
        peer_tls: files.clone(),
        client_tls: files,
        heartbeat: Duration::from_millis(50),
        election_timeout: Duration::from_millis(300),
        start: ClusterStart::Found,
    };
    let config = |cluster| BackendConfig {
        env: Env::real(),
        db_dir: dir.path().join("db"),
        cluster: Some(cluster),
    };
    let open_to_all = EtcdBackend {
        plaintext_listen: vec!["0.0.0.0:0".parse().unwrap()],
        ..EtcdBackend::default()
    };
    let refused = soon(open_to_all.open(config(cluster.clone()))).await;
    assert!(matches!(refused, Err(Error::Invalid(_))));
    assert!(
        !dir.path().join("db").exists(),
        "a refused start writes nothing"
    );

    let store = soon(EtcdBackend::default().open(config(cluster)))
        .await
        .unwrap();
    let client = Client::connect_tls(&client_address.to_string(), tls.client())
        .await
        .unwrap();
    let status = soon(client.maintenance().status(pb::StatusRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.leader, status.header.unwrap().member_id);

    // Without a certificate, with one of another CA, and without TLS: nobody gets in.
    let strangers = Tls::new();
    for config in [strangers.client(), nameless(&tls)] {
        let call = async {
            let client = Client::connect_tls(&client_address.to_string(), config)
                .await
                .ok()?;
            client.maintenance().status(pb::StatusRequest {}).await.ok()
        };
        assert!(soon(call).await.is_none());
    }
    let plain = async {
        let client = Client::connect(&client_address.to_string()).await.ok()?;
        client.maintenance().status(pb::StatusRequest {}).await.ok()
    };
    assert!(soon(plain).await.is_none());

    let health = soon(http_get(metrics, "/health")).await;
    assert!(
        health.ends_with(r#"{"health":"true","reason":""}"#),
        "{health}"
    );
    let metrics = soon(http_get(metrics, "/metrics")).await;
    assert!(
        metrics.contains("\netcd_server_has_leader 1\n"),
        "{metrics}"
    );
    store.shutdown().await;
}

/// Trusts the right CA but has no certificate.
fn nameless(tls: &Tls) -> std::sync::Arc<rustls::ClientConfig> {
    trivet_pki::client_config(
        trivet_pki::ServerTrust::Pinned(tls.ca_pem().as_bytes()),
        None,
        &[b"h2"],
    )
    .unwrap()
}

async fn http_get(address: std::net::SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn nothing_is_resumed_from_an_empty_or_emptied_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = StoreConfig::single(Env::real(), dir.path().join("trivet"));
    config.start = Start::Resume;
    let refused = soon(open(config.clone())).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    assert!(!config.dir.exists());

    config.start = Start::Found;
    let store = soon(open(config.clone())).await.unwrap();
    store.shutdown().await;
    std::fs::remove_dir_all(config.dir.join("raft")).unwrap();
    let refused = soon(open(config.clone())).await;
    assert!(
        refused.is_err(),
        "a member that lost its log must not found a cluster again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_join_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let tls = Tls::new();
    let mut first = StoreConfig::single(Env::real(), dir.path().join("first"));
    first.peers = Some(tls.peers(free_address()));
    let store = soon(open(first.clone())).await.unwrap();
    let mut second = StoreConfig::single(Env::real(), dir.path().join("second/trivet"));
    second.peers = Some(tls.peers(free_address()));
    second.start = Start::Join {
        peer_urls: vec![first.peers.unwrap().url],
    };
    let refused = soon(open(second.clone())).await.unwrap_err();
    assert!(refused.to_string().contains("duplicate"), "{refused}");
    let probed = EtcdBackend::default()
        .probe(&Dir(dir.path().join("second")))
        .unwrap();
    assert_eq!(probed, []);
    // Under another name it is welcome.
    second.member_name = "second".to_owned();
    let joined = soon(open(second)).await.unwrap();
    store.shutdown().await;
    joined.shutdown().await;
}

#[test]
fn the_directory_of_a_genuine_etcd_is_foreign() {
    let dir = tempfile::tempdir().unwrap();
    let wal = dir.path().join("etcd/member/wal");
    std::fs::create_dir_all(&wal).unwrap();
    let mut head = vec![4, 0, 0, 0, 0, 0, 0, 0x84, 0x08, 0x04, 0x10, 0x00];
    head.resize(4096, 0);
    std::fs::write(wal.join("0000000000000000-0000000000000000.wal"), head).unwrap();
    let found = EtcdBackend::default()
        .probe(&Dir(dir.path().to_owned()))
        .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].backend.as_str(), found[0].path.as_path()),
        (K3S_ETCD, Path::new("etcd"))
    );
    assert!(
        !found[0].description.contains("by the names"),
        "{}",
        found[0].description
    );
}

#[tokio::test]
async fn a_directory_has_one_user_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::single(Env::real(), dir.path().join("trivet"));
    let store = soon(open(config.clone())).await.unwrap();
    let refused = soon(open(config.clone())).await.err();
    let Some(Error::Invalid(message)) = refused else {
        panic!("{refused:?}");
    };
    let place = config.dir.display().to_string();
    assert!(
        message.contains(&place) && message.contains("in use") && message.contains("stop it"),
        "{message}"
    );
    // The first one is none the worse for it.
    store.put(put("a", "1")).await.unwrap();
    store.shutdown().await;
    // Free as soon as it is shut down, even while somebody keeps the handle.
    let again = soon(open(config.clone())).await.unwrap();
    again.shutdown().await;
    drop(store);

    // Another process counts as well, and dies with its lock.
    let mut other = std::process::Command::new("flock")
        .arg(config.dir.join("LOCK"))
        .args(["cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    if let Ok(other) = &mut other {
        use std::io::{Read as _, Write as _};
        // Once it echoes, it has the lock.
        other.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        let mut echo = [0];
        other
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut echo)
            .unwrap();
        let refused = soon(open(config.clone())).await.err();
        assert!(matches!(refused, Some(Error::Invalid(_))), "{refused:?}");
        drop(other.stdin.take());
        other.wait().unwrap();
    }
    soon(open(config)).await.unwrap().shutdown().await;
}
