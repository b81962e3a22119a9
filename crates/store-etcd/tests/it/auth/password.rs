//! Enabling; passwords; the ways of a token.

use tonic::{Code, Request};
use trivet_datastore::Datastore;
use trivet_store_etcd::proto::authpb::UserAddOptions;
use trivet_store_etcd::proto::etcdserverpb as pb;

use super::somebody::{
    EMPTY, INVALID_TOKEN, Somebody, authenticate, login, nobody, populate, refused, single,
};
use crate::kv::get;

#[tokio::test]
async fn enabling_step_by_step() {
    let single = single().await;
    let anyone = nobody(single.client());
    let precondition = Code::FailedPrecondition;
    assert_eq!(anyone.status().await.unwrap(), (false, 1));
    refused(
        anyone.enable().await,
        precondition,
        "root user does not exist",
    );
    anyone.add_user("root", "rp").await.unwrap();
    refused(
        anyone.enable().await,
        precondition,
        "root user does not have root role",
    );
    refused(
        authenticate(single.client(), "root", "rp").await,
        precondition,
        "authentication is not enabled",
    );
    anyone.grant_role("root", "root").await.unwrap();
    anyone.enable().await.unwrap();
    refused(anyone.enable().await, EMPTY.0, EMPTY.1);
    refused(anyone.status().await, EMPTY.0, EMPTY.1);
    refused(anyone.put("k").await, EMPTY.0, EMPTY.1);
    refused(anyone.get("k").await, EMPTY.0, EMPTY.1);
    let root = login(single.client(), "root", "rp").await;
    assert_eq!(root.status().await.unwrap(), (true, 3));
    root.put("k").await.unwrap();
    root.enable().await.unwrap();
    root.disable().await.unwrap();
    anyone.put("k").await.unwrap();
    // A token is no hindrance where none is asked for.
    root.put("k").await.unwrap();
    assert_eq!(anyone.status().await.unwrap(), (false, 4));
    anyone.enable().await.unwrap();
    refused(root.put("k").await, INVALID_TOKEN.0, INVALID_TOKEN.1);
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn passwords_are_right_or_wrong() {
    let single = single().await;
    let client = single.client();
    populate(client).await;
    let root = login(client, "root", "rp").await;
    let wrong = "authentication failed, invalid user ID or password";
    for (name, password) in [
        ("alice", "wrong"),
        ("alice", ""),
        ("nobody", "ap"),
        ("", ""),
    ] {
        let outcome = authenticate(client, name, password).await;
        refused(outcome, Code::InvalidArgument, wrong);
    }
    let without = pb::AuthUserAddRequest {
        name: "certificate".to_owned(),
        options: Some(UserAddOptions { no_password: true }),
        ..Default::default()
    };
    client.auth().user_add(root.asks(without)).await.unwrap();
    let status = authenticate(client, "certificate", "").await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::Unknown,
            "auth: authentication failed, password was given for no password user"
        )
    );
    let status = root.add_user("long", &"x".repeat(73)).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unknown, "bcrypt: password length exceeds 72 bytes")
    );
    // A new password voids the old one and the tokens it got.
    let alice = login(client, "alice", "ap").await;
    alice.put("a").await.unwrap();
    root.change_password("alice", "new").await.unwrap();
    refused(alice.put("a").await, INVALID_TOKEN.0, INVALID_TOKEN.1);
    refused(
        authenticate(client, "alice", "ap").await,
        Code::InvalidArgument,
        wrong,
    );
    login(client, "alice", "new").await.put("a").await.unwrap();
    // No password at all lets nobody in.
    root.change_password("alice", "").await.unwrap();
    for password in ["", "new"] {
        let outcome = authenticate(client, "alice", password).await;
        refused(outcome, Code::InvalidArgument, wrong);
    }
    single.member.store.shutdown().await;
}

#[tokio::test]
async fn a_token_is_told_in_three_ways() {
    let single = single().await;
    let client = single.client();
    populate(client).await;
    let token = authenticate(client, "alice", "ap").await.unwrap();
    let (letters, index) = token.split_once('.').unwrap();
    assert!(letters.len() == 16 && letters.bytes().all(|byte| byte.is_ascii_alphabetic()));
    assert!(index.parse::<u64>().unwrap() > 0);
    for (name, value) in [
        ("token", token.clone()),
        ("authorization", token.clone()),
        ("authorization", format!("Bearer {token}")),
        ("token", format!("Bearer {token}")),
    ] {
        let mut request = Request::new(get("a"));
        request.metadata_mut().insert(name, value.parse().unwrap());
        client.kv().range(request).await.unwrap();
    }
    let far = format!("{letters}.999999999");
    for odd in [
        "",
        "x",
        "x.y",
        "Bearer",
        &token[1..],
        &far,
        &"x".repeat(9000),
    ] {
        let somebody = Somebody {
            client,
            token: Some(odd.to_owned()),
        };
        refused(somebody.get("a").await, INVALID_TOKEN.0, INVALID_TOKEN.1);
        refused(somebody.put("a").await, INVALID_TOKEN.0, INVALID_TOKEN.1);
        assert_eq!(
            somebody.watch("a", "").await,
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
        );
    }
    single.member.store.shutdown().await;
}
