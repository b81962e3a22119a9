//! Users, roles, permissions: what the commands are applied to.

use std::collections::BTreeMap;

use crate::command::Applied;
use crate::role::Role;
use crate::span::KeySet;
use crate::user::User;
use crate::{
    AuthAnswer, AuthCommand, AuthError, Caller, Need, PasswordHash, Permission, TokenChange,
};

/// Name of the user without which nothing is enabled, and of the role that may do everything.
pub const ROOT: &str = "root";

/// No more than this is kept; it is copied with every change.
pub const MAX_STATE_BYTES: usize = 64 << 20;

/// All users, roles and permissions. A clone is as large as the original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthState {
    pub(crate) enabled: bool,
    pub(crate) revision: u64,
    pub(crate) users: BTreeMap<String, User>,
    pub(crate) roles: BTreeMap<String, Role>,
    /// What the roles of each user come to. Follows from the rest.
    rights: BTreeMap<String, Rights>,
    /// Rough size of the rest.
    size_bytes: usize,
}

/// What a user may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rights {
    root: bool,
    read: KeySet,
    write: KeySet,
}

impl Default for AuthState {
    fn default() -> Self {
        Self {
            enabled: false,
            revision: 1,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            rights: BTreeMap::new(),
            size_bytes: 0,
        }
    }
}

impl AuthState {
    /// Puts a state together again.
    pub(crate) fn from_parts(
        enabled: bool,
        revision: u64,
        users: BTreeMap<String, User>,
        roles: BTreeMap<String, Role>,
    ) -> Self {
        let size_bytes = users
            .iter()
            .map(|(name, user)| user.size_bytes(name))
            .chain(roles.iter().map(|(name, role)| role.size_bytes(name)))
            .sum();
        let mut state = Self {
            enabled,
            revision,
            users,
            roles,
            rights: BTreeMap::new(),
            size_bytes,
        };
        let names: Vec<String> = state.users.keys().cloned().collect();
        for name in names {
            state.refresh(&name);
        }
        state
    }

    /// Whether callers must be known and permitted.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Counts the changes; 1 at first.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Names of all users, in order.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// Names of all roles, in order.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// The roles of a user, in order.
    pub fn user_roles(&self, user: &str) -> Option<impl Iterator<Item = &str>> {
        let user = self.users.get(user)?;
        Some(user.roles.iter().map(String::as_str))
    }

    /// What is kept of a user's password: nothing for a user without one.
    #[must_use]
    pub fn user_password(&self, user: &str) -> Option<Option<&PasswordHash>> {
        Some(self.users.get(user)?.password.as_ref())
    }

    /// The permissions of a role, in order of their first keys.
    #[must_use]
    pub fn role_permissions(&self, role: &str) -> Option<&[Permission]> {
        Some(&self.roles.get(role)?.permissions)
    }

    /// Whether a caller may do something now.
    pub fn check(&self, caller: &Caller, need: Need<'_>) -> Result<(), AuthError> {
        if !self.enabled {
            return Ok(());
        }
        let (name, auth_revision) = match caller {
            Caller::Root => return Ok(()),
            Caller::Anonymous => return Err(AuthError::UserEmpty),
            Caller::User { name, .. } if name.is_empty() => return Err(AuthError::UserEmpty),
            Caller::User {
                name,
                auth_revision,
            } => (name, *auth_revision),
        };
        if matches!(need, Need::Read(_) | Need::Write(_)) && auth_revision < self.revision {
            return Err(AuthError::OldRevision);
        }
        let rights = self.rights.get(name).ok_or(AuthError::Denied)?;
        let allowed = rights.root
            || match need {
                Need::Read(span) => rights.read.covers(span),
                Need::Write(span) => rights.write.covers(span),
                Need::User => true,
                Need::Admin => false,
                Need::UserInfo(user) => user == name,
                Need::RoleInfo(role) => self
                    .users
                    .get(name)
                    .is_some_and(|user| user.roles.contains(role)),
            };
        if allowed {
            Ok(())
        } else {
            Err(AuthError::Denied)
        }
    }

