use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::request::Parts;
use serde_json::{Value, json};

use trivet_apiserver::{Authenticator, Rejected, UserInfo};

use crate::harness::{Server, admin, user};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const NODES: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

#[tokio::test]
async fn anonymous_sees_version_and_health_only() {
    let server = Server::start().await;
    for path in ["/version", "/healthz", "/livez", "/readyz"] {
        assert_eq!(
            server.ask("GET", path, &[], Bytes::new(), None).await.code,
            200,
            "{path}"
        );
    }
    for path in ["/api", "/apis", "/openapi/v2", "/metrics"] {
        let answer = server.ask("GET", path, &[], Bytes::new(), None).await;
        answer.expect(403);
        assert_eq!(
            answer.message(),
            format!("forbidden: User \"system:anonymous\" cannot get path \"{path}\"")
        );
    }
    let answer = server
        .ask("GET", "/api/v1/namespaces", &[], Bytes::new(), None)
        .await;
    answer.expect(403);
    assert_eq!(
        answer.message(),
        "namespaces is forbidden: User \"system:anonymous\" cannot list resource \"namespaces\" in API group \"\" \
         at the cluster scope"
    );
    for token in ["Bearer nope", "Bearer a.b.c", "Basic eDp5", "Bearer "] {
        let answer = server
            .ask(
                "GET",
                "/version",
                &[("authorization", token)],
                Bytes::new(),
                None,
            )
            .await;
        assert_eq!(answer.expect(401)["reason"], "Unauthorized", "{token}");
    }
}

#[tokio::test]
async fn authenticated_users_discover_and_ask_about_themselves() {
    let server = Server::start().await;
    let jane = || Some(user("jane", &["devs"]));
    for path in ["/api", "/apis", "/api/v1", "/openapi/v3", "/version"] {
        assert_eq!(
            server
                .ask("GET", path, &[], Bytes::new(), jane())
                .await
                .code,
            200,
            "{path}"
        );
    }
    server
        .ask("GET", MAPS, &[], Bytes::new(), jane())
        .await
        .expect(403);
    let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let denied = server
        .ask("POST", path, &[], review.to_string(), jane())
        .await
        .expect(201);
    assert_eq!(denied["status"]["allowed"], false);
    let allowed = server.post(path, &review).await.expect(201);
    assert_eq!(allowed["status"]["allowed"], true);
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let me = server
        .ask("POST", path, &[], "{}", jane())
        .await
        .expect(201);
    assert_eq!(me["status"]["userInfo"]["username"], "jane");
    assert_eq!(
        me["status"]["userInfo"]["groups"],
        json!(["devs", "system:authenticated"])
    );
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    server
        .ask("POST", path, &[], review.to_string(), jane())
        .await
        .expect(403);
}

#[tokio::test]
async fn impersonation_needs_the_right() {
    let server = Server::start().await;
    let headers = [("impersonate-user", "jane")];
    server
        .ask("GET", MAPS, &headers, Bytes::new(), Some(admin()))
        .await
        .expect(403);
    let answer = server
        .ask(
            "GET",
            "/api",
            &headers,
            Bytes::new(),
            Some(user("joe", &[])),
        )
        .await;
    answer.expect(403);
    assert!(
        answer
            .message()
            .contains("cannot impersonate resource \"users\""),
        "{}",
        answer.text
    );
}

#[tokio::test]
async fn a_kubelet_is_limited_to_its_node() {
    let server = Server::start().await;
    let kubelet = || Some(user("system:node:n1", &["system:nodes"]));
    let as_node = async |method: &str, target: &str, body: Value| {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let headers = match method {
            "PATCH" => [("content-type", "application/merge-patch+json")],
            _ => [("content-type", "application/json")],
        };
        server.ask(method, target, &headers, body, kubelet()).await
    };
    let node = |name: &str| json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
    as_node("POST", NODES, node("n1")).await.expect(201);
    as_node("POST", NODES, node("n2")).await.expect(403);
    server.post(NODES, &node("n2")).await.expect(201);
    as_node("GET", &format!("{NODES}/n1"), Value::Null)
        .await
        .expect(200);
    as_node("GET", &format!("{NODES}/n2"), Value::Null)
        .await
        .expect(403);
    as_node("GET", NODES, Value::Null).await.expect(403);
    as_node(
        "GET",
        &format!("{NODES}?fieldSelector=metadata.name%3Dn1"),
        Value::Null,
    )
    .await
    .expect(200);
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    as_node("PATCH", &format!("{NODES}/n1/status"), status.clone())
        .await
        .expect(200);
    as_node("PATCH", &format!("{NODES}/n2/status"), status)
        .await
        .expect(403);
    let role = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "true"}}});
    let refused = as_node("PATCH", &format!("{NODES}/n1"), role.clone()).await;
    refused.expect(403);
    assert!(
        refused
            .message()
            .contains("node-role.kubernetes.io/control-plane"),
        "{}",
        refused.text
    );
    // The control plane may.
    server
        .patch(&format!("{NODES}/n1"), "merge-patch+json", &role)
        .await
        .expect(200);
    as_node("DELETE", &format!("{NODES}/n1"), Value::Null)
        .await
        .expect(403);

    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
    as_node("POST", LEASES, lease("n1")).await.expect(201);
    as_node("POST", LEASES, lease("n2")).await.expect(403);
    let renew = json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}});
    as_node("PATCH", &format!("{LEASES}/n1"), renew)
        .await
        .expect(200);
    as_node("GET", &format!("{LEASES}/n2"), Value::Null)
        .await
        .expect(403);
    let event = json!({
        "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Node", "name": "n1"}, "reason": "r", "type": "Normal",
    });
    as_node("POST", "/api/v1/namespaces/default/events", event)
        .await
        .expect(201);

    let secrets = "/api/v1/namespaces/default/secrets";
    server
        .post(secrets, &json!({"metadata": {"name": "used"}}))
        .await
        .expect(201);
    server
        .post(secrets, &json!({"metadata": {"name": "other"}}))
        .await
        .expect(201);
    as_node("GET", &format!("{secrets}/used"), Value::Null)
        .await
        .expect(403);
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "secret": {"secretName": "used"}}],
        },
    });
    server
        .post("/api/v1/namespaces/default/pods", &pod)
        .await
        .expect(201);
    server.api.client().sync().await.unwrap();
    as_node("GET", &format!("{secrets}/used"), Value::Null)
        .await
        .expect(200);
    as_node("GET", &format!("{secrets}/other"), Value::Null)
        .await
        .expect(403);
    as_node("GET", secrets, Value::Null).await.expect(403);
    as_node(
        "GET",
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1",
        Value::Null,
    )
    .await
    .expect(200);
    as_node(
        "GET",
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2",
        Value::Null,
    )
    .await
    .expect(403);
    as_node("GET", MAPS, Value::Null).await.expect(403);
}

