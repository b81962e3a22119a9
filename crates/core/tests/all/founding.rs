//! First servers, restarts, and what must not be founded.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trivet_core::{ControlPlane, StartError, StorePorts, tokens};
use trivet_datastore::{KeyRange, MemoryStore, RangeRequest};
use trivet_https::Client;
use trivet_join::Token;
use trivet_pki::{ALPN_HTTP, Identity, ServerTrust};

use crate::world::{Machine, Pretended, secret, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_server_has_k3s_files_and_a_restart_keeps_them() {
    let (machine, store) = (Machine::new("server-1"), Pretended::default());
    let running = start(
        machine
            .server(&store)
            .token(secret("hunter2"))
            .tls_san(vec!["api.example".into()]),
    )
    .await;
    let url = running.url();
    let server = machine.data().join("server");
    let text = |name: &str| std::fs::read_to_string(server.join(name)).unwrap();
    let mode = |name: &str| {
        std::fs::metadata(server.join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };

    let token = Token::parse(&text("token")).unwrap();
    assert_eq!(token.password().expose(), "hunter2");
    let ca = text("tls/server-ca.crt");
    assert_eq!(
        token.ca_hash.unwrap(),
        trivet_pki::ca_hash(ca.as_bytes()).unwrap()
    );
    assert_eq!(text("node-token"), text("token"));
    assert_eq!(text("agent-token"), text("token"));
    assert_eq!(
        text("cred/passwd"),
        "hunter2,node,node,k3s:agent\nhunter2,server,server,k3s:server\n"
    );
    assert_eq!(
        tokens::server_token(&machine.data())
            .unwrap()
            .unwrap()
            .expose(),
        text("token").trim()
    );
    for secret in [
        "token",
        "cred/passwd",
        "tls/server-ca.key",
        "tls/service.key",
        "tls/client-admin.key",
    ] {
        assert_eq!(mode(secret), 0o600, "{secret}");
    }
    assert_eq!(mode(""), 0o700);

    let kubeconfig = std::fs::read_to_string(running.kubeconfig_path().unwrap()).unwrap();
    assert!(
        kubeconfig.contains(&format!("server: {url}")),
        "{kubeconfig}"
    );
    let mode = std::fs::metadata(running.kubeconfig_path().unwrap())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640);

    // The administrator's certificate works, under every name of the server.
    let admin = Identity::load(
        &server.join("tls/client-admin.crt"),
        &server.join("tls/client-admin.key"),
    )
    .unwrap();
    let tls =
        trivet_pki::client_config(ServerTrust::Pinned(ca.as_bytes()), Some(&admin), ALPN_HTTP)
            .unwrap();
    for name in [
        "127.0.0.1",
        "localhost",
        "kubernetes.default.svc.cluster.local",
        "10.43.0.1",
        "server-1",
        "api.example",
    ] {
        let client = Client::builder(&url, tls.clone())
            .unwrap()
            .server_name(name)
            .build()
            .unwrap();
        let namespace: serde_json::Value = client
            .get_json("/api/v1/namespaces/kube-system")
            .await
            .unwrap();
        assert_eq!(namespace["metadata"]["name"], "kube-system", "{name}");
    }
    let stranger = Client::builder(&url, tls)
        .unwrap()
        .server_name("elsewhere.example")
        .build()
        .unwrap();
    assert!(stranger.get("/version").await.is_err());

    // The shared files are in the store, encrypted with the token, under K3s's key.
    let range = KeyRange::Prefix("/bootstrap/".into());
    let page = running
        .datastore()
        .range(RangeRequest {
            range,
            after: None,
            limit: 0,
            at: None,
            serializable: false,
            count_only: false,
        })
        .await
        .unwrap();
    let hash = trivet_pki::sha256_hex(b"hunter2");
    assert_eq!(page.items.len(), 1);
    assert_eq!(page.items[0].key, format!("/bootstrap/{}", &hash[..12]));

    let report = trivet_core::status(&machine.data(), None).await.unwrap();
    assert_eq!(
        (
            report.node.as_str(),
            report.voters,
            report.tolerated_failures
        ),
        ("server-1", 1, Some(0))
    );
    assert!(report.ready && report.writable);
    assert!(
        report.members[0].name.starts_with("server-1-"),
        "{report:?}"
    );
    running.shutdown().await;

    // A restart needs neither token nor flags, and changes no identity.
    let before = machine.files();
    let running = start(machine.server(&store).tls_san(vec!["api.example".into()])).await;
    running.shutdown().await;
    let after = machine.files();
    for name in [
        "server/tls",
        "server/cred/passwd",
        "server/token",
        "server/db/member-name",
    ] {
        let path = machine.data().join(name);
        for (file, content) in before.iter().filter(|(file, _)| file.starts_with(&path)) {
            assert!(
                after.get(file) == Some(content),
                "{} changed",
                file.display()
            );
        }
    }
    assert_eq!(store.member_names().len(), 1);

    // Another token is noticed.
    let error = machine
        .server(&store)
        .token(secret("other"))
        .build()
        .unwrap()
        .start()
        .await
        .unwrap_err();
    assert!(matches!(error, StartError::OtherToken { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_can_have_a_token_of_their_own() {
    let (machine, store) = (Machine::new("server-1"), Pretended::default());
    let running = start(
        machine
            .server(&store)
            .token(secret("s"))
            .agent_token(secret("a")),
    )
    .await;
    let text = std::fs::read_to_string(machine.data().join("server/agent-token")).unwrap();
    assert!(text.trim_end().ends_with("::node:a"), "{text}");
    assert_eq!(running.agent_token().password().expose(), "a");
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_datastore_will_do_and_keeps_the_identity() {
    let (first, second) = (Machine::new("one"), Machine::new("two"));
    let store = Arc::new(MemoryStore::new());
    let server = |machine: &Machine, token: &str| {
        ControlPlane::builder()
            .data_dir(machine.data())
            .datastore(store.clone())
            .node_name(machine.name)
            .listener(std::net::TcpListener::bind("127.0.0.1:0").unwrap())
            .token(secret(token))
    };
    let running = start(server(&first, "t")).await;
    assert_ne!(running.local_addr().port(), 0);
    let ca = running.server_ca();
    drop(running);
    // Another machine with the same store and token serves the same cluster.
    let error = server(&second, "wrong")
        .build()
        .unwrap()
        .start()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("another token"), "{error}");
    assert!(second.files().is_empty());
    let running = start(server(&second, "t")).await;
    assert_eq!(running.server_ca(), ca);
    running.shutdown().await;
}

#[tokio::test]
async fn foreign_data_is_not_left_behind() {
    let (machine, store) = (Machine::new("server-1"), Pretended::default());
    let db = machine.data().join("server/db");
    std::fs::create_dir_all(db.join("state.dqlite")).unwrap();
    std::fs::write(db.join("state.dqlite/metadata1"), [1; 32]).unwrap();
    let before = machine.files();
    for builder in [
        machine.server(&store),
        machine.server(&store).cluster_init(true),
        machine
            .server(&store)
            .server_url("https://127.0.0.1:1")
            .token(secret("t")),
        machine
            .server(&store)
            .datastore(Arc::new(MemoryStore::new())),
    ] {
        let error = builder.build().unwrap().start().await.unwrap_err();
        assert!(matches!(error, StartError::ForeignData { .. }), "{error}");
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("state.dqlite"), "{error}");
    }
    assert_eq!(machine.files(), before);

    // Another of our own stores is foreign to a control plane that was told of it.
    let other = Machine::new("server-2");
    std::fs::create_dir_all(other.data().join("server/db/pretended")).unwrap();
    std::fs::write(other.data().join("server/db/pretended/data"), "").unwrap();
    let builder = other
        .server(&store)
        .datastore(Arc::new(MemoryStore::new()))
        .probe(Arc::new(store.clone()));
    assert_eq!(
        builder
            .build()
            .unwrap()
            .start()
            .await
            .unwrap_err()
            .exit_code(),
        3
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_server_does_not_found_a_second_cluster() {
    let store = Pretended::default();
    let (first, second) = (Machine::new("server-1"), Machine::new("server-2"));
    let one = start(first.server(&store).token(secret("t"))).await;
    let builder = second.server(&store).bind([127, 0, 0, 2].into(), 0);
    let two = start(builder.token(secret("t")).server_url(one.url())).await;
    let marker = first.data().join("agent/etc");
    let other = format!("127.0.0.2:{}", one.local_addr().port());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    let remembered = || {
        let file = std::fs::read_dir(&marker).ok()?.next()?.ok()?;
        std::fs::read_to_string(file.path()).ok()
    };
    while !remembered().is_some_and(|text| text.contains(&other)) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the other server is not remembered"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    one.shutdown().await;

    std::fs::remove_dir_all(first.data().join("server")).unwrap();
    let before = first.files();
    let error = first
        .server(&store)
        .token(secret("t"))
        .cluster_init(true)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(
        error
            .to_string()
            .contains(&format!("--server https://{other}")),
        "{error}"
    );
    assert_eq!(first.files(), before);
    two.shutdown().await;
}

#[tokio::test]
async fn a_server_that_a_living_cluster_still_counts_on_does_not_found_one() {
    let (machine, store) = (Machine::new("server-1"), Pretended::default());
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let member = tokio::spawn(async move {
        loop {
            if let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
                // The start of a TLS handshake.
                let _ = stream.write_all(&[0x16, 0x03, 0x01, 0x00]).await;
                let _ = stream.read_u8().await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let ports = StorePorts {
        client: 0,
        peer: port,
        metrics: None,
    };
    let builder = machine
        .server(&store)
        .store_ports(ports)
        .founding_watch(Duration::from_secs(10));
    let error = builder
        .cluster_init(true)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap_err();
    member.abort();
    assert!(matches!(error, StartError::LivingCluster { .. }), "{error}");
    assert_eq!(error.exit_code(), 5);
    assert!(machine.files().is_empty());
}

#[tokio::test]
async fn a_full_token_does_not_found_a_cluster() {
    let (machine, store) = (Machine::new("server-1"), Pretended::default());
    let token = format!("K10{}::server:t", "a".repeat(64));
    let error = machine
        .server(&store)
        .token(secret(&token))
        .build()
        .unwrap()
        .start()
        .await
        .unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(machine.files().is_empty());
}

#[tokio::test]
async fn a_taken_port_is_told_before_anything_is_written() {
    let (machine, store) = (Machine::new("server-1"), Pretended::default());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let builder = machine.server(&store).bind([127, 0, 0, 1].into(), port);
    let error = builder.build().unwrap().start().await.unwrap_err();
    assert!(matches!(error, StartError::Bind { .. }), "{error}");
    assert!(machine.files().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_a_quorum_says_so_and_goes_on_waiting() {
    let (machine, store) = (Machine::new("server-1"), Pretended::default());
    start(machine.server(&store)).await.shutdown().await;
    store.set_writable(false);
    let running = machine
        .server(&store)
        .build()
        .unwrap()
        .start()
        .await
        .unwrap();
    let supervisor = trivet_core::administrator(&machine.data(), None)
        .await
        .unwrap();
    supervisor.ping().await.unwrap();
    assert!(!running.is_ready());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let report = loop {
        let report = supervisor.status().await.unwrap();
        if report.waiting.is_some() || tokio::time::Instant::now() > deadline {
            break report;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(
        report
            .waiting
            .unwrap()
            .reason
            .starts_with("no quorum: 1 of 1")
    );
    assert!(!report.writable && !report.ready);
    store.set_writable(true);
    tokio::time::timeout(Duration::from_secs(20), running.ready())
        .await
        .unwrap();
    assert!(running.waiting().is_none());
    running.shutdown().await;
}