    /// Applies a command. One that is refused changes nothing.
    pub fn apply(&mut self, command: AuthCommand) -> Applied {
        let tokens = match command {
            AuthCommand::Enable => self.enable()?,
            AuthCommand::Disable => self.disable(),
            AuthCommand::Authenticate { .. } => return self.authenticate(command),
            AuthCommand::UserAdd { user, password } => self.add_user(&user, password)?,
            AuthCommand::UserDelete { user } => self.delete_user(user)?,
            AuthCommand::UserChangePassword { user, password } => {
                self.change_password(user, password)?
            }
            AuthCommand::UserGrantRole { user, role } => self.grant_role(&user, role)?,
            AuthCommand::UserRevokeRole { user, role } => self.revoke_role(&user, &role)?,
            AuthCommand::RoleAdd { role } => self.add_role(role)?,
            AuthCommand::RoleDelete { role } => self.delete_role(&role)?,
            AuthCommand::RoleGrantPermission { role, permission } => {
                self.grant_permission(&role, permission)?
            }
            AuthCommand::RoleRevokePermission {
                role,
                key,
                range_end,
            } => self.revoke_permission(&role, &key, &range_end)?,
        };
        Ok((AuthAnswer::Done, tokens))
    }

    fn enable(&mut self) -> Result<TokenChange, AuthError> {
        if !self.enabled {
            let root = self.users.get(ROOT).ok_or(AuthError::RootUserMissing)?;
            if !root.roles.contains(ROOT) {
                return Err(AuthError::RootRoleMissing);
            }
            self.enabled = true;
        }
        Ok(TokenChange::None)
    }

    fn disable(&mut self) -> TokenChange {
        if !self.enabled {
            return TokenChange::None;
        }
        self.enabled = false;
        self.revision += 1;
        TokenChange::ForgetAll
    }

    /// Applies [`AuthCommand::Authenticate`], which changes nothing here.
    ///
    /// # Errors
    /// Any other command is [`AuthError::Malformed`].
    pub fn authenticate(&self, command: AuthCommand) -> Applied {
        let AuthCommand::Authenticate {
            user,
            token_prefix: prefix,
        } = command
        else {
            return Err(AuthError::Malformed);
        };
        if !self.enabled {
            return Err(AuthError::NotEnabled);
        }
        // The password was right a moment ago; the user may be gone since.
        if self.user_password(&user).flatten().is_none() {
            return Err(AuthError::Failed);
        }
        let answer = AuthAnswer::Authenticated {
            auth_revision: self.revision,
        };
        let tokens = if prefix.is_empty() {
            TokenChange::None
        } else {
            TokenChange::Assign { user, prefix }
        };
        Ok((answer, tokens))
    }

    fn add_user(
        &mut self,
        name: &str,
        password: Option<PasswordHash>,
    ) -> Result<TokenChange, AuthError> {
        if name.is_empty() {
            return Err(AuthError::UserEmpty);
        }
        if self.users.contains_key(name) {
            return Err(AuthError::UserExists);
        }
        let user = User {
            password,
            roles: Default::default(),
        };
        self.resize(0, user.size_bytes(name))?;
        self.users.insert(name.to_owned(), user);
        self.refresh(name);
        self.revision += 1;
        Ok(TokenChange::None)
    }

