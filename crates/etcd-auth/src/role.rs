//! Roles: lists of permissions.

use bytes::Bytes;

use crate::KeySpan;

/// What a permission allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading and watching.
    Read,
    /// Writing and deleting.
    Write,
    /// Both.
    ReadWrite,
}

impl Access {
    pub(crate) fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    pub(crate) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::ReadWrite)
    }
}

/// What may be done with the keys of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// What.
    pub access: Access,
    /// The first key.
    pub key: Bytes,
    /// The end of the range as it came: empty for one key, a zero byte for all that follow.
    pub range_end: Bytes,
}

impl Permission {
    pub(crate) fn span(&self) -> KeySpan<'_> {
        KeySpan::from_wire(&self.key, &self.range_end)
    }

    fn is_for(&self, key: &[u8], range_end: &[u8]) -> bool {
        self.key == key && self.range_end == range_end
    }
}

/// Permissions in order of their first key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Role {
    pub(crate) permissions: Vec<Permission>,
}

impl Role {
    /// Adds a permission, or changes the one for exactly this range.
    pub(crate) fn grant(&mut self, permission: Permission) {
        let same = self
            .permissions
            .iter_mut()
            .find(|have| have.is_for(&permission.key, &permission.range_end));
        if let Some(same) = same {
            same.access = permission.access;
            return;
        }
        let place = self
            .permissions
            .partition_point(|have| have.key <= permission.key);
        self.permissions.insert(place, permission);
    }

    /// Takes back the permission for exactly this range; whether there was one.
    pub(crate) fn revoke(&mut self, key: &[u8], range_end: &[u8]) -> bool {
        let before = self.permissions.len();
        self.permissions.retain(|have| !have.is_for(key, range_end));
        self.permissions.len() != before
    }

    /// Rough size in memory and on disk.
    pub(crate) fn size_bytes(&self, name: &str) -> usize {
        let permissions: usize = self
            .permissions
            .iter()
            .map(|permission| 16 + permission.key.len() + permission.range_end.len())
            .sum();
        16 + name.len() + permissions
    }
}
