//! The gRPC health service.

use tonic::Code;
use trivet_datastore::Datastore;
use trivet_store_etcd::proto::health::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{Single, soon};

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn the_server_as_a_whole_is_healthy_until_it_stops() {
    let single = Single::start().await;
    let mut health = HealthClient::new(single.client().channel());
    let healthy = health.check(about("")).await.unwrap().into_inner();
    assert_eq!(healthy.status(), ServingStatus::Serving);
    let unknown = health.check(about("etcdserverpb.KV")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(unknown.message(), "unknown service");

    let mut unknown = health.watch(about("x")).await.unwrap().into_inner();
    let first = soon(unknown.message()).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    let mut watch = health.watch(about("")).await.unwrap().into_inner();
    let first = soon(watch.message()).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let ends = async {
        let last = watch.message().await.unwrap().unwrap();
        (last.status(), watch.message().await.unwrap())
    };
    let (_, (last, end)) = soon(async {
        let shutdown = single.member.store.shutdown();
        tokio::join!(shutdown, ends)
    })
    .await;
    assert_eq!(last, ServingStatus::NotServing);
    assert_eq!(end, None);
}