    fn delete_user(&mut self, name: String) -> Result<TokenChange, AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        let user = self.users.remove(&name).ok_or(AuthError::UserNotFound)?;
        self.resize(user.size_bytes(&name), 0)?;
        self.rights.remove(&name);
        self.revision += 1;
        Ok(TokenChange::ForgetUser(name))
    }

    fn change_password(
        &mut self,
        name: String,
        password: PasswordHash,
    ) -> Result<TokenChange, AuthError> {
        self.change_user(&name, |user| {
            // One without a password stays so, as in etcd.
            if user.password.is_some() {
                user.password = Some(password);
            }
            Ok(())
        })?;
        Ok(TokenChange::ForgetUser(name))
    }

    fn grant_role(&mut self, name: &str, role: String) -> Result<TokenChange, AuthError> {
        let user = self.users.get(name).ok_or(AuthError::UserNotFound)?;
        // The role of that name is built in.
        if role != ROOT && !self.roles.contains_key(&role) {
            return Err(AuthError::RoleNotFound);
        }
        if !user.roles.contains(&role) {
            self.change_user(name, |user| {
                user.roles.insert(role);
                Ok(())
            })?;
        }
        Ok(TokenChange::None)
    }

    fn revoke_role(&mut self, name: &str, role: &str) -> Result<TokenChange, AuthError> {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        self.change_user(name, |user| {
            if user.roles.remove(role) {
                Ok(())
            } else {
                Err(AuthError::RoleNotGranted)
            }
        })?;
        Ok(TokenChange::None)
    }

    fn add_role(&mut self, name: String) -> Result<TokenChange, AuthError> {
        if name.is_empty() {
            return Err(AuthError::RoleEmpty);
        }
        if self.roles.contains_key(&name) {
            return Err(AuthError::RoleExists);
        }
        let role = Role::default();
        self.resize(0, role.size_bytes(&name))?;
        self.roles.insert(name, role);
        self.revision += 1;
        Ok(TokenChange::None)
    }

    fn delete_role(&mut self, name: &str) -> Result<TokenChange, AuthError> {
        if self.enabled && name == ROOT {
            return Err(AuthError::InvalidManagement);
        }
        let role = self.roles.remove(name).ok_or(AuthError::RoleNotFound)?;
        self.resize(role.size_bytes(name), 0)?;
        for user in self.users_with(name) {
            if let Some(found) = self.users.get_mut(&user) {
                let before = found.size_bytes(&user);
                found.roles.remove(name);
                let after = found.size_bytes(&user);
                self.resize(before, after)?;
            }
            self.refresh(&user);
        }
        self.revision += 1;
        Ok(TokenChange::None)
    }

    fn grant_permission(
        &mut self,
        name: &str,
        permission: Permission,
    ) -> Result<TokenChange, AuthError> {
        self.change_role(name, |role| {
            role.grant(permission);
            Ok(())
        })
    }

    fn revoke_permission(
        &mut self,
        name: &str,
        key: &[u8],
        range_end: &[u8],
    ) -> Result<TokenChange, AuthError> {
        self.change_role(name, |role| {
            if role.revoke(key, range_end) {
                Ok(())
            } else {
                Err(AuthError::PermissionNotGranted)
            }
        })
    }

    fn change_user(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut User) -> Result<(), AuthError>,
    ) -> Result<(), AuthError> {
        let mut user = self.users.get(name).ok_or(AuthError::UserNotFound)?.clone();
        let before = user.size_bytes(name);
        change(&mut user)?;
        self.resize(before, user.size_bytes(name))?;
        self.users.insert(name.to_owned(), user);
        self.refresh(name);
        self.revision += 1;
        Ok(())
    }

    fn change_role(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut Role) -> Result<(), AuthError>,
    ) -> Result<TokenChange, AuthError> {
        let mut role = self.roles.get(name).ok_or(AuthError::RoleNotFound)?.clone();
        let before = role.size_bytes(name);
        change(&mut role)?;
        self.resize(before, role.size_bytes(name))?;
        self.roles.insert(name.to_owned(), role);
        for user in self.users_with(name) {
            self.refresh(&user);
        }
        self.revision += 1;
        Ok(TokenChange::None)
    }

    fn users_with(&self, role: &str) -> Vec<String> {
        self.users
            .iter()
            .filter(|(_, user)| user.roles.contains(role))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Notes that something takes other room than before, if there is that much.
    fn resize(&mut self, before: usize, after: usize) -> Result<(), AuthError> {
        let size = self.size_bytes - before + after;
        if after > before && size > MAX_STATE_BYTES {
            return Err(AuthError::TooLarge);
        }
        self.size_bytes = size;
        Ok(())
    }

    /// Works out anew what a user may do.
    fn refresh(&mut self, name: &str) {
        let Some(user) = self.users.get(name) else {
            self.rights.remove(name);
            return;
        };
        let permissions = || {
            user.roles
                .iter()
                .filter_map(|role| self.roles.get(role))
                .flat_map(|role| &role.permissions)
        };
        let spans = |wanted: fn(crate::Access) -> bool| {
            KeySet::union(
                permissions()
                    .filter(|permission| wanted(permission.access))
                    .map(Permission::span),
            )
        };
        let rights = Rights {
            root: user.roles.contains(ROOT),
            read: spans(crate::Access::reads),
            write: spans(crate::Access::writes),
        };
        self.rights.insert(name.to_owned(), rights);
    }
}
