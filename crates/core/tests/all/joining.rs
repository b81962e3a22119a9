//! Servers that join, and every way in which they must not.

use std::time::{Duration, SystemTime};

use trivet_core::{ClusterSettings, StartError};
use trivet_join::JoinError;
use trivet_pki::Secret;

use crate::world::{Machine, Pretended, env_at, secret, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_shares_the_identity() {
    let store = Pretended::default();
    let (first, second) = (Machine::new("server-1"), Machine::new("server-2"));
    let one = start(
        first
            .server(&store)
            .token(secret("t"))
            .agent_token(secret("a"))
            .cluster_init(true),
    )
    .await;
    // The full token pins the CA; the short one would do, with a warning.
    let full = one.server_token().to_secret();
    let two = start(second.server(&store).token(full).server_url(one.url())).await;
    assert_eq!(two.server_ca(), one.server_ca());
    assert_eq!(two.agent_token().password().expose(), "a");
    let file = |machine: &Machine, name: &str| {
        std::fs::read(machine.data().join("server").join(name)).unwrap()
    };
    for name in [
        "tls/client-ca.key",
        "tls/etcd/peer-ca.crt",
        "tls/service.key",
        "cred/passwd",
        "token",
    ] {
        assert_eq!(file(&first, name), file(&second, name), "{name}");
    }
    assert_ne!(
        file(&first, "tls/client-admin.key"),
        file(&second, "tls/client-admin.key")
    );
    let names = store.member_names();
    assert_eq!(names.len(), 2);
    assert!(
        names[1]
            .strip_prefix("server-2-")
            .is_some_and(|rest| rest.len() == 8),
        "{names:?}"
    );

    // Each administrator's certificate is good on the other server too.
    let there = trivet_core::administrator(&first.data(), Some(&two.url()))
        .await
        .unwrap();
    let report = there.status().await.unwrap();
    assert_eq!((report.node.as_str(), report.voters), ("server-2", 2));
    assert!(
        report.advice.iter().any(|line| line.contains("2 servers")),
        "{:?}",
        report.advice
    );

    // A restart needs neither the first server nor the URL it joined with.
    one.shutdown().await;
    two.shutdown().await;
    let two = start(
        second
            .server(&store)
            .server_url("https://127.0.0.1:1")
            .token(secret("t")),
    )
    .await;
    two.shutdown().await;
}

/// Starts a joining server, expects it to fail, and checks that it wrote nothing.
async fn refused(machine: &Machine, builder: trivet_core::ControlPlaneBuilder) -> StartError {
    let before = machine.files();
    let error = builder.build().unwrap().start().await.unwrap_err();
    assert_eq!(machine.files(), before, "{error}");
    assert_eq!(error.exit_code(), 4, "{error}");
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_has_its_own_message_and_writes_nothing() {
    let store = Pretended::default();
    let first = Machine::new("server-1");
    let one = start(
        first
            .server(&store)
            .token(secret("t"))
            .agent_token(secret("agents")),
    )
    .await;
    let machine = Machine::new("server-2");
    let join = |token: &str| {
        machine
            .server(&store)
            .server_url(one.url())
            .token(Secret::new(token))
    };

    let error = refused(&machine, machine.server(&store).server_url(one.url())).await;
    assert!(
        matches!(error, StartError::Join(JoinError::NoToken { .. })),
        "{error}"
    );

    let error = refused(&machine, join("wrong")).await;
    assert!(
        matches!(error, StartError::Join(JoinError::WrongToken { .. })),
        "{error}"
    );

    let error = refused(&machine, join("agents")).await;
    assert!(
        matches!(
            error,
            StartError::Join(JoinError::AgentTokenForServer { .. })
        ),
        "{error}"
    );

    let error = refused(&machine, join("abcdef.0123456789abcdef")).await;
    assert!(
        matches!(error, StartError::Join(JoinError::BootstrapTokenForServer)),
        "{error}"
    );

    let foreign = format!("K10{}::server:t", "0".repeat(64));
    let error = refused(&machine, join(&foreign)).await;
    assert!(
        matches!(error, StartError::Join(JoinError::CaHashMismatch { .. })),
        "{error}"
    );

    let error = refused(&machine, join("t").server_url("https://127.0.0.1:1")).await;
    assert!(
        matches!(&error, StartError::Join(JoinError::Unreachable { address, .. }) if address == "127.0.0.1:1")
    );

    let settings = ClusterSettings {
        cluster_cidr: vec!["10.99.0.0/16".into()],
        ..ClusterSettings::default()
    };
    let error = refused(&machine, join("t").settings(settings)).await;
    assert!(
        matches!(error, StartError::SettingsDiffer { .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("--cluster-cidr")
            && !error.to_string().contains("--service-cidr"),
        "{error}"
    );

    let error = refused(&machine, join("t").agent_token(secret("others"))).await;
    assert!(error.to_string().contains("--agent-token"), "{error}");
    assert!(!error.to_string().contains("others"), "{error}");

    let error = refused(&machine, join("t").node_name("server-1")).await;
    assert!(matches!(error, StartError::DuplicateNode { .. }), "{error}");

    let past = env_at(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400));
    let error = refused(&machine, join("t").env(past)).await;
    assert!(
        matches!(error, StartError::Join(JoinError::Clock(_))),
        "{error}"
    );
    assert!(error.to_string().contains("1970-01-02"), "{error}");

    assert_eq!(store.member_names().len(), 1);
    one.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_identity_of_another_cluster_is_not_overwritten() {
    let (ours, theirs) = (Pretended::default(), Pretended::default());
    let (first, machine) = (Machine::new("server-1"), Machine::new("server-2"));
    let one = start(first.server(&theirs).token(secret("t"))).await;
    start(machine.server(&ours).token(secret("t")))
        .await
        .shutdown()
        .await;
    std::fs::remove_dir_all(machine.data().join("server/db")).unwrap();
    let error = refused(
        &machine,
        machine
            .server(&theirs)
            .token(secret("t"))
            .server_url(one.url()),
    )
    .await;
    assert!(matches!(error, StartError::OtherIdentity { .. }), "{error}");
    one.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_starting_is_waited_for() {
    let store = Pretended::default();
    let (first, second) = (Machine::new("server-1"), Machine::new("server-2"));
    let one = start(first.server(&store).token(secret("t"))).await;
    store.set_writable(false);
    let joining = tokio::spawn(
        second
            .server(&store)
            .token(secret("t"))
            .server_url(one.url())
            .build()
            .unwrap()
            .start(),
    );
    // Longer than the patience with a server that cannot be reached at all.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!joining.is_finished());
    assert!(second.files().is_empty());
    store.set_writable(true);
    let two = tokio::time::timeout(Duration::from_secs(20), joining)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    two.shutdown().await;
    one.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_gone_can_be_removed() {
    let store = Pretended::default();
    let (first, second) = (Machine::new("server-1"), Machine::new("server-2"));
    let one = start(first.server(&store).token(secret("t"))).await;
    let two = start(
        second
            .server(&store)
            .token(secret("t"))
            .server_url(one.url()),
    )
    .await;
    two.shutdown().await;
    let admin = trivet_core::administrator(&first.data(), None)
        .await
        .unwrap();
    let name = store.member_names()[1].clone();
    admin.remove_member(&name).await.unwrap();
    assert_eq!(store.member_names().len(), 1);
    assert!(
        admin
            .remove_member(&name)
            .await
            .unwrap_err()
            .to_string()
            .contains("404")
    );
    one.shutdown().await;
}
