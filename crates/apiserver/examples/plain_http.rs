//! An API server on plain HTTP over a store in memory, for trying things by hand:
//!
//! ```text
//! cargo run -p trivet-apiserver --example plain_http -- 127.0.0.1:8080
//! kubectl --server http://127.0.0.1:8080 get all -A
//! ```
//!
//! Everybody who connects is cluster administrator: never do this anywhere but here.
#![allow(clippy::print_stdout)] // a program for people

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use trivet_apiserver::{
    ApiConfig, ApiServer, ClientCertificate, GROUP_MASTERS, Limits, NetworkConfig,
    ServiceAccountConfig, Timings, VersionInfo,
};
use trivet_datastore::MemoryStore;
use trivet_env::Env;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address: SocketAddr = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:8080".to_owned())
        .parse()?;
    if !address.ip().is_loopback() {
        return Err("this example serves on loopback only".into());
    }
    let server = ApiServer::new(config(address)?)?;
    server.start().await?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("kubectl --server http://{address} get all -A");
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = tokio::signal::ctrl_c() => break,
        };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let server = Arc::clone(&server);
                let admin = ClientCertificate {
                    common_name: "example-admin".to_owned(),
                    organizations: vec![GROUP_MASTERS.to_owned()],
                };
                async move {
                    Ok::<_, std::convert::Infallible>(server.handle(request, Some(admin)).await)
                }
            });
            let connection = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = connection
                .serve_connection(TokioIo::new(stream), service)
                .await
            {
                println!("connection: {error}");
            }
        });
    }
    server.shutdown().await;
    Ok(())
}

fn config(address: SocketAddr) -> Result<ApiConfig, Box<dyn std::error::Error>> {
    let random = ring::rand::SystemRandom::new();
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(
        &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &random,
    )
    .map_err(|_| "no randomness")?;
    let key = base64::prelude::BASE64_STANDARD.encode(key.as_ref());
    Ok(ApiConfig {
        datastore: Arc::new(MemoryStore::new()),
        env: Env::real(),
        version: VersionInfo {
            git_version: "v1.35.0+trivet1".to_owned(),
            git_commit: String::new(),
            build_date: "2026-01-01T00:00:00Z".to_owned(),
            compiler: "rustc".to_owned(),
            platform: "linux/amd64".to_owned(),
        },
        advertise: address,
        network: NetworkConfig {
            service_cidr: ([10, 43, 0, 0].into(), 16),
            cluster_domain: "cluster.local".to_owned(),
        },
        root_ca_pem: "-----BEGIN CERTIFICATE-----\n(example)\n-----END CERTIFICATE-----\n"
            .to_owned(),
        service_accounts: ServiceAccountConfig {
            signing_key_pem: format!(
                "-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n"
            ),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        },
        authenticators: Vec::new(),
        limits: Limits::default(),
        timings: Timings::default(),
    })
}
