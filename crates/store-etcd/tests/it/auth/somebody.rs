//! Callers, and what they are told.

use tonic::{Code, Request};
use trivet_store_etcd::StoreConfig;
use trivet_store_etcd::client::Client;
use trivet_store_etcd::proto::authpb::{Permission, permission::Type};
use trivet_store_etcd::proto::etcdserverpb as pb;

use crate::kv::{get, prefix, put};
use crate::support::{Single, soon};

/// Somebody with a token, or nobody.
pub(super) struct Somebody<'a> {
    pub(super) client: &'a Client,
    pub(super) token: Option<String>,
}

pub(super) fn nobody(client: &Client) -> Somebody<'_> {
    Somebody {
        client,
        token: None,
    }
}

pub(super) async fn login<'a>(client: &'a Client, name: &str, password: &str) -> Somebody<'a> {
    let token = authenticate(client, name, password).await.unwrap();
    Somebody {
        client,
        token: Some(token),
    }
}

pub(super) async fn authenticate(
    client: &Client,
    name: &str,
    password: &str,
) -> Result<String, tonic::Status> {
    let request = pb::AuthenticateRequest {
        name: name.to_owned(),
        password: password.to_owned(),
    };
    let answer = soon(client.auth().authenticate(request)).await?;
    Ok(answer.into_inner().token)
}

impl Somebody<'_> {
    pub(super) fn on<'a>(&self, client: &'a Client) -> Somebody<'a> {
        Somebody {
            client,
            token: self.token.clone(),
        }
    }

    pub(super) fn asks<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request
                .metadata_mut()
                .insert("token", token.parse().unwrap());
        }
        request
    }

    pub(super) async fn put(&self, key: &'static str) -> Result<(), tonic::Status> {
        self.client.kv().put(self.asks(put(key, "v"))).await?;
        Ok(())
    }

    pub(super) async fn get(&self, key: &'static str) -> Result<usize, tonic::Status> {
        let answer = self.client.kv().range(self.asks(get(key))).await?;
        Ok(answer.into_inner().kvs.len())
    }

    pub(super) async fn list(
        &self,
        key: &'static str,
        end: &'static str,
    ) -> Result<usize, tonic::Status> {
        let answer = self.client.kv().range(self.asks(prefix(key, end))).await?;
        Ok(answer.into_inner().kvs.len())
    }

    pub(super) async fn add_user(&self, name: &str, password: &str) -> Result<(), tonic::Status> {
        let request = pb::AuthUserAddRequest {
            name: name.to_owned(),
            password: password.to_owned(),
            ..Default::default()
        };
        self.client.auth().user_add(self.asks(request)).await?;
        Ok(())
    }

    pub(super) async fn add_role(&self, name: &str) -> Result<(), tonic::Status> {
        let name = name.to_owned();
        let request = pb::AuthRoleAddRequest { name };
        self.client.auth().role_add(self.asks(request)).await?;
        Ok(())
    }

    pub(super) async fn grant_role(&self, user: &str, role: &str) -> Result<(), tonic::Status> {
        let request = pb::AuthUserGrantRoleRequest {
            user: user.to_owned(),
            role: role.to_owned(),
        };
        self.client
            .auth()
            .user_grant_role(self.asks(request))
            .await?;
        Ok(())
    }

    pub(super) async fn permit(
        &self,
        role: &str,
        kind: Type,
        key: &'static str,
        range_end: &'static str,
    ) -> Result<(), tonic::Status> {
        let request = pb::AuthRoleGrantPermissionRequest {
            name: role.to_owned(),
            perm: Some(Permission {
                perm_type: kind.into(),
                key: key.into(),
                range_end: range_end.into(),
            }),
        };
        self.client
            .auth()
            .role_grant_permission(self.asks(request))
            .await?;
        Ok(())
    }

    pub(super) async fn change_password(
        &self,
        name: &str,
        password: &str,
    ) -> Result<(), tonic::Status> {
        let request = pb::AuthUserChangePasswordRequest {
            name: name.to_owned(),
            password: password.to_owned(),
            ..Default::default()
        };
        self.client
            .auth()
            .user_change_password(self.asks(request))
            .await?;
        Ok(())
    }

    pub(super) async fn enable(&self) -> Result<(), tonic::Status> {
        let request = self.asks(pb::AuthEnableRequest {});
        self.client.auth().auth_enable(request).await?;
        Ok(())
    }

    pub(super) async fn disable(&self) -> Result<(), tonic::Status> {
        let request = self.asks(pb::AuthDisableRequest {});
        self.client.auth().auth_disable(request).await?;
        Ok(())
    }

    pub(super) async fn status(&self) -> Result<(bool, u64), tonic::Status> {
        let request = self.asks(pb::AuthStatusRequest {});
        let status = self.client.auth().auth_status(request).await?.into_inner();
        Ok((status.enabled, status.auth_revision))
    }

    /// The reason why a watch is refused; none for one that is not.
    pub(super) async fn watch(&self, key: &'static str, range_end: &'static str) -> String {
        let create = pb::WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            ..Default::default()
        };
        let create = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
        };
        let (send, requests) = tokio::sync::mpsc::channel(1);
        send.send(create).await.unwrap();
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let mut stream = self
            .client
            .watch()
            .watch(self.asks(requests))
            .await
            .unwrap()
            .into_inner();
        let created = soon(stream.message()).await.unwrap().unwrap();
        assert!(created.created);
        let refused = !created.cancel_reason.is_empty();
        assert_eq!(
            (created.canceled, created.watch_id == -1),
            (refused, refused)
        );
        created.cancel_reason
    }
}

/// `root` with the password `rp`, and `alice` with `ap` who may read and write `a` to `c`, write
/// `w`, and read `r`; enabled.
pub(super) async fn populate(client: &Client) {
    let admin = nobody(client);
    admin.add_user("root", "rp").await.unwrap();
    admin.grant_role("root", "root").await.unwrap();
    admin.add_user("alice", "ap").await.unwrap();
    admin.add_role("some").await.unwrap();
    for (kind, key, end) in [
        (Type::Readwrite, "a", "b"),
        (Type::Readwrite, "b", "c"),
        (Type::Write, "w", ""),
        (Type::Read, "r", ""),
    ] {
        admin.permit("some", kind, key, end).await.unwrap();
    }
    admin.grant_role("alice", "some").await.unwrap();
    admin.enable().await.unwrap();
}

pub(super) fn quick(mut config: StoreConfig) -> StoreConfig {
    config.auth.bcrypt_cost = 4;
    config
}

pub(super) async fn single() -> Single {
    Single::start_with(quick).await
}

#[track_caller]
pub(super) fn refused<T: std::fmt::Debug>(
    outcome: Result<T, tonic::Status>,
    code: Code,
    text: &str,
) {
    let status = outcome.expect_err("it must be refused");
    assert_eq!(
        (status.code(), status.message()),
        (code, format!("etcdserver: {text}").as_str())
    );
}

#[track_caller]
pub(super) fn denied<T: std::fmt::Debug>(outcome: Result<T, tonic::Status>) {
    refused(outcome, Code::PermissionDenied, "permission denied");
}

pub(super) const EMPTY: (Code, &str) = (Code::InvalidArgument, "user name is empty");
pub(super) const INVALID_TOKEN: (Code, &str) = (Code::Unauthenticated, "invalid auth token");
