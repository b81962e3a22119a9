//! The election service, and elections as `etcdctl` holds them.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use trivet_datastore::Datastore;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ResignRequest, election_client::ElectionClient,
};

use crate::etcdctl;
use crate::lock::{lease, queue, revoke};
use crate::support::{Single, eventually, soon};

fn elections(client: &Client) -> ElectionClient<Channel> {
    ElectionClient::new(client.channel())
}

fn candidate(lease: i64, value: &'static str) -> CampaignRequest {
    CampaignRequest {
        name: Bytes::from_static(b"chair"),
        lease,
        value: Bytes::from_static(value.as_bytes()),
    }
}

async fn campaign(client: &Client, lease: i64, value: &'static str) -> CampaignResponse {
    let call = async { elections(client).campaign(candidate(lease, value)).await };
    soon(call).await.unwrap().into_inner()
}

/// A candidate that stands in the queue behind the leader.
async fn behind(
    client: &Client,
    lease: i64,
    value: &'static str,
) -> tokio::task::JoinHandle<Result<CampaignResponse, Status>> {
    let before = queue(client, "chair/").await.len();
    let mut service = elections(client);
    let call = tokio::spawn(async move {
        let won = service.campaign(candidate(lease, value)).await?;
        Ok(won.into_inner())
    });
    eventually("the candidate stands in the queue", || async {
        queue(client, "chair/").await.len() == before + 1
    })
    .await;
    call
}

async fn proclaim(
    client: &Client,
    leader: Option<LeaderKey>,
    value: &'static str,
) -> Result<i64, Status> {
    let value = Bytes::from_static(value.as_bytes());
    let proclaim = ProclaimRequest { leader, value };
    let done = soon(async { elections(client).proclaim(proclaim).await }).await?;
    Ok(done.into_inner().header.unwrap().revision)
}

async fn resign(client: &Client, leader: Option<LeaderKey>) -> Result<(), Status> {
    let resign = ResignRequest { leader };
    soon(async { elections(client).resign(resign).await }).await?;
    Ok(())
}

fn chair() -> LeaderRequest {
    LeaderRequest {
        name: Bytes::from_static(b"chair"),
    }
}

async fn leader(client: &Client) -> Result<LeaderResponse, Status> {
    let found = soon(async { elections(client).leader(chair()).await }).await?;
    Ok(found.into_inner())
}

async fn observe(client: &Client) -> Streaming<LeaderResponse> {
    let observed = soon(async { elections(client).observe(chair()).await }).await;
    observed.unwrap().into_inner()
}

/// The next value that observers are told, and the revision of the header with it.
async fn told(observed: &mut Streaming<LeaderResponse>) -> (String, i64) {
    let response = soon(observed.message()).await.unwrap().unwrap();
    let value = response.kv.unwrap().value;
    let value = String::from_utf8(value.to_vec()).unwrap();
    (value, response.header.unwrap().revision)
}

fn assert_unknown(status: &Status, text: &str) {
    assert_eq!((status.code(), status.message()), (Code::Unknown, text));
}

#[tokio::test]
async fn from_the_first_candidate_to_the_second() {
    let single = Single::start().await;
    let client = single.client();
    assert_unknown(&leader(client).await.unwrap_err(), "election: no leader");
    // An observer that is there before anybody leads.
    let mut early = observe(client).await;

    let first = lease(client).await;
    let won = campaign(client, first, "one").await;
    let key = won.leader.unwrap();
    assert_eq!(key.key, format!("chair/{first:x}"));
    assert_eq!((key.name.clone(), key.lease), (Bytes::from("chair"), first));
    assert_eq!(key.rev, won.header.unwrap().revision);
    assert_eq!(told(&mut early).await, ("one".to_owned(), key.rev));
    let seen = leader(client).await.unwrap().kv.unwrap();
    assert_eq!(
        (seen.key, seen.value),
        (key.key.clone(), Bytes::from("one"))
    );

    let second = lease(client).await;
    let waiting = behind(client, second, "two").await;
    let mut late = observe(client).await;
    assert_eq!(told(&mut late).await.0, "one");

    let at = proclaim(client, Some(key.clone()), "one more")
        .await
        .unwrap();
    for observed in [&mut early, &mut late] {
        assert_eq!(told(observed).await, ("one more".to_owned(), at));
    }
    // Standing again with another value proclaims it.
    let again = campaign(client, first, "once more").await.leader.unwrap();
    assert_eq!(again, key);
    for observed in [&mut early, &mut late] {
        assert_eq!(told(observed).await.0, "once more");
    }
    assert!(!waiting.is_finished(), "there is a leader still");

    resign(client, Some(key.clone())).await.unwrap();
    let won = soon(waiting).await.unwrap().unwrap().leader.unwrap();
    assert_eq!(won.lease, second);
    for observed in [&mut early, &mut late] {
        assert_eq!(told(observed).await.0, "two");
    }

    // Who has lost cannot speak as the leader, nor take what is not his.
    let lost = proclaim(client, Some(key.clone()), "still me").await;
    assert_unknown(&lost.unwrap_err(), "election: not leader");
    resign(client, Some(key)).await.unwrap();
    let impostor = LeaderKey { rev: 1, ..won };
    resign(client, Some(impostor)).await.unwrap();
    let seen = leader(client).await.unwrap().kv.unwrap();
    assert_eq!(seen.value, "two");
    for refused in [
        proclaim(client, None, "x").await.map(drop),
        resign(client, None).await,
    ] {
        let text = "\"leader\" field must be provided";
        assert_unknown(&refused.unwrap_err(), text);
    }

    // The end of the leader's session is the end of its lead.
    revoke(client, second).await;
    assert_unknown(&leader(client).await.unwrap_err(), "election: no leader");
    campaign(client, 0, "three").await;
    for observed in [&mut early, &mut late] {
        assert_eq!(told(observed).await.0, "three");
    }
    soon(single.member.store.shutdown()).await;
}

