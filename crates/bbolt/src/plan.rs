//! The first pass: where everything will lie.

use crate::layout::{BUCKET_HEADER, ELEMENT_BUCKET, FIRST_TREE_PAGE, PAGE_BYTES};
use crate::pack::{Misfit, Packer};

/// Why there can be no such file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Buckets and the keys in them come in ascending order.
    #[error("the key or bucket is not greater than the one before it")]
    Order,
    /// Keys are 1 byte to 32 KiB long, values below 2 GiB.
    #[error("the key or value is too large, or the key is empty")]
    Size,
    /// An entry came before the first bucket.
    #[error("the entry is in no bucket")]
    NoBucket,
}

impl From<Misfit> for PlanError {
    fn from(misfit: Misfit) -> Self {
        match misfit {
            Misfit::Order => Self::Order,
            Misfit::Size => Self::Size,
        }
    }
}

/// Where the trees of a file lie, and how long it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Every bucket with its root page, in order.
    pub(crate) buckets: Vec<(Vec<u8>, u64)>,
    /// Root page of the tree of buckets.
    pub(crate) root: u64,
    /// Number of pages of the file.
    pub(crate) pages: u64,
}

impl Plan {
    /// Length of the file.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }
}

/// Learns the sizes of all entries and makes a [`Plan`].
#[derive(Debug)]
pub struct Planner {
    buckets: Vec<(Vec<u8>, u64)>,
    open: Option<(Vec<u8>, Packer)>,
    next_page: u64,
}

impl Default for Planner {
    fn default() -> Self {
        Self::new()
    }
}

impl Planner {
    /// A file without buckets.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buckets: Vec::new(),
            open: None,
            next_page: FIRST_TREE_PAGE,
        }
    }

    /// Begins the next bucket.
    pub fn bucket(&mut self, name: &[u8]) -> Result<(), PlanError> {
        self.close();
        if self
            .buckets
            .last()
            .is_some_and(|(last, _)| &last[..] >= name)
        {
            return Err(PlanError::Order);
        }
        if name.is_empty() {
            return Err(PlanError::Size);
        }
        self.open = Some((name.to_vec(), Packer::new(self.next_page)));
        Ok(())
    }

    /// The next entry of the bucket.
    pub fn entry(&mut self, key: &[u8], value_bytes: usize) -> Result<(), PlanError> {
        let (_, packer) = self.open.as_mut().ok_or(PlanError::NoBucket)?;
        Ok(packer.push(0, key, value_bytes, &[], None)?)
    }

    /// The plan.
    pub fn finish(mut self) -> Result<Plan, PlanError> {
        self.close();
        let mut top = Packer::new(self.next_page);
        for (name, _) in &self.buckets {
            top.push(ELEMENT_BUCKET, name, BUCKET_HEADER, &[], None)?;
        }
        let (root, pages) = top.finish(None);
        Ok(Plan {
            buckets: self.buckets,
            root,
            pages,
        })
    }

    fn close(&mut self) {
        if let Some((name, packer)) = self.open.take() {
            let (root, next) = packer.finish(None);
            self.buckets.push((name, root));
            self.next_page = next;
        }
    }
}
