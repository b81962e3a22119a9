//! Users, roles, permissions; giving out tokens.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status};
use trivet_datastore::Revision;
use trivet_etcd_auth::{
    Access, AuthAnswer, AuthCommand, AuthError, Caller, Need, PasswordHash, Permission, ROOT,
};

use crate::engine::{Engine, unexpected};
use crate::failure::Failure;
use crate::proto::authpb::{Permission as WirePermission, permission::Type};
use crate::proto::etcdserverpb as pb;
use crate::state;

/// How often a password is checked again because users and roles changed meanwhile.
const AUTHENTICATE_ATTEMPTS: usize = 20;

pub(crate) struct AuthService {
    engine: Arc<Engine>,
}

impl AuthService {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    /// Replicates a change in a caller's name.
    async fn execute(
        &self,
        caller: &Caller,
        command: &AuthCommand,
    ) -> Result<(Revision, AuthAnswer, u64), Failure> {
        let command = state::Command::Auth(command.encode());
        match self.engine.execute_as(caller, &command).await? {
            (revision, state::Response::Auth { answer, index }) => Ok((revision, answer, index)),
            (_, other) => Err(unexpected(&other)),
        }
    }

    /// Replicates a change that only administrators may make; the header of the answer.
    async fn change<T>(
        &self,
        request: &Request<T>,
        command: AuthCommand,
    ) -> Result<Option<pb::ResponseHeader>, Status>
    where
        T: Sync,
    {
        let caller = self.engine.caller(request).await?;
        let (revision, ..) = self.execute(&caller, &command).await?;
        Ok(Some(self.engine.header_at(revision)))
    }

