//! The store itself, several members, restarts, signed tokens, certificates.

use std::sync::Arc;

use std::time::Duration;

use tonic::Code;
use trivet_datastore::{Datastore, Expect, PutRequest};
use trivet_env::Env;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::authpb::{UserAddOptions, permission::Type};
use trivet_store_etcd::proto::etcdserverpb as pb;
use trivet_store_etcd::{AuthSettings, ClientListener, StoreConfig, TokenSpec};

use super::somebody::{
    EMPTY, INVALID_TOKEN, Somebody, denied, login, nobody, populate, quick, refused, single,
};
use crate::support::{Member, Three, Tls, eventually, settings, soon};

#[tokio::test]
async fn the_store_itself_needs_no_leave() {
    let single = single().await;
    populate(single.client()).await;
    let store = &single.member.store;
    // Renewed by nobody: its end is the store's own doing.
    let lease = store.grant_lease(Duration::from_secs(1)).await.unwrap();
    let request = PutRequest {
        key: "embedded".into(),
        value: "v".into(),
        expect: Expect::Any,
        lease: Some(lease.id),
    };
    store.put(request).await.unwrap();
    let root = login(single.client(), "root", "rp").await;
    assert_eq!(root.get("embedded").await.unwrap(), 1);
    eventually("the lease ends", || async {
        root.get("embedded").await.unwrap() == 0
    })
    .await;
    store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_agree_on_who_may_what() {
    let three = Three::start_with(quick).await;
    let clients: Vec<_> = three.members.iter().map(|member| &member.client).collect();
    populate(clients[0]).await;
    let alice = login(clients[1], "alice", "ap").await;
    // At once, everywhere: a member that is behind catches up before it judges a token.
    for client in &clients {
        let here = alice.on(client);
        here.put("a").await.unwrap();
        assert_eq!(here.get("a").await.unwrap(), 1);
        denied(here.put("c").await);
        refused(nobody(client).put("a").await, EMPTY.0, EMPTY.1);
    }
    // A change through one member counts on the others.
    let root = login(clients[2], "root", "rp").await;
    root.permit("some", Type::Readwrite, "c", "").await.unwrap();
    for client in &clients {
        eventually("alice may", || async {
            alice.on(client).put("c").await.is_ok()
        })
        .await;
    }
    // The leader's going changes nothing.
    let leader = three.leader().await;
    let status = three.members[leader]
        .store
        .cluster()
        .unwrap()
        .status()
        .await
        .unwrap();
    let target = status
        .members
        .iter()
        .find(|member| Some(member.id) != status.leader)
        .unwrap();
    let transfer = root.on(clients[leader]).asks(pb::MoveLeaderRequest {
        target_id: target.id.0,
    });
    clients[leader]
        .maintenance()
        .move_leader(transfer)
        .await
        .unwrap();
    for client in &clients {
        soon(alice.on(client).put("a")).await.unwrap();
    }
    root.change_password("alice", "new").await.unwrap();
    for client in &clients {
        eventually("the old token is void", || async {
            alice.on(client).get("a").await.is_err()
        })
        .await;
    }
    three.shutdown().await;
}

#[tokio::test]
async fn users_survive_a_restart_and_simple_tokens_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let config = || quick(settings(Env::real(), dir.path().join("trivet")));
    let member = Member::open(config()).await;
    populate(&member.client).await;
    let old = login(&member.client, "alice", "ap").await.token;
    member.store.shutdown().await;
    let member = Member::open(config()).await;
    let client = &member.client;
    let somebody = Somebody { client, token: old };
    refused(somebody.put("a").await, INVALID_TOKEN.0, INVALID_TOKEN.1);
    refused(nobody(client).put("a").await, EMPTY.0, EMPTY.1);
    let alice = login(client, "alice", "ap").await;
    alice.put("a").await.unwrap();
    denied(alice.put("c").await);
    member.store.shutdown().await;
}

fn signed(mut config: StoreConfig, dir: &std::path::Path) -> StoreConfig {
    let secret = dir.join("secret");
    std::fs::write(&secret, "a secret for tests").unwrap();
    let spec = format!("jwt,sign-method=HS256,priv-key={}", secret.display());
    config.auth = AuthSettings {
        token: spec.parse().unwrap(),
        bcrypt_cost: 4,
        ..AuthSettings::default()
    };
    assert_ne!(config.auth.token, TokenSpec::Simple);
    config
}