#[tokio::test]
async fn service_account_tokens() {
    let server = Server::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    server
        .post(accounts, &json!({"metadata": {"name": "bot"}}))
        .await
        .expect(201);
    let made = server
        .post(&format!("{accounts}/bot/token"), &json!({"spec": {}}))
        .await
        .expect(201);
    let token = made["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(made["spec"]["expirationSeconds"], 3600);
    server.api.client().sync().await.unwrap();
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let me = server
        .ask("POST", path, &headers, "{}", None)
        .await
        .expect(201);
    let me = &me["status"]["userInfo"];
    assert_eq!(me["username"], "system:serviceaccount:default:bot");
    assert!(
        me["groups"]
            .as_array()
            .unwrap()
            .contains(&json!("system:serviceaccounts:default"))
    );
    server
        .ask("GET", MAPS, &headers, Bytes::new(), None)
        .await
        .expect(403);

    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = server
        .post(reviews, &json!({"spec": {"token": token}}))
        .await
        .expect(201);
    assert_eq!(review["status"]["authenticated"], true);
    assert!(review["spec"].get("token").is_none());

    let short = json!({"spec": {"expirationSeconds": 60}});
    server
        .post(&format!("{accounts}/bot/token"), &short)
        .await
        .expect(422);
    server
        .post(&format!("{accounts}/nobody/token"), &json!({"spec": {}}))
        .await
        .expect(404);
    // A token for somebody else is not for this API.
    let foreign = json!({"spec": {"audiences": ["vault"]}});
    let made = server
        .post(&format!("{accounts}/bot/token"), &foreign)
        .await
        .expect(201);
    let other = format!("Bearer {}", made["status"]["token"].as_str().unwrap());
    server
        .ask(
            "GET",
            "/api",
            &[("authorization", &other)],
            Bytes::new(),
            None,
        )
        .await
        .expect(401);
    // Changed in transit, signed by another key, or of an account that is gone.
    let mut forged = bearer.clone();
    forged.truncate(forged.len() - 4);
    server
        .ask(
            "GET",
            "/api",
            &[("authorization", &forged)],
            Bytes::new(),
            None,
        )
        .await
        .expect(401);
    let stranger = Server::start().await;
    stranger
        .ask("GET", "/api", &headers, Bytes::new(), None)
        .await
        .expect(401);
    server.delete(&format!("{accounts}/bot")).await.expect(200);
    server.api.client().sync().await.unwrap();
    server
        .ask("GET", "/api", &headers, Bytes::new(), None)
        .await
        .expect(401);
    let keys = server.get("/openid/v1/jwks").await.json();
    assert_eq!(keys["keys"][0]["alg"], "ES256");
}

struct Passwords;

#[async_trait]
impl Authenticator for Passwords {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, Rejected> {
        match request.headers.get("authorization").map(|v| v.as_bytes()) {
            Some(b"Basic good") => Ok(Some(UserInfo::new("server", ["k3s:server".to_owned()]))),
            Some(b"Basic bad") => Err(Rejected),
            Some(b"Basic bug") => panic!("on purpose"),
            _ => Ok(None),
        }
    }
}

#[tokio::test]
async fn other_authenticators_are_asked_and_their_panics_stay_theirs() {
    let server = Server::with(|config| config.authenticators.push(Arc::new(Passwords))).await;
    let ask = async |value: &str| {
        let headers = [("authorization", value)];
        server
            .ask("GET", "/api", &headers, Bytes::new(), None)
            .await
            .code
            .as_u16()
    };
    assert_eq!(ask("Basic good").await, 200);
    assert_eq!(ask("Basic bad").await, 401);
    assert_eq!(ask("Basic bug").await, 500);
    assert_eq!(ask("Basic other").await, 401);
    assert_eq!(ask("Basic good").await, 200);
}
