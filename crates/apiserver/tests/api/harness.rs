//! A server, requests to it, and lines of a watch.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use trivet_apiserver::{
    ApiConfig, ApiServer, Body, ClientCertificate, GROUP_MASTERS, Limits, NetworkConfig,
    ServiceAccountConfig, Timings, VersionInfo,
};
use trivet_datastore::{Datastore, MemoryStore};
use trivet_env::Env;

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// Long enough for the slowest controller, mostly in paused time.
const EVENTUALLY: Duration = Duration::from_secs(120);

/// An answer, read to the end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The body, if the code is the expected one.
    #[track_caller]
    pub(crate) fn expect(&self, code: u16) -> Value {
        assert_eq!(self.code.as_u16(), code, "{}", self.text);
        self.json()
    }
}

pub(crate) fn signing_key() -> String {
    let random = ring::rand::SystemRandom::new();
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let key = base64::prelude::BASE64_STANDARD.encode(key.as_ref());
    format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n")
}

pub(crate) fn config(datastore: Arc<dyn Datastore>) -> ApiConfig {
    ApiConfig {
        datastore,
        env: Env::real(),
        version: VersionInfo {
            git_version: "v1.35.0+trivet1".to_owned(),
            git_commit: String::new(),
            build_date: String::new(),
            compiler: "rustc".to_owned(),
            platform: "linux/amd64".to_owned(),
        },
        advertise: "127.0.0.1:6443".parse().unwrap(),
        network: NetworkConfig {
            service_cidr: ([10, 43, 0, 0].into(), 16),
            cluster_domain: "cluster.local".to_owned(),
        },
        root_ca_pem: "-----BEGIN CERTIFICATE-----\n".to_owned(),
        service_accounts: ServiceAccountConfig {
            signing_key_pem: signing_key(),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        },
        authenticators: Vec::new(),
        limits: Limits::default(),
        timings: Timings::default(),
    }
}

/// A running server.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) api: Arc<ApiServer>,
    pub(crate) store: MemoryStore,
}

pub(crate) fn admin() -> ClientCertificate {
    user("admin", &[GROUP_MASTERS])
}

pub(crate) fn user(name: &str, groups: &[&str]) -> ClientCertificate {
    ClientCertificate {
        common_name: name.to_owned(),
        organizations: groups.iter().map(|g| (*g).to_owned()).collect(),
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut ApiConfig)) -> Self {
        Self::over(MemoryStore::new(), change).await
    }

    pub(crate) async fn over(store: MemoryStore, change: impl FnOnce(&mut ApiConfig)) -> Self {
        let mut config = config(Arc::new(store.clone()));
        change(&mut config);
        let api = ApiServer::new(config).unwrap();
        tokio::time::timeout(DEADLINE, api.start())
            .await
            .expect("the server comes up")
            .unwrap();
        Self { api, store }
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
        certificate: Option<ClientCertificate>,
    ) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.api
            .handle(request.body(Full::new(body.into())).unwrap(), certificate)
            .await
    }

    pub(crate) async fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
        certificate: Option<ClientCertificate>,
    ) -> Answer {
        let (parts, body) = self
            .send(method, target, headers, body, certificate)
            .await
            .into_parts();
        let bytes = tokio::time::timeout(DEADLINE, body.collect())
            .await
            .expect("the body ends")
            .unwrap();
        let text = String::from_utf8_lossy(&bytes.to_bytes()).into_owned();
        Answer {
            code: parts.status,
            headers: parts.headers,
            text,
        }
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], Bytes::new(), Some(admin()))
            .await
    }

    pub(crate) async fn delete(&self, target: &str) -> Answer {
        self.ask("DELETE", target, &[], Bytes::new(), Some(admin()))
            .await
    }

    pub(crate) async fn post(&self, target: &str, body: &Value) -> Answer {
        self.ask("POST", target, &[], body.to_string(), Some(admin()))
            .await
    }

    pub(crate) async fn put(&self, target: &str, body: &Value) -> Answer {
        self.ask("PUT", target, &[], body.to_string(), Some(admin()))
            .await
    }

    pub(crate) async fn patch(&self, target: &str, kind: &str, body: &Value) -> Answer {
        let kind = format!("application/{kind}");
        self.ask(
            "PATCH",
            target,
            &[("content-type", &kind)],
            body.to_string(),
            Some(admin()),
        )
        .await
    }

    pub(crate) async fn watch(&self, target: &str) -> Watch {
        let response = self
            .send("GET", target, &[], Bytes::new(), Some(admin()))
            .await;
        assert_eq!(response.status(), 200, "{target}");
        Watch {
            body: response.into_body(),
            pending: Vec::new(),
        }
    }

    /// Asks again until the answer is as wanted.
    pub(crate) async fn eventually(&self, target: &str, good: impl Fn(&Answer) -> bool) -> Answer {
        let waiting = async {
            loop {
                let answer = self.get(target).await;
                if good(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(EVENTUALLY, waiting).await {
            Ok(answer) => answer,
            Err(_) => panic!(
                "{target} never became as expected: {}",
                self.get(target).await.text
            ),
        }
    }
}

/// A watch being read.
pub(crate) struct Watch {
    body: Body,
    pending: Vec<u8>,
}

impl Watch {
    /// The next event; `None` at a clean end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(7200), self.body.frame());
            match frame.await.expect("the watch goes on") {
                Some(frame) => self
                    .pending
                    .extend_from_slice(&frame.unwrap().into_data().unwrap()),
                None => {
                    assert!(self.pending.is_empty(), "half a line at the end");
                    return None;
                }
            }
        }
    }

    /// Type and name of the next event.
    pub(crate) async fn event(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let name = event["object"]["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        (event["type"].as_str().unwrap().to_owned(), name)
    }
}

pub(crate) fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}