#[tokio::test]
async fn signed_tokens_survive_a_restart_and_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let config = || signed(settings(Env::real(), dir.path().join("trivet")), dir.path());
    let member = Member::open(config()).await;
    populate(&member.client).await;
    let old = login(&member.client, "alice", "ap").await.token;
    assert_eq!(old.as_ref().unwrap().split('.').count(), 3);
    member.store.shutdown().await;
    let member = Member::open(config()).await;
    let client = &member.client;
    let alice = Somebody { client, token: old };
    alice.put("a").await.unwrap();
    let root = login(client, "root", "rp").await;
    root.add_role("unrelated").await.unwrap();
    // Reads notice here, writes when they are applied.
    let stale = "revision of auth store is old";
    refused(alice.get("a").await, Code::InvalidArgument, stale);
    refused(alice.put("a").await, Code::InvalidArgument, stale);
    assert_eq!(
        alice.watch("a", "").await,
        "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old"
    );
    // An administrator can go on.
    root.add_role("another").await.unwrap();
    login(client, "alice", "ap").await.put("a").await.unwrap();
    let forged = Somebody {
        client,
        token: root.token.map(|token| token.replacen('e', "f", 1)),
    };
    refused(forged.get("a").await, INVALID_TOKEN.0, INVALID_TOKEN.1);
    member.store.shutdown().await;
}

#[tokio::test]
async fn a_certificate_names_a_user() {
    let dir = tempfile::tempdir().unwrap();
    let tls = Tls::new();
    let mut config = quick(settings(Env::real(), dir.path().join("trivet")));
    config.clients.push(ClientListener {
        tls: Some(tls.server()),
        ..config.clients[0].clone()
    });
    let member = Member::open(config).await;
    let address = member.store.client_addresses()[1].to_string();
    let client = Client::connect_tls(&address, tls.client()).await.unwrap();
    let certified = nobody(&client);
    // Its name means nothing before authentication is enabled.
    certified.put("a").await.unwrap();
    populate(&member.client).await;
    denied(certified.put("a").await);
    let root = login(&member.client, "root", "rp").await;
    let user = root.asks(pb::AuthUserAddRequest {
        name: "test".to_owned(),
        options: Some(UserAddOptions { no_password: true }),
        ..Default::default()
    });
    member.client.auth().user_add(user).await.unwrap();
    denied(certified.put("a").await);
    root.grant_role("test", "some").await.unwrap();
    certified.put("a").await.unwrap();
    assert_eq!(certified.get("a").await.unwrap(), 1);
    assert_eq!(certified.watch("a", "").await, "");
    denied(certified.put("c").await);
    // A token counts for more.
    root.on(&client).put("c").await.unwrap();
    let wrong = Somebody {
        client: &client,
        token: Some("wrong.1".to_owned()),
    };
    refused(wrong.put("a").await, INVALID_TOKEN.0, INVALID_TOKEN.1);
    // The gateway cannot tell whom such a client means (etcd: 400).
    assert_eq!(json_over(&address, tls.client()).await, 400);
    member.store.shutdown().await;
}

/// The status of a JSON request by a client that shows a certificate.
async fn json_over(address: &str, tls: Arc<rustls::ClientConfig>) -> u16 {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let stream = tokio_rustls::TlsConnector::from(tls)
        .connect(name, stream)
        .await
        .unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let handshake = hyper::client::conn::http2::handshake(executor, io);
    let (mut sender, connection) = handshake.await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("https://{address}/v3/kv/range"))
        .body(r#"{"key":"YQ=="}"#.to_owned())
        .unwrap();
    let status = sender.send_request(request).await.unwrap().status();
    connection.abort();
    status.as_u16()
}

#[tokio::test]
async fn settings_that_cannot_work_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings(Env::real(), dir.path().join("trivet"));
    config.auth.bcrypt_cost = 99;
    let error = trivet_store_etcd::open(config.clone()).await.unwrap_err();
    assert!(error.to_string().contains("cost 99"), "{error}");
    config.auth = AuthSettings {
        token: "jwt,sign-method=RS256,priv-key=/nowhere/key.pem"
            .parse()
            .unwrap(),
        ..AuthSettings::default()
    };
    let error = trivet_store_etcd::open(config).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/key.pem"), "{error}");
}