#[tokio::test]
async fn candidates_that_go_away_are_not_elected() {
    let single = Single::start().await;
    let client = single.client();
    let key = campaign(client, 0, "one").await.leader.unwrap();

    let given_up = behind(client, lease(client).await, "two").await;
    given_up.abort();
    eventually("the one that gave up has left no key", || async {
        queue(client, "chair/").await.len() == 1
    })
    .await;

    let id = lease(client).await;
    let dead = behind(client, id, "three").await;
    revoke(client, id).await;
    let refused = soon(dead).await.unwrap().unwrap_err();
    assert_unknown(&refused, "election: not leader");

    let refused = elections(client).campaign(candidate(1234, "four")).await;
    let text = "etcdserver: requested lease not found";
    assert_unknown(&refused.unwrap_err(), text);

    let last = behind(client, 0, "five").await;
    resign(client, Some(key)).await.unwrap();
    soon(last).await.unwrap().unwrap();
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn observers_hear_the_end_of_the_store() {
    let single = Single::start().await;
    let client = single.client();
    campaign(client, 0, "one").await;
    let mut observed = observe(client).await;
    assert_eq!(told(&mut observed).await.0, "one");
    let shutdown = single.member.store.shutdown();
    let (_, end) = tokio::join!(soon(shutdown), soon(observed.message()));
    assert!(end.unwrap_err().message().contains("server stopped"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_is_elected_and_observed() {
    if !etcdctl::installed() {
        return;
    }
    let single = Single::start().await;
    let client = single.client();
    let address = single.member.address();
    let mut words = etcdctl::command(&address, &["elect", "chair", "from etcdctl"]);
    let mut elected = words.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(elected.stdout.take().unwrap());
    let said = tokio::task::spawn_blocking(move || {
        let lines = lines.lines().map_while(Result::ok);
        lines.take(2).collect::<Vec<_>>()
    });
    let said = soon(said).await.unwrap();
    let seen = leader(client).await.unwrap().kv.unwrap();
    assert_eq!(seen.key, said[0]);
    assert_eq!(seen.value, said[1]);
    assert_eq!(seen.value, "from etcdctl");

    // The service's candidate waits for it, and etcdctl watches.
    let mut words = etcdctl::command(&address, &["elect", "--listen", "chair"]);
    let mut listener = words.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    let mut heard = move || {
        (
            lines.next().unwrap().unwrap(),
            lines.next().unwrap().unwrap(),
        )
    };
    let (first, heard) = tokio::task::spawn_blocking(move || (heard(), heard))
        .await
        .unwrap();
    assert_eq!(first.1, "from etcdctl");
    let waiting = behind(client, 0, "from the service").await;
    // Its session ends with it, by its own hand.
    let id = seen.lease;
    revoke(client, id).await;
    soon(waiting).await.unwrap().unwrap();
    let second = soon(tokio::task::spawn_blocking(heard)).await.unwrap();
    assert_eq!(second.1, "from the service");
    for child in [&mut elected, &mut listener] {
        // It may have noticed the end of its session and be gone.
        let _ = child.kill();
        child.wait().unwrap();
    }
    single.member.store.shutdown().await;
}
