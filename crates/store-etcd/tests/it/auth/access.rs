//! Who may do what.

use tonic::Code;
use trivet_datastore::Datastore;
use trivet_store_etcd::proto::authpb::permission::Type;
use trivet_store_etcd::proto::etcdserverpb as pb;

use super::somebody::{EMPTY, denied, login, nobody, populate, refused, single};
use crate::kv::{get, put};
use crate::support::soon;

#[tokio::test]
async fn keys_are_read_and_written_with_permission() {
    let single = single().await;
    let client = single.client();
    populate(client).await;
    let (root, alice) = (
        login(client, "root", "rp").await,
        login(client, "alice", "ap").await,
    );
    for key in ["a", "bx", "w"] {
        alice.put(key).await.unwrap();
    }
    denied(alice.put("c").await);
    denied(alice.put("r").await);
    root.put("c").await.unwrap();
    assert_eq!(alice.list("a", "c").await.unwrap(), 2, "two ranges are one");
    assert_eq!(alice.get("r").await.unwrap(), 0);
    denied(alice.get("w").await);
    denied(alice.list("a", "c\0").await);
    denied(alice.list("a", "\0").await);
    assert_eq!(root.list("\0", "\0").await.unwrap(), 4);
    let serializable = |key| pb::RangeRequest {
        serializable: true,
        ..get(key)
    };
    denied(client.kv().range(alice.asks(serializable("w"))).await);
    refused(client.kv().range(serializable("w")).await, EMPTY.0, EMPTY.1);
    // What was there before is read, and takes that permission too.
    let previous = |key| pb::PutRequest {
        prev_kv: true,
        ..put(key, "v")
    };
    client.kv().put(alice.asks(previous("a"))).await.unwrap();
    denied(client.kv().put(alice.asks(previous("w"))).await);
    let delete = |key: &'static str, end: &'static str, prev_kv| pb::DeleteRangeRequest {
        key: key.into(),
        range_end: end.into(),
        prev_kv,
    };
    denied(
        client
            .kv()
            .delete_range(alice.asks(delete("w", "", true)))
            .await,
    );
    denied(
        client
            .kv()
            .delete_range(alice.asks(delete("a", "\0", false)))
            .await,
    );
    let deleted = client
        .kv()
        .delete_range(alice.asks(delete("w", "", false)))
        .await;
    assert_eq!(deleted.unwrap().into_inner().deleted, 1);
    denied(
        client
            .kv()
            .compact(alice.asks(pb::CompactionRequest {
                revision: 2,
                physical: false,
            }))
            .await,
    );
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn a_transaction_is_judged_whole() {
    use pb::request_op::Request as Op;
    let single = single().await;
    let client = single.client();
    populate(client).await;
    let alice = login(client, "alice", "ap").await;
    let op = |request| pb::RequestOp {
        request: Some(request),
    };
    let compare = |key: &'static str| pb::Compare {
        key: key.into(),
        target: pb::compare::CompareTarget::Version.into(),
        ..Default::default()
    };
    let nested = |request| {
        op(Op::RequestTxn(pb::TxnRequest {
            failure: vec![op(request)],
            ..Default::default()
        }))
    };
    let txn = |compare: Vec<pb::Compare>, success: Vec<_>, failure: Vec<_>| {
        let request = alice.asks(pb::TxnRequest {
            compare,
            success,
            failure,
        });
        let mut kv = client.kv();
        async move { kv.txn(request).await }
    };
    let read = |key| Op::RequestRange(get(key));
    let write = |key| Op::RequestPut(put(key, "v"));
    // Reading alone, and writing, on the branch that is taken or not.
    soon(txn(vec![compare("a")], vec![op(read("r"))], vec![]))
        .await
        .unwrap();
    soon(txn(
        vec![compare("a")],
        vec![op(write("w"))],
        vec![op(read("b"))],
    ))
    .await
    .unwrap();
    soon(txn(vec![], vec![nested(write("w"))], vec![]))
        .await
        .unwrap();
    denied(soon(txn(vec![compare("w")], vec![], vec![])).await);
    denied(soon(txn(vec![compare("w")], vec![op(write("w"))], vec![])).await);
    denied(soon(txn(vec![], vec![op(read("a"))], vec![op(read("w"))])).await);
    denied(soon(txn(vec![], vec![op(write("a"))], vec![op(read("w"))])).await);
    denied(soon(txn(vec![], vec![op(write("a"))], vec![op(write("r"))])).await);
    denied(soon(txn(vec![], vec![nested(write("r"))], vec![])).await);
    denied(soon(txn(vec![], vec![nested(read("w"))], vec![])).await);
    let anonymous = pb::TxnRequest {
        success: vec![op(write("a"))],
        ..Default::default()
    };
    refused(client.kv().txn(anonymous).await, EMPTY.0, EMPTY.1);
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn watches_are_judged_when_they_begin() {
    let single = single().await;
    let client = single.client();
    populate(client).await;
    let (root, alice) = (
        login(client, "root", "rp").await,
        login(client, "alice", "ap").await,
    );
    let forbidden = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    assert_eq!(alice.watch("a", "c").await, "");
    assert_eq!(root.watch("", "\0").await, "");
    assert_eq!(alice.watch("a", "d").await, forbidden);
    assert_eq!(alice.watch("w", "").await, forbidden);
    assert_eq!(alice.watch("", "\0").await, forbidden);
    assert_eq!(
        nobody(client).watch("a", "").await,
        "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
    );
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn leases_are_as_sacred_as_their_keys() {
    let single = single().await;
    let client = single.client();
    populate(client).await;
    let (root, alice) = (
        login(client, "root", "rp").await,
        login(client, "alice", "ap").await,
    );
    let grant = |id| pb::LeaseGrantRequest { ttl: 100, id };
    refused(client.lease().lease_grant(grant(1)).await, EMPTY.0, EMPTY.1);
    for id in [1, 2] {
        client
            .lease()
            .lease_grant(alice.asks(grant(id)))
            .await
            .unwrap();
    }
    let attach = |key, lease| pb::PutRequest {
        lease,
        ..put(key, "v")
    };
    client
        .kv()
        .put(root.asks(attach("secret", 1)))
        .await
        .unwrap();
    client.kv().put(alice.asks(attach("w", 2))).await.unwrap();
    denied(client.kv().put(alice.asks(attach("a", 1))).await);
    let revoke = |id| pb::LeaseRevokeRequest { id };
    denied(client.lease().lease_revoke(alice.asks(revoke(1))).await);
    refused(
        client.lease().lease_revoke(revoke(2)).await,
        EMPTY.0,
        EMPTY.1,
    );
    refused(
        client.lease().lease_revoke(alice.asks(revoke(9))).await,
        Code::NotFound,
        "requested lease not found",
    );
    let ask = |id, keys| pb::LeaseTimeToLiveRequest { id, keys };
    let client_lease = || client.lease();
    client_lease()
        .lease_time_to_live(alice.asks(ask(1, false)))
        .await
        .unwrap();
    denied(
        client_lease()
            .lease_time_to_live(alice.asks(ask(1, true)))
            .await,
    );
    denied(
        client_lease()
            .lease_time_to_live(alice.asks(ask(2, true)))
            .await,
    );
    let told = client_lease()
        .lease_time_to_live(root.asks(ask(1, true)))
        .await;
    assert_eq!(told.unwrap().into_inner().keys, ["secret"]);
    refused(
        client_lease().lease_time_to_live(ask(1, false)).await,
        EMPTY.0,
        EMPTY.1,
    );
    denied(
        client_lease()
            .lease_leases(alice.asks(pb::LeaseLeasesRequest {}))
            .await,
    );
    client_lease()
        .lease_leases(root.asks(pb::LeaseLeasesRequest {}))
        .await
        .unwrap();
    for (somebody, id, allowed) in [(&alice, 1, false), (&alice, 2, true), (&root, 1, true)] {
        let renew = tokio_stream::iter([pb::LeaseKeepAliveRequest { id }]);
        let mut stream = client_lease()
            .lease_keep_alive(somebody.asks(renew))
            .await
            .unwrap()
            .into_inner();
        match soon(stream.message()).await {
            Ok(answer) => assert_eq!((answer.unwrap().ttl, allowed), (100, true)),
            Err(status) => assert_eq!((status.code(), allowed), (Code::PermissionDenied, false)),
        }
    }
    client_lease()
        .lease_revoke(alice.asks(revoke(2)))
        .await
        .unwrap();
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn management_is_for_administrators() {
    let single = single().await;
    let client = single.client();
    populate(client).await;
    let (root, alice) = (
        login(client, "root", "rp").await,
        login(client, "alice", "ap").await,
    );
    for (somebody, code, text) in [
        (&alice, Code::PermissionDenied, "permission denied"),
        (&nobody(client), EMPTY.0, EMPTY.1),
    ] {
        refused(somebody.status().await, code, text);
        refused(somebody.enable().await, code, text);
        refused(somebody.disable().await, code, text);
        refused(somebody.add_user("bob", "bp").await, code, text);
        refused(somebody.change_password("alice", "x").await, code, text);
        refused(somebody.change_password("alice", "").await, code, text);
        refused(somebody.add_role("r").await, code, text);
        refused(somebody.grant_role("alice", "root").await, code, text);
        refused(
            somebody.permit("some", Type::Read, "x", "").await,
            code,
            text,
        );
        let user = |name: &str| pb::AuthUserGetRequest {
            name: name.to_owned(),
        };
        refused(
            client.auth().user_get(somebody.asks(user("root"))).await,
            code,
            text,
        );
        refused(
            client.auth().user_get(somebody.asks(user("none"))).await,
            code,
            text,
        );
        let list = somebody.asks(pb::AuthUserListRequest {});
        refused(client.auth().user_list(list).await, code, text);
        let list = somebody.asks(pb::AuthRoleListRequest {});
        refused(client.auth().role_list(list).await, code, text);
        let remove = somebody.asks(pb::MemberRemoveRequest { id: 1 });
        refused(client.cluster().member_remove(remove).await, code, text);
        let add = somebody.asks(pb::MemberAddRequest::default());
        refused(client.cluster().member_add(add).await, code, text);
        let defragment = somebody.asks(pb::DefragmentRequest {});
        refused(
            client.maintenance().defragment(defragment).await,
            code,
            text,
        );
        let hash = somebody.asks(pb::HashKvRequest { revision: 0 });
        refused(client.maintenance().hash_kv(hash).await, code, text);
        let transfer = somebody.asks(pb::MoveLeaderRequest { target_id: 1 });
        refused(client.maintenance().move_leader(transfer).await, code, text);
        let snapshot = somebody.asks(pb::SnapshotRequest {});
        refused(
            client.maintenance().snapshot(snapshot).await.map(drop),
            code,
            text,
        );
        let activate = somebody.asks(pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate.into(),
            ..Default::default()
        });
        refused(client.maintenance().alarm(activate).await, code, text);
    }
    // What every user may know.
    let own = alice.asks(pb::AuthUserGetRequest {
        name: "alice".to_owned(),
    });
    let roles = client
        .auth()
        .user_get(own)
        .await
        .unwrap()
        .into_inner()
        .roles;
    assert_eq!(roles, ["some"]);
    let role = |role: &str| pb::AuthRoleGetRequest {
        role: role.to_owned(),
    };
    let own = client.auth().role_get(alice.asks(role("some"))).await;
    assert_eq!(own.unwrap().into_inner().perm.len(), 4);
    denied(client.auth().role_get(alice.asks(role("root"))).await);
    refused(
        client.auth().role_get(root.asks(role("root"))).await,
        Code::FailedPrecondition,
        "role name not found",
    );
    root.add_role("root").await.unwrap();
    let all = client.auth().role_get(root.asks(role("root"))).await;
    let all = all.unwrap().into_inner().perm.remove(0);
    assert_eq!(
        (all.perm_type(), all.key.as_ref(), all.range_end.as_ref()),
        (Type::Readwrite, &b""[..], &b"\0"[..])
    );
    let alice = login(client, "alice", "ap").await;
    let list = || pb::MemberListRequest { linearizable: true };
    client
        .cluster()
        .member_list(alice.asks(list()))
        .await
        .unwrap();
    refused(client.cluster().member_list(list()).await, EMPTY.0, EMPTY.1);
    let status = alice.asks(pb::StatusRequest {});
    client.maintenance().status(status).await.unwrap();
    let alarms = alice.asks(pb::AlarmRequest::default());
    client.maintenance().alarm(alarms).await.unwrap();
    refused(
        client
            .maintenance()
            .alarm(pb::AlarmRequest::default())
            .await,
        EMPTY.0,
        EMPTY.1,
    );
    // Etcd falls over here; see its RoleGrantPermission.
    let nothing = root.asks(pb::AuthRoleGrantPermissionRequest {
        name: "some".to_owned(),
        perm: None,
    });
    refused(
        client.auth().role_grant_permission(nothing).await,
        Code::InvalidArgument,
        "permission not given",
    );
    single.member.store.shutdown().await;
}