    /// Sees to it that what is read is the newest, and that the caller may read it.
    async fn read<T>(&self, request: &Request<T>, need: Need<'_>) -> Result<(), Status>
    where
        T: Sync,
    {
        self.engine.barrier().await?;
        let caller = self.engine.caller(request).await?;
        Ok(self.engine.check(&caller, need)?)
    }

    /// Hashes a new password, for those who may set one: it takes long.
    async fn hash<T>(&self, request: &Request<T>, password: String) -> Result<PasswordHash, Status>
    where
        T: Sync,
    {
        if self.engine.shared.auth_enabled() {
            self.read(request, Need::Admin).await?;
        }
        Ok(self.engine.proofs.hash(password).await?)
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        Some(self.engine.header())
    }
}

#[tonic::async_trait]
impl pb::auth_server::Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        let header = self.change(&request, AuthCommand::Enable).await?;
        Ok(Response::new(pb::AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        let header = self.change(&request, AuthCommand::Disable).await?;
        Ok(Response::new(pb::AuthDisableResponse { header }))
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        self.read(&request, Need::Admin).await?;
        let auth = self.engine.shared.auth();
        Ok(Response::new(pb::AuthStatusResponse {
            header: self.header(),
            enabled: auth.enabled(),
            auth_revision: auth.revision(),
        }))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let pb::AuthenticateRequest { name, password } = request.into_inner();
        self.engine.barrier().await?;
        for _ in 0..AUTHENTICATE_ATTEMPTS {
            let checked = self.engine.check_password(&name, password.clone()).await?;
            let token_prefix = self.engine.proofs.token_prefix()?;
            let command = AuthCommand::Authenticate {
                user: name.clone(),
                token_prefix: token_prefix.clone(),
            };
            let (revision, answer, index) = self.execute(&Caller::Anonymous, &command).await?;
            let AuthAnswer::Authenticated { auth_revision } = answer else {
                return Err(Failure::Damaged(format!("unexpected answer {answer:?}")).into());
            };
            // The password may have been changed in between.
            if auth_revision == checked {
                let place = (auth_revision, index);
                return Ok(Response::new(pb::AuthenticateResponse {
                    header: Some(self.engine.header_at(revision)),
                    token: self.engine.token(&name, &token_prefix, place)?,
                }));
            }
            self.engine.barrier().await?;
        }
        Err(Failure::Auth(AuthError::OldRevision).into())
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        let message = request.get_ref();
        let password = if message.options.is_some_and(|options| options.no_password) {
            None
        } else {
            Some(self.hash(&request, message.password.clone()).await?)
        };
        let user = message.name.clone();
        let command = AuthCommand::UserAdd { user, password };
        let header = self.change(&request, command).await?;
        Ok(Response::new(pb::AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let name = &request.get_ref().name;
        self.read(&request, Need::UserInfo(name)).await?;
        let auth = self.engine.shared.auth();
        let roles = auth
            .user_roles(name)
            .ok_or(Failure::Auth(AuthError::UserNotFound))?;
        Ok(Response::new(pb::AuthUserGetResponse {
            header: self.header(),
            roles: roles.map(str::to_owned).collect(),
        }))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        self.read(&request, Need::Admin).await?;
        let auth = self.engine.shared.auth();
        Ok(Response::new(pb::AuthUserListResponse {
            header: self.header(),
            users: auth.users().map(str::to_owned).collect(),
        }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        let user = request.get_ref().name.clone();
        let command = AuthCommand::UserDelete { user };
        let header = self.change(&request, command).await?;
        Ok(Response::new(pb::AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        let message = request.get_ref();
        // As in etcd: an empty one takes the old one away, and nothing fits any more.
        let password = if message.password.is_empty() {
            PasswordHash::unusable()
        } else {
            self.hash(&request, message.password.clone()).await?
        };
        let user = message.name.clone();
        let command = AuthCommand::UserChangePassword { user, password };
        let header = self.change(&request, command).await?;
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        let pb::AuthUserGrantRoleRequest { user, role } = request.get_ref().clone();
        let command = AuthCommand::UserGrantRole { user, role };
        let header = self.change(&request, command).await?;
        Ok(Response::new(pb::AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        let pb::AuthUserRevokeRoleRequest { name, role } = request.get_ref().clone();
        let command = AuthCommand::UserRevokeRole { user: name, role };
        let header = self.change(&request, command).await?;
        Ok(Response::new(pb::AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        let role = request.get_ref().name.clone();
        let command = AuthCommand::RoleAdd { role };
        let header = self.change(&request, command).await?;
        Ok(Response::new(pb::AuthRoleAddResponse { header }))
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        let role = &request.get_ref().role;
        self.read(&request, Need::RoleInfo(role)).await?;
        let auth = self.engine.shared.auth();
        let permissions = auth
            .role_permissions(role)
            .ok_or(Failure::Auth(AuthError::RoleNotFound))?;
        let perm = if role == ROOT {
            // Whatever was granted to it beside that.
            vec![wire_permission(&Permission {
                access: Access::ReadWrite,
                key: Bytes::new(),
                range_end: Bytes::from_static(b"\0"),
            })]
        } else {
            permissions.iter().map(wire_permission).collect()
        };
        Ok(Response::new(pb::AuthRoleGetResponse {
            header: self.header(),
            perm,
        }))
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        self.read(&request, Need::Admin).await?;
        let auth = self.engine.shared.auth();
        Ok(Response::new(pb::AuthRoleListResponse {
            header: self.header(),
            roles: auth.roles().map(str::to_owned).collect(),
        }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        let role = request.get_ref().role.clone();
        let command = AuthCommand::RoleDelete { role };
        let header = self.change(&request, command).await?;
        Ok(Response::new(pb::AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        let pb::AuthRoleGrantPermissionRequest { name, perm } = request.get_ref().clone();
        let permission = permission(perm.ok_or(Failure::Auth(AuthError::PermissionNotGiven))?)?;
        let command = AuthCommand::RoleGrantPermission {
            role: name,
            permission,
        };
        let header = self.change(&request, command).await?;
        Ok(Response::new(pb::AuthRoleGrantPermissionResponse {
            header,
        }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        let pb::AuthRoleRevokePermissionRequest {
            role,
            key,
            range_end,
        } = request.get_ref().clone();
        let command = AuthCommand::RoleRevokePermission {
            role,
            key,
            range_end,
        };
        let header = self.change(&request, command).await?;
        Ok(Response::new(pb::AuthRoleRevokePermissionResponse {
            header,
        }))
    }
}

fn permission(wire: WirePermission) -> Result<Permission, Status> {
    Ok(Permission {
        access: match Type::try_from(wire.perm_type) {
            Ok(Type::Read) => Access::Read,
            Ok(Type::Write) => Access::Write,
            Ok(Type::Readwrite) => Access::ReadWrite,
            Err(_) => return Err(Failure::Auth(AuthError::PermissionNotGiven).into()),
        },
        key: wire.key,
        range_end: wire.range_end,
    })
}

fn wire_permission(permission: &Permission) -> WirePermission {
    let perm_type = match permission.access {
        Access::Read => Type::Read,
        Access::Write => Type::Write,
        Access::ReadWrite => Type::Readwrite,
    };
    WirePermission {
        perm_type: perm_type.into(),
        key: permission.key.clone(),
        range_end: permission.range_end.clone(),
    }
}
