//! Membership and maintenance through gRPC.

use tonic::Code;
use trivet_datastore::{Datastore, Error, MemberId};
use trivet_store_etcd::proto::etcdserverpb as pb;

use crate::kv::put;
use crate::support::{Single, Three, eventually, soon};

#[tokio::test]
async fn status_and_hash_of_a_single_member() {
    let single = Single::start().await;
    let client = single.client();
    client.kv().put(put("a", "1")).await.unwrap();
    let status = client
        .maintenance()
        .status(pb::StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    let header = status.header.unwrap();
    assert_eq!((status.leader, header.revision), (header.member_id, 2));
    assert!(status.version.starts_with("3.5."), "{}", status.version);
    assert!(status.raft_index > 0 && status.raft_applied_index > 0 && status.raft_term > 0);
    assert!(!status.is_learner && status.errors.is_empty());
    let hash = client
        .maintenance()
        .hash_kv(pb::HashKvRequest { revision: 0 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((hash.hash_revision, hash.compact_revision), (2, -1));
    let alarms = pb::AlarmRequest::default();
    assert!(
        client
            .maintenance()
            .alarm(alarms)
            .await
            .unwrap()
            .into_inner()
            .alarms
            .is_empty()
    );
    let members = client
        .cluster()
        .member_list(pb::MemberListRequest { linearizable: true })
        .await;
    let members = members.unwrap().into_inner();
    assert_eq!(
        members.header.unwrap().revision,
        0,
        "membership has no revision"
    );
    assert_eq!(
        (members.members.len(), members.members[0].id),
        (1, header.member_id)
    );
    let refused = client
        .cluster()
        .member_remove(pb::MemberRemoveRequest { id: 5 })
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::NotFound, "etcdserver: member not found")
    );
    let urls = pb::MemberAddRequest {
        peer_ur_ls: vec!["nowhere".to_owned()],
        is_learner: true,
    };
    let refused = client.cluster().member_add(urls).await.unwrap_err();
    assert_eq!(
        refused.message(),
        "etcdserver: given member URLs are invalid"
    );
    single.member.store.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn membership_of_three() {
    let three = Three::start().await;
    let leader = three.leader().await;
    let follower = (leader + 1) % 3;
    let client = &three.members[follower].client;
    let list = |linearizable| async move {
        let request = pb::MemberListRequest { linearizable };
        soon(client.cluster().member_list(request))
            .await
            .unwrap()
            .into_inner()
            .members
    };
    let members = list(true).await;
    assert_eq!(members.len(), 3);
    assert!(members.is_sorted_by_key(|member| member.id));
    for member in &members {
        assert!(member.name.starts_with("member") && !member.is_learner);
        assert_eq!(
            member.client_ur_ls,
            [format!("http://{}:2379", member.name)]
        );
        assert!(member.peer_ur_ls[0].starts_with("https://127.0.0.1:"));
    }

    // The hash is the same everywhere.
    soon(client.kv().put(put("a", "1"))).await.unwrap();
    let mut hashes = Vec::new();
    for member in &three.members {
        soon(member.client.kv().range(crate::kv::get("a")))
            .await
            .unwrap();
        let request = pb::HashKvRequest { revision: 2 };
        hashes.push(
            soon(member.client.maintenance().hash_kv(request))
                .await
                .unwrap()
                .into_inner()
                .hash,
        );
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");

    // Leadership is moved by the leader only, and to a voter only.
    let target = members
        .iter()
        .find(|member| member.name == format!("member{follower}"))
        .unwrap()
        .id;
    let request = pb::MoveLeaderRequest { target_id: target };
    let refused = soon(client.maintenance().move_leader(request))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::FailedPrecondition, "etcdserver: not leader")
    );
    let leader_client = &three.members[leader].client;
    let nobody = pb::MoveLeaderRequest { target_id: 1 };
    let refused = soon(leader_client.maintenance().move_leader(nobody))
        .await
        .unwrap_err();
    assert_eq!(refused.message(), "etcdserver: bad leader transferee");
    soon(leader_client.maintenance().move_leader(request))
        .await
        .unwrap();
    assert_eq!(three.leader().await, follower);

    // A learner that never starts: receives nothing, votes nothing, is not promoted.
    let url = "https://127.0.0.1:1".to_owned();
    let request = pb::MemberAddRequest {
        peer_ur_ls: vec![url.clone()],
        is_learner: true,
    };
    let added = soon(client.cluster().member_add(request.clone()))
        .await
        .unwrap()
        .into_inner();
    let id = added.member.unwrap().id;
    assert_eq!(added.members.len(), 4);
    let learner = added.members.iter().find(|member| member.id == id).unwrap();
    assert!(learner.is_learner && learner.name.is_empty() && learner.peer_ur_ls == [url]);
    let refused = soon(client.cluster().member_add(request))
        .await
        .unwrap_err();
    assert_eq!(refused.message(), "etcdserver: Peer URLs already exists");
    let second = pb::MemberAddRequest {
        peer_ur_ls: vec!["https://127.0.0.1:2".to_owned()],
        is_learner: true,
    };
    let refused = soon(client.cluster().member_add(second)).await.unwrap_err();
    assert_eq!(
        refused.message(),
        "etcdserver: too many learner members in cluster"
    );
    let refused = soon(
        client
            .cluster()
            .member_promote(pb::MemberPromoteRequest { id }),
    )
    .await
    .unwrap_err();
    assert_eq!(
        refused.message(),
        "etcdserver: can only promote a learner member which is in sync with leader"
    );
    let voter = pb::MemberPromoteRequest { id: target };
    let refused = soon(client.cluster().member_promote(voter))
        .await
        .unwrap_err();
    assert_eq!(
        refused.message(),
        "etcdserver: can only promote a learner member"
    );
    let update = pb::MemberUpdateRequest {
        id,
        peer_ur_ls: vec!["https://127.0.0.1:3".to_owned()],
    };
    let updated = soon(client.cluster().member_update(update))
        .await
        .unwrap()
        .into_inner();
    let learner = updated
        .members
        .iter()
        .find(|member| member.id == id)
        .unwrap();
    assert!(learner.is_learner && learner.peer_ur_ls == ["https://127.0.0.1:3"]);
    let removed = soon(
        client
            .cluster()
            .member_remove(pb::MemberRemoveRequest { id }),
    )
    .await
    .unwrap();
    assert_eq!(removed.into_inner().members.len(), 3);

    // The control plane's view, and removal of a real member.
    let store = &three.members[follower].store;
    let cluster = store.cluster().unwrap();
    let status = cluster.status().await.unwrap();
    assert_eq!(
        (status.leader, status.local),
        (Some(MemberId(target)), MemberId(target))
    );
    let gone = members
        .iter()
        .find(|member| member.name == format!("member{leader}"))
        .unwrap()
        .id;
    soon(cluster.remove_member(MemberId(gone))).await.unwrap();
    eventually("the removed member stops", || async {
        matches!(three.members[leader].store.status().await, Ok(status) if !status.writable)
    })
    .await;
    assert_eq!(list(true).await.len(), 2);
    let refused = soon(
        three.members[leader]
            .store
            .put(trivet_datastore::PutRequest {
                key: "x".into(),
                value: "y".into(),
                expect: trivet_datastore::Expect::Any,
                lease: None,
            }),
    )
    .await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
    three.shutdown().await;
}
