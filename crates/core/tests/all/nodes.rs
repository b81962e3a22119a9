//! What agents get from the supervisor, and what they do not.

use std::time::{Duration, SystemTime};

use http::Request;
use trivet_core::Running;
use trivet_join::{ConnectOptions, JoinError, NodeIdentity, Role, Supervisor, Token};
use trivet_pki::{Identity, Secret, certificates, peer_name};

use crate::world::{Machine, Pretended, secret, start};

fn options(running: &Running, token: Token, role: Role) -> ConnectOptions {
    ConnectOptions {
        url: running.url(),
        dial: None,
        token,
        role,
        now: SystemTime::now(),
        timeout: Duration::from_secs(10),
    }
}

fn node(name: &str, password: &str) -> NodeIdentity {
    NodeIdentity {
        name: name.to_owned(),
        password: Secret::new(password),
        ips: vec!["10.1.2.3".parse().unwrap()],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_get_certificates_for_their_own_name() {
    let (machine, store) = (Machine::new("server-1"), Pretended::default());
    let running = start(
        machine
            .server(&store)
            .token(secret("t"))
            .agent_token(secret("a")),
    )
    .await;
    let agent = Supervisor::connect(&options(&running, running.agent_token(), Role::Node))
        .await
        .unwrap();

    assert_eq!(agent.settings().await.unwrap().cluster_dns, ["10.43.0.10"]);
    assert_eq!(
        agent.apiservers().await.unwrap(),
        [running.local_addr().to_string()]
    );
    agent.readyz().await.unwrap();
    assert_eq!(agent.server_ca().await.unwrap(), running.server_ca());
    let client_ca = agent.client_ca().await.unwrap();

    let (csr, key) = trivet_pki::request("anything").unwrap();
    let pem = agent
        .client_kubelet(csr.clone(), &node("Agent-1", "pw"))
        .await
        .unwrap();
    let name = peer_name(&certificates(&pem).unwrap()[0]).unwrap();
    assert_eq!(
        (name.common_name.as_str(), &name.organizations[..]),
        ("system:node:agent-1", &["system:nodes".to_owned()][..])
    );
    assert!(pem.ends_with(&client_ca));
    let serving = agent
        .serving_kubelet(csr.clone(), &node("agent-1", "pw"))
        .await
        .unwrap();
    Identity::from_pem(&serving, key.expose()).unwrap();
    let proxy = agent.client_kube_proxy(csr.clone()).await.unwrap();
    assert_eq!(
        peer_name(&certificates(&proxy).unwrap()[0])
            .unwrap()
            .common_name,
        "system:kube-proxy"
    );
    let controller = agent.client_k3s_controller(csr.clone()).await.unwrap();
    assert_eq!(
        peer_name(&certificates(&controller).unwrap()[0])
            .unwrap()
            .common_name,
        "system:k3s-controller"
    );

    // Another machine with the same name.
    let error = agent
        .client_kubelet(csr.clone(), &node("agent-1", "other"))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, JoinError::NodePasswordRejected { node, .. } if node == "agent-1"),
        "{error}"
    );
    assert!(!error.to_string().contains("other\""));

    // With its certificate a node can renew itself, but not become another.
    let identity = Identity::from_pem(&pem, key.expose()).unwrap();
    let as_node = Supervisor::with_identity(
        &running.url(),
        None,
        running.server_ca(),
        &identity,
        Duration::from_secs(10),
    )
    .unwrap();
    as_node
        .client_kubelet(csr.clone(), &node("agent-1", "pw"))
        .await
        .unwrap();
    let error = as_node
        .client_kubelet(csr.clone(), &node("agent-2", "pw"))
        .await
        .unwrap_err();
    assert!(matches!(error, JoinError::Forbidden { .. }), "{error}");

    // Old agents bring no key.
    let get = Request::get("/v1-k3s/client-kubelet.crt")
        .header("k3s-Node-Name", "agent-1")
        .header("k3s-Node-Password", "pw")
        .body(bytes::Bytes::new())
        .unwrap();
    let pem = agent.http().call(get).await.unwrap();
    Identity::from_pem(&pem, std::str::from_utf8(&pem).unwrap()).unwrap();

    // Deleting the secret, as the deletion of the node does, frees the name.
    let admin = trivet_core::administrator(&machine.data(), None)
        .await
        .unwrap();
    let path = "/api/v1/namespaces/kube-system/secrets/agent-1.node-password.k3s";
    let stored: serde_json::Value = admin.http().get_json(path).await.unwrap();
    assert_eq!(stored["immutable"], true);
    admin
        .http()
        .call(Request::delete(path).body(bytes::Bytes::new()).unwrap())
        .await
        .unwrap();
    agent
        .client_kubelet(csr, &node("agent-1", "other"))
        .await
        .unwrap();
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_are_k3s() {
    let (machine, store) = (Machine::new("server-1"), Pretended::default());
    let running = start(
        machine
            .server(&store)
            .token(secret("t"))
            .agent_token(secret("a")),
    )
    .await;
    let agent = Supervisor::connect(&options(&running, running.agent_token(), Role::Node))
        .await
        .unwrap();
    let server = Supervisor::connect(&options(&running, running.server_token(), Role::Server))
        .await
        .unwrap();
    let nobody = server.with_auth(trivet_https::Auth::None).unwrap();
    let status = |supervisor: &Supervisor, path: &'static str| {
        let client = supervisor.http().clone();
        async move {
            let request = Request::get(path).body(bytes::Bytes::new()).unwrap();
            client.fetch(request).await.unwrap().status().as_u16()
        }
    };
    for (path, as_nobody, as_agent, as_server) in [
        ("/ping", 200, 200, 200),
        ("/cacerts", 200, 200, 200),
        ("/v1-k3s/config", 401, 200, 200),
        ("/v1-k3s/readyz", 401, 200, 200),
        ("/v1-k3s/server-bootstrap", 401, 403, 200),
        ("/v1-trivet/status", 401, 403, 200),
        ("/db/info", 401, 403, 200),
        ("/v1-k3s/client-kubelet.crt", 401, 400, 400),
        ("/v1-k3s/nothing", 401, 404, 404),
    ] {
        assert_eq!(status(&nobody, path).await, as_nobody, "{path} as nobody");
        assert_eq!(status(&agent, path).await, as_agent, "{path} as agent");
        assert_eq!(status(&server, path).await, as_server, "{path} as server");
    }
    assert_eq!(status(&nobody, "/version").await, 200);
    let bad = server
        .http()
        .post(
            "/v1-k3s/client-kube-proxy.crt",
            "application/octet-stream",
            "x".into(),
        )
        .await;
    assert_eq!(bad.unwrap_err().status().unwrap(), 400);
    let huge = vec![0; 100 << 10];
    let bad = server
        .http()
        .post(
            "/v1-k3s/client-kube-proxy.crt",
            "application/octet-stream",
            huge.into(),
        )
        .await;
    assert!(bad.is_err());
    running.shutdown().await;
}
