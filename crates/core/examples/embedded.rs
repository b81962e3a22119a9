//! A Kubernetes control plane inside another program: on a store in memory, on a free port,
//! asked with the `kube` crate.
//!
//! Run with `cargo run -p trivet-core --example embedded`.
#![allow(clippy::print_stdout)]

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use trivet_core::ControlPlane;
use trivet_datastore::MemoryStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let running = ControlPlane::builder()
        .data_dir(dir.path())
        .datastore(Arc::new(MemoryStore::new()))
        .node_name("embedded")
        .bind([127, 0, 0, 1].into(), 0)
        .build()?
        .start()
        .await?;
    running.ready().await;
    println!("the Kubernetes API is at {}", running.url());

    let kubeconfig = Kubeconfig::from_yaml(running.kubeconfig()?.expose())?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = kube::Client::try_from(config)?;
    println!("version {}", client.apiserver_version().await?.git_version);

    let config_maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let mut greeting = ConfigMap::default();
    greeting.metadata.name = Some("greeting".to_owned());
    greeting.data = Some([("hello".to_owned(), "world".to_owned())].into());
    config_maps
        .create(&PostParams::default(), &greeting)
        .await?;
    let read = config_maps.get("greeting").await?;
    println!("ConfigMap {:?} holds {:?}", read.metadata.name, read.data);

    running.shutdown().await;
    Ok(())
}
